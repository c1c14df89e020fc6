"use strict";

const byId = (id) => document.getElementById(id);
const make = (name, properties = {}, children = []) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
const attributes = (element, values) => {
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  return element;
};

// Light and dark. A page opened as a file may have no storage: then the choice lasts until it is closed.
function theme() {
  const kept = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("lensbench-theme") || "";
      localStorage.setItem("lensbench-theme", value);
    } catch { /* no storage */ }
    return value || "";
  };
  const select = make("select", { id: "theme" }, [
    new Option("as the system", ""), new Option("light", "light"), new Option("dark", "dark"),
  ]);
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
  };
  select.value = kept();
  if (select.selectedIndex < 0) select.value = "";
  select.addEventListener("change", () => { kept(select.value); apply(); });
  byId("theme-place").append(make("label", {}, ["Colors ", select]));
  apply();
}

// Tables: once by the column, twice the other way round, three times as it was. What is missing stays last.
function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.querySelectorAll("th[data-sort]")];
  const value = (row, place, numeric) => {
    const told = row.cells[place].dataset.value;
    if (told === undefined || told === "") return null;
    return numeric ? Number(told) : told;
  };
  heads.forEach((head, place) => {
    const told = original.map((row) => row.cells[place].dataset.value).filter((v) => v !== undefined && v !== "");
    const numeric = told.length > 0 && told.every((v) => Number.isFinite(Number(v)));
    const button = make("button", { type: "button", textContent: head.textContent, title: `Sort by ${head.dataset.name}` });
    head.replaceChildren(button);
    const first = numeric && head.dataset.sort === "number" ? "descending" : "ascending";
    const second = first === "descending" ? "ascending" : "descending";
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === null ? first : now === first ? second : null;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      table.toggleAttribute("data-sorted", next !== null);
      if (next === null) return body.append(...original);
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en");
      const keyed = original.map((row, i) => ({ row, i, key: value(row, place, numeric) }));
      keyed.sort((a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.i - b.i;
        return sign * compare(a.key, b.key) || a.i - b.i;
      });
      body.append(...keyed.map((entry) => entry.row));
    });
  });
}

document.documentElement.classList.add("js");
theme();
for (const table of document.querySelectorAll("table.sortable")) sortable(table);
const data = JSON.parse(byId("data").textContent);
if (byId("comparer")) comparer(data, JSON.parse(byId("sheets").textContent));
