// Sorts tables of the class `sortable` by the column whose heading is pressed; numbers come from data-value.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    const value = (row, i) => {
      const cell = row.cells[i];
      const text = cell.textContent.trim();
      return cell.dataset.value !== undefined ? Number(cell.dataset.value) : text === "–" ? -Infinity : text;
    };
    headings.forEach((heading, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const largestFirst = heading.getAttribute("aria-sort") !== "descending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", largestFirst ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows].sort((a, b) => {
          const [x, y] = [value(a, i), value(b, i)];
          return (x < y ? -1 : x > y ? 1 : 0) * (largestFirst ? -1 : 1);
        });
        table.tBodies[0].append(...rows);
      });
    });
    if (table.classList.contains("choosable")) table.parentElement.before(chooser(table, headings));
  }
});

// Checkboxes that show and hide columns; those marked `data-later` are hidden at first.
function chooser(table, headings) {
  const box = document.createElement("details");
  box.className = "columns";
  box.innerHTML = "<summary>columns</summary>";
  headings.slice(1).forEach((heading, i) => {
    const [label, tick] = [document.createElement("label"), document.createElement("input")];
    const show = () => [...table.rows].forEach((row) => (row.cells[i + 1].hidden = !tick.checked));
    tick.type = "checkbox";
    tick.checked = !("later" in heading.dataset);
    tick.addEventListener("change", show);
    label.append(tick, " ", heading.textContent.trim());
    box.append(label);
    show();
  });
  return box;
}
