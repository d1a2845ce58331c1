(() => {
  const section = document.getElementById("rows");
  const bodies = section ? [...section.querySelectorAll("tbody")] : [];
  const rows = bodies.flatMap((body) => [...body.rows]);
  if (rows.length < 2) return;
  const sizes = bodies.map((body) => body.rows.length);
  const texts = rows.map((row) =>
    [...row.querySelectorAll(".word")].map((cell) => `${cell.textContent} ${cell.title}`).join(" ").toLowerCase());
  const tools = section.querySelector(".tools");
  const box = tools.querySelector("input");
  const count = tools.querySelector("output");
  const order = rows.map((_, i) => i);
  const value = (i, column) => {
    const cell = rows[i].cells[column];
    if (cell.classList.contains("word")) return cell.textContent.toLowerCase();
    const number = parseFloat(cell.dataset.v ?? cell.textContent.replaceAll(",", ""));
    return Number.isNaN(number) ? null : number;
  };
  const show = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = order.filter((i) => words.every((word) => texts[i].includes(word)));
    let from = 0;
    bodies.forEach((body, k) => {
      const part = kept.slice(from, from + sizes[k]);
      from += sizes[k];
      body.replaceChildren(...part.map((i) => rows[i]));
      body.closest(".chunk")?.toggleAttribute("hidden", !part.length && k > 0);
    });
    count.textContent = words.length ? `${kept.length} of ${rows.length}` : "";
  };
  const heads = [...section.querySelectorAll("thead")].map((head) => [...head.rows[0].cells]);
  heads[0].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads[0].forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const values = rows.map((_, i) => value(i, column));
      order.sort((i, j) => {
        const [a, b] = [values[i], values[j]];
        if (a === null || b === null) return (a === null) - (b === null) || i - j;
        return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1) || i - j;
      });
      show();
    });
  });
  box.addEventListener("input", show);
  tools.hidden = rows.length < 8;
})();
