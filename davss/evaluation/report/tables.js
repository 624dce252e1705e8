// Tables are sorted by the column whose head is pressed: numbers from the highest on, words from A
// on, and the other way round at the next press.
{
  const COLLATOR = new Intl.Collator("en");
  // Of `4.0 → 9.0 ± 1.1` the 9.0: what an arrow leads to, without its interval.
  const valueOf = (cell) => {
    const text = cell.textContent.replaceAll("−", "-").replaceAll(",", "").trim();
    const number = parseFloat(text.slice(text.indexOf("→") + 1));
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => {
    const [x, y] = [typeof a === "number", typeof b === "number"];
    return x && y ? b - a : x === y ? COLLATOR.compare(a, b) : y - x; // words after numbers
  };

  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const again = head.getAttribute("aria-sort") === "descending";
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", again ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => compare(valueOf(a.cells[column]), valueOf(b.cells[column])) * (again ? -1 : 1));
        table.tBodies[0].append(...rows);
      });
    });
  }
}
