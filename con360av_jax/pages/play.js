// A button plays the films of one sample together, from their start, and only the generated one is heard.
document.querySelectorAll("button[data-play]").forEach((button) => {
  const films = document.querySelectorAll(`video[data-view="${button.dataset.play}"]`);
  const idle = button.textContent;
  button.addEventListener("click", () => {
    const start = films[0].paused;
    films.forEach((film) => {
      film.muted = film.dataset.name !== "generated";
      if (start) { film.currentTime = 0; film.play(); } else { film.pause(); }
    });
    button.textContent = start ? "Pause" : idle;
  });
});
