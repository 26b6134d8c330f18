// A button plays all videos of one sample together from the start; only the generated one has audio.
document.querySelectorAll("button[data-play]").forEach((button) => {
  const videos = document.querySelectorAll(`video[data-view="${button.dataset.play}"]`);
  const idle = button.textContent;
  button.addEventListener("click", () => {
    const start = videos[0].paused;
    videos.forEach((video) => {
      video.muted = video.dataset.name !== "generated";
      if (start) { video.currentTime = 0; video.play(); } else { video.pause(); }
    });
    button.textContent = start ? "Pause" : idle;
  });
});
