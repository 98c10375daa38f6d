"use strict";
// The error browser: gold against one model's answers, or against two side by side.
const PAGE = 100;
let found = [], visible = PAGE;
const entryOf = () => data.tasks[by("error-task").value];
const modelOf = (id) => entryOf().errors.models[by(id).value];

function label(entry, value) { // an answer as people read it
  if (value === null) return "not a number";
  if (entry.family === "multiclass") return entry.labels[value];
  if (entry.family !== "multilabel") return String(value);
  return entry.names.filter((_, place) => value[place] === "1").join(", ") || "none";
}

function hasClass(entry, value, wanted) {
  if (wanted === "") return true;
  if (entry.family === "multilabel") return value[entry.labels.indexOf(wanted)] === "1";
  if (entry.family === "tagging") return value.includes(wanted);
  return entry.labels[value] === wanted;
}

function isWrong(entry, gold, answer) { // a similarity is wrong by half a point or more
  return entry.family === "similarity" ? answer === null || Math.abs(gold - answer) >= 0.5 : gold !== answer;
}

function setUp() {
  const entry = entryOf(), { models } = entry.errors;
  for (const id of ["error-a", "error-b"]) {
    by(id).replaceChildren();
    if (id === "error-b") option(by(id), "", "no other");
    models.forEach((model, number) => option(by(id), number, `${data.rows[model.row]}, seed ${model.seed}`));
  }
  for (const id of ["error-gold", "error-predicted"]) {
    by(id).replaceChildren();
    option(by(id), "", "any");
    entry.labels.forEach((name, number) => option(by(id), name, entry.names[number]));
    by(`${id}-label`).hidden = !entry.labels.length;
  }
  kinds();
  show();
}

function kinds() {
  const kept = by("error-kind").value;
  const two = [["differ", "where the two differ"], ["only-a", "wrong in the first alone"], ["only-b", "wrong in the second alone"], ["both", "wrong in both"]];
  by("error-kind").replaceChildren();
  [["wrong", "errors"], ["all", "all"], ...(by("error-b").value === "" ? [] : two)].forEach(([value, text]) => option(by("error-kind"), value, text));
  if ([...by("error-kind").options].some((one) => one.value === kept)) by("error-kind").value = kept;
}

function show() {
  const entry = entryOf(), { ids, gold, texts } = entry.errors, a = modelOf("error-a"), b = modelOf("error-b");
  const text = by("error-text").value.toLowerCase(), kind = by("error-kind").value;
  found = [];
  for (let i = 0; a && i < ids.length; i += 1) {
    const wrongA = isWrong(entry, gold[i], a.answers[i]), wrongB = b && isWrong(entry, gold[i], b.answers[i]);
    const fits = { wrong: wrongA || wrongB, all: true, differ: b && a.answers[i] !== b.answers[i],
      "only-a": wrongA && b && !wrongB, "only-b": wrongB && !wrongA, both: wrongA && wrongB }[kind];
    const inAnswer = (model) => hasClass(entry, model.answers[i], by("error-predicted").value);
    if (!fits || !hasClass(entry, gold[i], by("error-gold").value) || !(inAnswer(a) || (b && inAnswer(b)))) continue;
    if (text && !ids[i].toLowerCase().includes(text) && !(texts && texts[i].join(" ").toLowerCase().includes(text))) continue;
    found.push(i);
  }
  if (entry.family === "similarity" && a) {
    found.sort((i, j) => Math.abs(gold[j] - a.answers[j]) - Math.abs(gold[i] - a.answers[i]));
  }
  visible = PAGE;
  fill();
}

function cell(row, text, name = "") {
  const made = row.insertCell();
  made.textContent = text;
  made.className = name;
  return made;
}

function words(place, texts, gold, answer) { // one box or word each: green found, yellow missed, red claimed in vain
  place.className = "words";
  [...gold].forEach((tag, i) => {
    const made = document.createElement("span");
    const kind = tag === answer[i] ? (tag === "O" ? "" : "hit") : answer[i] === "O" ? "missed" : tag === "O" ? "extra" : "hit";
    made.className = `${texts ? "" : "box"} ${kind} ${answer[i] === "B" || (answer[i] === "O" && tag === "B") ? "b" : ""}`;
    made.textContent = texts ? texts[i] : "";
    made.title = `gold ${tag}, predicted ${answer[i]}`;
    place.append(made, texts ? " " : "");
  });
}

function fill() {
  const entry = entryOf(), { ids, gold, texts, total, wrong, remarks } = entry.errors;
  const models = [modelOf("error-a"), modelOf("error-b")].filter(Boolean);
  const isTagging = entry.family === "tagging", kept = texts && !isTagging ? ["text"] : [];
  const names = ["index", ...kept, ...(isTagging ? [] : ["gold"]), ...models.map((model) => data.rows[model.row])];
  const head = document.createElement("tr");
  for (const name of names) head.insertCell().outerHTML = "<th></th>";
  [...head.cells].forEach((one, i) => { one.textContent = names[i]; });
  by("error-table").tHead.replaceChildren(head);
  by("error-table").tBodies[0].replaceChildren(...found.slice(0, visible).map((i) => {
    const row = document.createElement("tr");
    cell(row, ids[i]);
    if (kept.length) cell(row, texts[i].join(" ⏎ "));
    if (!isTagging) cell(row, label(entry, gold[i]));
    for (const model of models) {
      const answer = model.answers[i];
      if (isTagging) words(cell(row, ""), texts && texts[i], gold[i], answer);
      else cell(row, label(entry, answer), isWrong(entry, gold[i], answer) ? "wrong" : "right");
    }
    return row;
  }));
  by("error-more").hidden = found.length <= visible;
  const cut = ids.length < wrong ? `, the first ${ids.length} of them kept in this page` : "";
  const key = isTagging ? ". Green: right, yellow: missed, red: claimed in vain; a bar where a mention begins" : "";
  by("error-line").textContent = [`${found.length} of ${total} examples; ${wrong} are ${entry.family === "similarity" ? "scored" : "wrong in some model"}${cut}${key}`, ...remarks].join(". ");
}

const withErrors = data.tasks.map((entry, number) => [entry, number]).filter(([entry]) => entry.errors.models.length);
withErrors.forEach(([entry, number]) => option(by("error-task"), number, entry.title));
by("error-task").addEventListener("input", setUp);
by("error-b").addEventListener("input", kinds);
for (const id of ["error-a", "error-b", "error-kind", "error-gold", "error-predicted", "error-text"]) by(id).addEventListener("input", show);
by("error-more").addEventListener("click", () => { visible += 5 * PAGE; fill(); });
if (withErrors.length) setUp();
else by("error-line").textContent = "No predictions to show.";
openAddressed();
