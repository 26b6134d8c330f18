// Tables that sort by column and filter their rows, and a dialog that plays the videos of a row.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const words = new Intl.Collator(undefined, { numeric: true });
  const value = (row, column, number) => {
    const text = row.cells[column].textContent.trim();
    if (!number) { return text; }
    const found = parseFloat(text.replace("−", "-").replaceAll(",", ""));
    return Number.isNaN(found) ? null : found;
  };
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const number = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const up = before === "none" ? !number : before === "descending";
    heads.filter((other) => other.hasAttribute("aria-sort")).forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => [value(row, column, number), row]);
    rows.sort(([one], [other]) => {
      if (one === null || other === null) { return (one === null) - (other === null); }
      const order = number ? one - other : words.compare(one, other);
      return up ? order : -order;
    });
    body.append(...rows.map(([, row]) => row));
  }));
  const card = table.closest(".card");
  const filter = card.querySelector("input[type=search]");
  filter?.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      const text = row.cells[0].textContent + " " + (row.querySelector(".caption")?.textContent ?? "");
      row.hidden = !text.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    card.querySelector("output").textContent = wanted ? `${shown} of ${body.rows.length} shown` : "";
  });
  const player = document.querySelector("dialog");
  player?.addEventListener("close", () => player.querySelector(".videos").replaceChildren());
  body.addEventListener("click", (event) => {
    const button = event.target.closest("button.play");
    if (!button || !player) { return; }
    const row = button.closest("tr");
    player.querySelector("h3").textContent = row.cells[0].textContent;
    player.querySelector("p").textContent = row.querySelector(".caption")?.textContent ?? "";
    player.querySelector(".videos").replaceChildren(...[...row.querySelectorAll("a[href]")].map((link, number) => {
      const figure = document.createElement("figure");
      const video = Object.assign(document.createElement("video"), { src: link.href, controls: true, loop: true, muted: number > 0 });
      const about = document.createElement("figcaption");
      about.textContent = link.textContent;
      figure.append(video, about);
      return figure;
    }));
    player.showModal();
    player.querySelectorAll("video").forEach((video) => video.play());
  });
});
