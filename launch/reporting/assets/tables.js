"use strict";
// Tabs, theme, sorting, the filter of the runs table.
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const shownListeners = {}; // tab -> what to do when it comes into view

function option(select, value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  select.append(made);
}

// ---- tabs; the address keeps which one is open: with a slash, or the browser would scroll to the part of that name
const tabs = [...document.querySelectorAll("[role=tab]")];
function open(name) {
  if (!tabs.some((tab) => tab.getAttribute("aria-controls") === name)) name = "leaderboard";
  for (const tab of tabs) {
    const own = tab.getAttribute("aria-controls");
    tab.setAttribute("aria-selected", String(own === name));
    tab.tabIndex = own === name ? 0 : -1;
    by(own).hidden = own !== name;
  }
  if (shownListeners[name]) shownListeners[name]();
}
for (const tab of tabs) {
  tab.addEventListener("click", () => { location.hash = `/${tab.getAttribute("aria-controls")}`; });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}
const openAddressed = () => open(location.hash.slice(2));
window.addEventListener("hashchange", openAddressed);

// ---- theme: the reader's system decides until the button is pressed
const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  root.dataset.theme = name;
  document.dispatchEvent(new Event("theme"));
}
root.dataset.theme = dark.matches ? "dark" : "light";
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
by("theme").addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));

// ---- sorting: empty cells last either way
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.dataset.kind === "none") return;
    head.tabIndex = 0;
    const sort = () => {
      const numeric = head.dataset.kind === "number";
      const first = numeric ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? (numeric ? "ascending" : "descending") : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => (numeric ? row.cells[column].dataset.value : row.cells[column].textContent.trim());
      const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        return sign * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}

// ---- runs table
const runRows = [...by("run-table").tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
function filterRuns() {
  const words = by("run-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const [row, text] of runRows) {
    const fits = (!by("run-task").value || row.dataset.task === by("run-task").value)
      && (!by("run-status").value || row.dataset.status === by("run-status").value)
      && words.every((word) => text.includes(word));
    row.hidden = !fits;
    count += fits;
  }
  by("run-count").textContent = `${count} of ${runRows.length} runs`;
}
for (const id of ["run-text", "run-task", "run-status"]) by(id).addEventListener("input", filterRuns);
filterRuns();
by("run-table").addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.command);
    button.textContent = "copied";
  } catch { // a browser that keeps its clipboard from files: show it, to be copied by hand
    window.prompt("The command:", button.dataset.command);
  }
});
