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
  if (opened.id === "tab-leaderboard") {
    draw("board", data.board);
    draw("differences", data.differences, (number) => String(number) === by("baseline").value);
  }
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
  const traces = figure.data.filter(({ meta }) => meta === undefined || isShown(meta));
  card.querySelector("h2").textContent = figure.layout.meta;
  nothing.textContent = "no data for this";
  nothing.hidden = traces.length > 0;
  place.hidden = !traces.length;
  if (!traces.length) { Plotly.purge(place); return; }
  const layout = { ...figure.layout, template: data.themes[root.dataset.theme] };
  if (layout.yaxis.autorangeoptions) layout.yaxis = { ...layout.yaxis, autorangeoptions: { ...layout.yaxis.autorangeoptions, include: room(traces) } };
  place.style.height = layout.height ? `${layout.height}px` : "";
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  Plotly.react(place, structuredClone({ data: traces, layout, config })); // Plotly writes into what it is given
}

function room(traces) { // an axis of scores shows ten points at least: one value alone does not fill it
  const values = traces.flatMap(({ y }) => y).filter((y) => y !== null), low = Math.min(...values), high = Math.max(...values);
  const more = Math.max(0, 10 - (high - low)) / 2;
  return values.length ? [low - more, high + more] : [];
}

function drawTask() {
  const { rows, figures, line } = task() || { rows: [], figures: {}, line: "No runs to show." };
  if (!chosen.has(task())) chosen.set(task(), new Set(rows.slice(0, SHOWN_FIRST)));
  const shown = chosen.get(task()), counts = figures.confusion ? figures.confusion.data : [];
  by("task-line").textContent = line;
  fill(by("confusion-model"), counts.map(({ meta }) => [meta, data.rows[meta]]));
  by("confusion-model").parentElement.hidden = counts.length < 2;
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
fill(by("baseline"), data.differences ? data.differences.data.map(({ meta, name }) => [meta, name]) : []);
by("baseline").addEventListener("input", openAddressed);
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
const [FORMULA, NUMBER] = [new RegExp(`^(?:${data.csv[0]})`), new RegExp(`^(?:${data.csv[1]})$`)]; // as in leaderboard.csv
let found = [], visible = PAGE;
const errorTask = () => data.tasks[by("error-task").value];
const errorSplit = () => errorTask().errors[by("error-split").value];
const modelOf = (id) => errorSplit().models.find(({ row }) => String(row) === by(id).value);

function label({ family, labels, names }, value) { // an answer as people read it
  if (value === null) return "not a number";
  if (family === "multiclass") return labels[value];
  if (family !== "multilabel") return String(value);
  return names.filter((_, place) => value[place] === "1").join(", ") || "none";
}

function hasClass({ family, labels }, value, wanted) {
  if (wanted === "") return true;
  if (family === "multilabel") return value[labels.indexOf(wanted)] === "1";
  return family === "tagging" ? tagsOf(value).includes(wanted) : labels[value] === wanted;
}

function tagsOf(value) { // those of several types, such as B-Drug, have blanks between them
  return /[ -]/.test(value) || value === "O" ? value.split(" ") : [...value];
}

function isWrong({ family }, gold, answer) { // a similarity is wrong by half a point or more
  return family === "similarity" ? answer === null || Math.abs(gold - answer) >= 0.5 : gold !== answer;
}

function offer(id, options, isOffered) { // a select, hidden where there is nothing to select
  fill(by(id), options);
  by(`${id}-label`).hidden = !isOffered;
}

function showTask() {
  const splits = Object.keys(errorTask().errors);
  offer("error-split", splits.map((split) => [split, split]), splits.length > 1);
  showSplit();
}

function showSplit() {
  const entry = errorTask(), { family, labels, names } = entry, { models, gold } = errorSplit();
  const options = models.map(({ row, seed }) => [row, `${data.rows[row]}, seed ${seed}`]);
  offer("error-a", options, true);
  offer("error-b", [["", "no other"], ...options], options.length > 1);
  const orders = family === "similarity" ? [["far", "largest difference first"], ["", "as in the file"]]
    : [["", "as in the file"], ["low", "least certain first"], ["high", "most certain first"]];
  offer("error-order", orders, family === "similarity" || models.some(({ sure }) => sure));
  by("error-order").selectedIndex = 0;
  for (const [id, all] of [["error-gold", [gold]], ["error-predicted", models.map(({ answers }) => answers)]]) {
    const occurs = (name) => all.some((values) => values.some((value) => hasClass(entry, value, name)));
    offer(id, [["", "any"], ...labels.map((name, number) => [name, names[number]]).filter(([name]) => occurs(name))], labels.length);
  }
  showErrors();
}

function showErrors() {
  for (const one of document.querySelectorAll("#error-kind .of-two")) one.hidden = one.disabled = by("error-b").value === "";
  if (by("error-kind").selectedOptions[0].disabled) by("error-kind").value = "wrong";
  const entry = errorTask(), { ids, gold, texts } = errorSplit(), a = modelOf("error-a"), b = modelOf("error-b");
  const text = by("error-text").value.toLowerCase();
  found = [...ids.keys()].filter((i) => {
    const wrongA = isWrong(entry, gold[i], a.answers[i]), wrongB = b && isWrong(entry, gold[i], b.answers[i]);
    const fits = { wrong: wrongA || wrongB, all: true, differ: b && a.answers[i] !== b.answers[i],
      "only-a": wrongA && !wrongB, "only-b": wrongB && !wrongA, both: wrongA && wrongB }[by("error-kind").value];
    return fits && hasClass(entry, gold[i], by("error-gold").value)
      && [a, b].some((model) => model && hasClass(entry, model.answers[i], by("error-predicted").value))
      && [ids[i], ...(texts ? [texts[i].join(" ")] : [])].some((one) => one.toLowerCase().includes(text));
  });
  const far = (i) => (a.answers[i] === null ? Infinity : Math.abs(gold[i] - a.answers[i])), sure = (i) => (a.sure ? a.sure[i] : 0);
  const order = { far: (i, j) => far(j) - far(i) || 0, low: (i, j) => sure(i) - sure(j), high: (i, j) => sure(j) - sure(i) };
  if (by("error-order").value) found.sort(order[by("error-order").value]);
  visible = PAGE;
  listErrors();
}

function words(texts, gold, answer) { // one box or word each: green found, yellow missed, red claimed in vain
  const place = make("td", "", "words"), type = (tag) => tag.slice(2), answers = tagsOf(answer);
  tagsOf(gold).forEach((tag, i) => {
    const said = answers[i], isExtra = tag === "O" || type(tag) !== type(said);
    const kind = tag === "O" && said === "O" ? "" : said === "O" ? "missed" : isExtra ? "extra" : "hit";
    const begins = (said === "O" ? tag : said).startsWith("B") ? "b" : "";
    const made = make("span", texts ? texts[i] : "", `${texts ? "" : "box"} ${kind} ${begins}`);
    made.title = `gold ${tag}, predicted ${said}`;
    place.append(made, texts ? " " : "");
  });
  return place;
}

function columns() { // of the table and of the file: name, text of an example, its cell; without a cell in the file alone
  const entry = errorTask(), { ids, gold, texts } = errorSplit(), isTagging = entry.family === "tagging";
  const made = [];
  const add = (name, text, style = () => "", cell = (i) => make("td", text(i), style(i))) => made.push({ name, text, cell });
  add("index", (i) => ids[i]);
  if (texts) add("text", (i) => texts[i].join(isTagging ? " " : " ⏎ "), undefined, isTagging ? null : undefined);
  add("gold", (i) => label(entry, gold[i]), undefined, isTagging ? null : undefined);
  for (const { row, answers, sure } of [modelOf("error-a"), modelOf("error-b")].filter(Boolean)) {
    const tagged = isTagging ? (i) => words(texts && texts[i], gold[i], answers[i]) : undefined;
    add(data.rows[row], (i) => label(entry, answers[i]), (i) => (isWrong(entry, gold[i], answers[i]) ? "wrong" : "right"), tagged);
    if (sure) add(`${data.rows[row]}: probability`, (i) => sure[i].toFixed(3), () => "number");
  }
  return made;
}

function listErrors() {
  const entry = errorTask(), split = by("error-split").value, { ids, total, wrong, remarks } = errorSplit();
  const shown = columns().filter(({ cell }) => cell);
  by("error-table").tHead.rows[0].replaceChildren(...shown.map(({ name }) => make("th", name)));
  by("error-table").tBodies[0].replaceChildren(...found.slice(0, visible).map((i) => {
    const row = make("tr", "");
    row.append(...shown.map(({ name, cell }) => {
      const made = cell(i);
      made.dataset.name = name; // cards on phones have no head
      return made;
    }));
    return row;
  }));
  by("error-more").hidden = found.length <= visible;
  const which = entry.family === "similarity" ? "scored" : "wrong in some model";
  const cut = ids.length < wrong ? `, the first ${ids.length} of them kept in this page` : "";
  const key = entry.family === "tagging" ? ["Green: right, yellow: missed, red: claimed in vain or of another type; a bar where a mention begins"] : [];
  if (entry.family === "multilabel") key.push("Probability: of the least certain label of an answer");
  by("error-line").textContent = [`${found.length} of ${total} ${split} examples; ${wrong} are ${which}${cut}`, ...remarks, ...key].join(". ");
}

function quoted(text) { // of a CSV file; an apostrophe before what a spreadsheet would compute
  const isFormula = FORMULA.test(text) && !text.split(" ").every((part) => NUMBER.test(part));
  return `"${(isFormula ? "'" : "") + text.replaceAll('"', '""')}"`;
}

by("error-csv").addEventListener("click", () => {
  const { title } = errorTask(), split = by("error-split").value, all = columns(), link = make("a", "");
  const lines = [["task", "split", ...all.map(({ name }) => name)], ...found.map((i) => [title, split, ...all.map(({ text }) => text(i))])];
  link.href = URL.createObjectURL(new Blob(lines.map((line) => `${line.map(quoted).join(",")}\n`), { type: "text/csv" }));
  link.download = `${title} ${split} errors.csv`.replace(/[^\w.()-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

const withErrors = [...data.tasks.entries()].filter(([, { errors }]) => Object.keys(errors).length);
fill(by("error-task"), withErrors.map(([number, { title }]) => [number, title]));
by("error-task").addEventListener("input", showTask);
by("error-split").addEventListener("input", showSplit);
for (const id of ["a", "b", "order", "kind", "gold", "predicted", "text"]) by(`error-${id}`).addEventListener("input", showErrors);
by("error-more").addEventListener("click", () => { visible += 5 * PAGE; listErrors(); });
if (withErrors.length) showTask();
else by("error-line").textContent = "No predictions to show.";
by("error-csv").hidden = !withErrors.length;
setTheme(dark.matches);
