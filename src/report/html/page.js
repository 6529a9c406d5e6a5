"use strict";
// Numbers sort as numbers; what is no number comes last in both directions.
for (const table of document.querySelectorAll("table:not(.heat)")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      if (cell.classList.contains("t")) return cell.textContent;
      const number = parseFloat(cell.textContent);
      return Number.isNaN(number) ? null : number;
    };
    const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "string" ? a.localeCompare(b) : a - b;
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
const filter = document.getElementById("filter");
const status = document.getElementById("status");
const apply = () => {
  const wanted = filter.value.toLowerCase();
  let shown = 0;
  for (const row of document.getElementById("patients").tBodies[0].rows) {
    const text = [...row.querySelectorAll(".t")].map((cell) => cell.textContent).join(" ").toLowerCase();
    row.hidden = !text.includes(wanted) || (status.value !== "" && row.dataset.status !== status.value);
    shown += row.hidden ? 0 : 1;
  }
  document.getElementById("shown").textContent = shown;
};
filter.addEventListener("input", apply);
status.addEventListener("change", apply);
apply();
for (const viewer of document.querySelectorAll(".viewer")) {
  const pictures = [...viewer.querySelectorAll("img")];
  viewer.querySelector("input").addEventListener("input", (event) => {
    pictures.forEach((picture, index) => { picture.hidden = index !== Number(event.target.value); });
    viewer.querySelector("output").textContent = pictures[event.target.value].dataset.z;
  });
}
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.classList.contains("dark") ||
    (!root.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
  root.classList.toggle("dark", !dark);
  root.classList.toggle("light", dark);
});
