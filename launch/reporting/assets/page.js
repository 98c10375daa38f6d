"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);

function fill(select, options) { // options: [value, text]
  const kept = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => String(value) === kept)) select.value = kept;
}

function make(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

// ---- tabs; the address keeps which one is open: with a slash, or the browser would scroll to the part of that name
const tabs = [...document.querySelectorAll("[role=tab]")];
function openAddressed() {
  const opened = tabs.find((tab) => location.hash === `#/${tab.getAttribute("aria-controls")}`) || tabs[0];
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(tab === opened));
    tab.tabIndex = tab === opened ? 0 : -1;
    by(tab.getAttribute("aria-controls")).hidden = tab !== opened;
  }
  if (opened.id === "tab-leaderboard") draw("board", data.board);
  if (opened.id === "tab-tasks") drawTask();
}
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => { location.hash = `/${tab.getAttribute("aria-controls")}`; });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
});
window.addEventListener("hashchange", openAddressed);

// ---- theme: the reader's system decides until the button is pressed
const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function setTheme(isDark) {
  root.dataset.theme = isDark ? "dark" : "light";
  openAddressed();
}
dark.addEventListener("change", () => setTheme(dark.matches));
by("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

// ---- sorting: numbers from the highest, text from A, then the other way round; empty cells last either way
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const isNumber = head.dataset.kind === "number", orders = isNumber ? ["descending", "ascending"] : ["ascending", "descending"];
    const key = (row) => (isNumber ? row.cells[column].dataset.value : row.cells[column].textContent.trim());
    const sort = () => {
      const order = orders[Number(head.getAttribute("aria-sort") === orders[0])], sign = order === "ascending" ? 1 : -1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((one, other) => {
        const a = key(one), b = key(other);
        if (a === "" || b === "") return (a === "") - (b === "");
        return sign * (isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true }));
      }));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}

// ---- charts: drawn when they come into view, again when task, models or theme change
const SHOWN_FIRST = 4; // models that a task's charts begin with
const chosen = new Map(); // task -> rows shown
const task = () => data.tasks[by("task").value];

function draw(name, figure, isShown = () => true) { // isShown: whether the traces of a row are
  const place = by(`plot-${name}`), card = by(`figure-${name}`), nothing = card.querySelector(".nothing");
  card.hidden = !figure;
  if (!figure) return;
  const traces = figure.data.filter((trace) => isShown(trace.meta));
  card.querySelector("h2").textContent = figure.layout.meta;
  nothing.textContent = "no data for this";
  nothing.hidden = traces.length > 0;
  place.hidden = !traces.length;
  if (!traces.length) { Plotly.purge(place); return; }
  const layout = { ...figure.layout, template: data.themes[root.dataset.theme] };
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  Plotly.react(place, structuredClone({ data: traces, layout, config })); // Plotly writes into what it is given
}

function drawTask() {
  const { rows, figures, line } = task() || { rows: [], figures: {}, line: "No runs to show." };
  if (!chosen.has(task())) chosen.set(task(), new Set(rows.slice(0, SHOWN_FIRST)));
  const shown = chosen.get(task()), counts = figures.confusion ? figures.confusion.data : [];
  by("task-line").textContent = line;
  fill(by("confusion-model"), counts.map(({ meta }) => [meta, data.rows[meta]]));
  by("models").replaceChildren(...rows.map((row) => {
    const button = make("button", data.rows[row]);
    button.type = "button";
    button.style.setProperty("--chip", data.colors[row]);
    button.setAttribute("aria-pressed", String(shown.has(row)));
    button.addEventListener("click", () => {
      if (!shown.delete(row)) shown.add(row);
      drawTask();
      by("models").children[rows.indexOf(row)].focus();
    });
    return button;
  }));
  for (const { id } of document.querySelectorAll("#tasks figure")) {
    const name = id.replace("figure-", "");
    draw(name, figures[name], name === "confusion" ? (row) => String(row) === by("confusion-model").value : (row) => shown.has(row));
  }
}
fill(by("task"), data.tasks.map(({ title }, number) => [number, title]));
for (const id of ["task", "confusion-model"]) by(id).addEventListener("input", drawTask);

// ---- runs
const runRows = [...by("run-table").tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
function filterRuns() {
  const words = by("run-text").value.toLowerCase().split(/\s+/), wanted = by("run-task").value, status = by("run-status").value;
  for (const [row, text] of runRows) {
    row.hidden = !((!wanted || row.dataset.task === wanted) && (!status || row.dataset.status === status)
      && words.every((word) => text.includes(word)));
  }
  by("run-count").textContent = `${runRows.filter(([row]) => !row.hidden).length} of ${runRows.length} runs`;
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

// ---- errors: gold against one model's answers, or against two side by side
const PAGE = 100;
let found = [], visible = PAGE;
const errorTask = () => data.tasks[by("error-task").value];
const modelOf = (id) => errorTask().errors.models[by(id).value];

function label({ family, labels, names }, value) { // an answer as people read it
  if (value === null) return "not a number";
  if (family === "multiclass") return labels[value];
  if (family !== "multilabel") return String(value);
  return names.filter((_, place) => value[place] === "1").join(", ") || "none";
}

function hasClass({ family, labels }, value, wanted) {
  if (wanted === "") return true;
  if (family === "multilabel") return value[labels.indexOf(wanted)] === "1";
  return family === "tagging" ? value.includes(wanted) : labels[value] === wanted;
}

function isWrong({ family }, gold, answer) { // a similarity is wrong by half a point or more
  return family === "similarity" ? answer === null || Math.abs(gold - answer) >= 0.5 : gold !== answer;
}

function showTask() {
  const { errors, labels, names } = errorTask();
  const models = errors.models.map((model, number) => [number, `${data.rows[model.row]}, seed ${model.seed}`]);
  fill(by("error-a"), models);
  fill(by("error-b"), [["", "no other"], ...models]);
  by("error-a").selectedIndex = by("error-b").selectedIndex = 0;
  for (const id of ["error-gold", "error-predicted"]) {
    by(id).replaceChildren();
    fill(by(id), [["", "any"], ...labels.map((name, number) => [name, names[number]])]);
    by(`${id}-label`).hidden = !labels.length;
  }
  showErrors();
}

function showErrors() {
  for (const one of document.querySelectorAll("#error-kind .of-two")) one.hidden = one.disabled = by("error-b").value === "";
  if (by("error-kind").selectedOptions[0].disabled) by("error-kind").value = "wrong";
  const entry = errorTask(), { ids, gold, texts } = entry.errors, a = modelOf("error-a"), b = modelOf("error-b");
  const text = by("error-text").value.toLowerCase();
  found = [...ids.keys()].filter((i) => {
    const wrongA = isWrong(entry, gold[i], a.answers[i]), wrongB = b && isWrong(entry, gold[i], b.answers[i]);
    const fits = { wrong: wrongA || wrongB, all: true, differ: b && a.answers[i] !== b.answers[i],
      "only-a": wrongA && !wrongB, "only-b": wrongB && !wrongA, both: wrongA && wrongB }[by("error-kind").value];
    return fits && hasClass(entry, gold[i], by("error-gold").value)
      && [a, b].some((model) => model && hasClass(entry, model.answers[i], by("error-predicted").value))
      && [ids[i], ...(texts ? [texts[i].join(" ")] : [])].some((one) => one.toLowerCase().includes(text));
  });
  const distance = (i) => Math.abs(gold[i] - a.answers[i]);
  if (entry.family === "similarity") found.sort((i, j) => distance(j) - distance(i));
  visible = PAGE;
  listErrors();
}

function words(texts, gold, answer) { // one box or word each: green found, yellow missed, red claimed in vain
  const place = make("td", "", "words");
  [...gold].forEach((tag, i) => {
    const kind = tag === "O" && answer[i] === "O" ? "" : answer[i] === "O" ? "missed" : tag === "O" ? "extra" : "hit";
    const begins = answer[i] === "B" || (answer[i] === "O" && tag === "B") ? "b" : "";
    const made = make("span", texts ? texts[i] : "", `${texts ? "" : "box"} ${kind} ${begins}`);
    made.title = `gold ${tag}, predicted ${answer[i]}`;
    place.append(made, texts ? " " : "");
  });
  return place;
}

function listErrors() {
  const entry = errorTask(), { ids, gold, texts, total, wrong, remarks } = entry.errors;
  const models = [modelOf("error-a"), modelOf("error-b")].filter(Boolean);
  const isTagging = entry.family === "tagging", hasText = texts && !isTagging;
  const names = ["index", ...(hasText ? ["text"] : []), ...(isTagging ? [] : ["gold"]), ...models.map(({ row }) => data.rows[row])];
  by("error-table").tHead.rows[0].replaceChildren(...names.map((name) => make("th", name)));
  by("error-table").tBodies[0].replaceChildren(...found.slice(0, visible).map((i) => {
    const row = make("tr", "");
    row.append(make("td", ids[i]));
    if (hasText) row.append(make("td", texts[i].join(" ⏎ ")));
    if (!isTagging) row.append(make("td", label(entry, gold[i])));
    row.append(...models.map(({ answers }) => (isTagging ? words(texts && texts[i], gold[i], answers[i])
      : make("td", label(entry, answers[i]), isWrong(entry, gold[i], answers[i]) ? "wrong" : "right"))));
    return row;
  }));
  by("error-more").hidden = found.length <= visible;
  const which = entry.family === "similarity" ? "scored" : "wrong in some model";
  const cut = ids.length < wrong ? `, the first ${ids.length} of them kept in this page` : "";
  const key = isTagging ? ["Green: right, yellow: missed, red: claimed in vain; a bar where a mention begins"] : [];
  by("error-line").textContent = [`${found.length} of ${total} examples; ${wrong} are ${which}${cut}`, ...key, ...remarks].join(". ");
}

const withErrors = [...data.tasks.entries()].filter(([, { errors }]) => errors.models.length);
fill(by("error-task"), withErrors.map(([number, { title }]) => [number, title]));
by("error-task").addEventListener("input", showTask);
for (const id of ["a", "b", "kind", "gold", "predicted", "text"]) by(`error-${id}`).addEventListener("input", showErrors);
by("error-more").addEventListener("click", () => { visible += 5 * PAGE; listErrors(); });
if (withErrors.length) showTask();
else by("error-line").textContent = "No predictions to show.";
setTheme(dark.matches);
