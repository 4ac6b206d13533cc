"use strict";
/* The strip and the table of affine nodes: sorting, filtering, and the way to the graph. */
bn.ready(() => {
  const strip = document.querySelector(".strip"), cells = [...strip.children];
  strip.classList.toggle("many", cells.length > 240);
  strip.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-entry]");
    if (cell) bn.chooseEntry(Number(cell.dataset.entry), "strip");
  });
  strip.addEventListener("keydown", (event) => {
    const at = cells.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: cells.length - 1 }[event.key];
    if (next === undefined || !cells[next]) return;
    event.preventDefault();
    cells[at].tabIndex = -1;
    cells[next].tabIndex = 0;
    cells[next].focus();
  });

  const table = document.getElementById("results");
  const rows = table ? [...table.tBodies[0].rows] : [];
  bn.listeners.push((chosen, by) => {
    for (const each of [...cells, ...rows]) each.classList.toggle("chosen", Number(each.dataset.entry) === chosen.entry);
    const row = rows.find((each) => Number(each.dataset.entry) === chosen.entry), frame = table && table.closest(".scroll");
    if (row && by !== "table") frame.scrollTop = row.offsetTop - frame.clientHeight / 2;
  });
  document.getElementById("download").onclick = () => {
    const blob = new Blob([document.getElementById("data").textContent], { type: "application/json" });
    const link = bn.el("a", { href: URL.createObjectURL(blob), download: "bnfold-report.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  if (!table) return;

  table.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    bn.chooseEntry(Number(row.dataset.entry), "table");
    if (!event.target.closest("a")) document.getElementById("network").scrollIntoView({ block: "start" });
  });

  const text = rows.map((row) => row.textContent.toLowerCase());
  const order = new Map(rows.map((row, number) => [row, number]));
  const filter = document.getElementById("filter"), result = document.getElementById("result"), count = document.getElementById("count");
  const sieve = () => {
    const words = filter.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const fits = words.every((word) => text[order.get(row)].includes(word)) && (!result.value || row.dataset.result === result.value);
      row.hidden = !fits;
      left += fits;
    }
    count.textContent = left === rows.length ? `${left} nodes` : `${left} of ${rows.length} nodes`;
  };
  filter.addEventListener("input", sieve);
  result.addEventListener("change", sieve);

  const key = (row, column) => {
    const cell = row.cells[column].textContent.trim();
    return row.cells[column].classList.contains("number") ? (cell === "" ? -1 : Number(cell)) : cell.toLowerCase();
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const title = head.textContent;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = [...rows].sort((a, b) => (compare(key(a, column), key(b, column)) || order.get(a) - order.get(b)) * (down ? -1 : 1));
      table.tBodies[0].append(...sorted);
    };
    head.replaceChildren(bn.el("button", { type: "button", onclick: sort }, title));
  });
});
