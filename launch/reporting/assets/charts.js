"use strict";
// Charts: each is drawn when it comes into view, again when task, models or theme change.
const PALETTE = ["#4477aa", "#ee6677", "#228833", "#c49a00", "#3aa6c9", "#aa3377", "#8c6d46", "#7a7a7a"];
const SHOWN_FIRST = 4; // models that a task's charts begin with
const color = (row) => PALETTE[row % PALETTE.length];
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly reads markup in names
const percent = (values) => values.map((value) => (value === null ? null : 100 * value));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const shade = (hex) => `${hex}33`;
const short = (text) => (text.length > 34 ? `${text.slice(0, 32)}…` : text);

function template() { // our own look for all charts, in the colours of the page
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true,
    title: { standoff: 10 } };
  return { layout: {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: PALETTE,
    font: { color: css("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    margin: { l: 48, r: 12, t: 16, b: 40 }, hovermode: "closest", xaxis: axis, yaxis: axis,
    legend: { orientation: "h", x: 0, y: 1.03, yanchor: "bottom" }, hoverlabel: { namelength: -1 },
    bargap: 0.25, barcornerradius: 3,
  } };
}

function draw(name, traces, layout = {}) {
  const place = by(`plot-${name}`);
  const nothing = place.parentElement.querySelector(".nothing");
  if (nothing) {
    nothing.hidden = traces.length > 0;
    nothing.textContent = traces.length ? "" : "no data for this";
    place.hidden = !traces.length;
  }
  if (!traces.length) { Plotly.purge(place); return; }
  const options = { responsive: true, displaylogo: false, displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  Plotly.react(place, traces, { template: template(), ...layout }, options);
}

// ---- leaderboard: our rows and the published ones, task by task
function drawBoard() {
  const heads = [...by("board").tHead.rows[0].cells].slice(2).map((cell) => cell.textContent.trim());
  const rows = [...by("board").tBodies[0].rows];
  const ours = rows.filter((row) => row.className === "ours").map((row) => row.cells[0].textContent.trim()).sort();
  const traces = rows.map((row) => {
    const name = row.cells[0].textContent.trim().replace(/\s*published$/, "");
    const isOurs = row.className === "ours";
    const cells = [...row.cells].slice(2);
    const deviation = (cell) => Number((cell.textContent.match(/\(([\d.]+)\)/) || [0, 0])[1]);
    const tone = isOurs ? color(ours.indexOf(name)) : css("--quiet");
    const symbols = ["circle-open", "square-open", "diamond-open", "triangle-up-open", "x-thin-open"];
    const symbol = isOurs ? "circle" : symbols[rows.indexOf(row) % symbols.length];
    return { name: plain(short(name) + (isOurs ? "" : " (published)")), mode: "markers", x: heads,
      y: cells.map((cell) => (cell.dataset.value ? 100 * cell.dataset.value : null)),
      error_y: { type: "data", array: cells.map(deviation), thickness: 1, width: 3, color: tone },
      marker: { color: tone, symbol, size: isOurs ? 10 : 7 } };
  });
  const lowest = Math.min(...traces.flatMap((trace) => trace.y.map((y, i) => (y === null ? 100 : y - trace.error_y.array[i]))));
  const range = [Math.max(0, 10 * Math.floor((lowest - 2) / 10)), 101];
  draw("board", traces, { scattermode: "group", scattergap: 0.4, yaxis: { title: { text: "test score" }, range } });
}

// ---- tasks
const FITS = { // charts that some families have nothing for
  classes: (family) => family !== "similarity", confusion: (family) => family !== "similarity",
  scatter: (family) => family === "similarity", calibration: (family) => family !== "tagging",
};
const chosen = new Map(); // task entry -> set of rows shown
const task = () => data.tasks[by("task").value];
const rowsOf = (entry) => entry.rows.filter((part) => chosen.get(entry).has(part.row));
const nameOf = (part) => plain(short(data.rows[part.row]));

function chips() {
  const entry = task();
  if (!chosen.has(entry)) chosen.set(entry, new Set(entry.rows.slice(0, SHOWN_FIRST).map((part) => part.row)));
  by("models").replaceChildren(...entry.rows.map((part) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = data.rows[part.row];
    button.style.setProperty("--chip", color(part.row));
    button.setAttribute("aria-pressed", String(chosen.get(entry).has(part.row)));
    button.addEventListener("click", () => {
      const set = chosen.get(entry);
      if (!set.delete(part.row)) set.add(part.row);
      button.setAttribute("aria-pressed", String(set.has(part.row)));
      drawTask();
    });
    return button;
  }));
  const select = by("confusion-model");
  select.replaceChildren();
  entry.rows.filter((part) => part.confusion).forEach((part) => option(select, part.row, data.rows[part.row]));
}

function curve(part, name, dash) {
  const found = part.curves[name];
  if (!found) return [];
  const scale = name === "dev_score" ? percent : (values) => values;
  const tone = color(part.row), about = name.replace("_", " ");
  const common = { x: found.epoch, legendgroup: String(part.row), mode: "lines" };
  const quiet = { showlegend: false, hoverinfo: "skip", line: { width: 0, color: tone } };
  return [
    { ...common, ...quiet, y: scale(found.low) },
    { ...common, ...quiet, y: scale(found.high), fill: "tonexty", fillcolor: shade(tone) },
    { ...common, y: scale(found.mean), mode: "lines+markers", name: nameOf(part), showlegend: name !== "train_loss",
      line: { color: tone, dash, width: 2 }, marker: { size: 5 }, customdata: found.n,
      hovertemplate: `%{y:.4~r} (${about}, epoch %{x}, %{customdata} seeds)` },
  ];
}

function bars(parts, key, label) {
  return parts.filter((part) => part[key].length).map((part) => ({
    type: "bar", name: nameOf(part), x: [nameOf(part)], y: [mean(part[key])], marker: { color: color(part.row) }, showlegend: false,
    hovertemplate: `%{y:.4~r} ${label} (${part[key].length} runs)<extra></extra>`,
  }));
}

function drawTask() {
  const entry = task(), parts = rowsOf(entry), remarks = entry.rows.flatMap((part) => part.remarks);
  const seeds = entry.rows.map((part) => part.seeds.length).reduce((a, b) => a + b, 0);
  by("task-line").textContent = [`${entry.family}, scored by ${entry.metric || "?"}; ${seeds} runs`, ...remarks].join(". ");
  by("figure-confusion").querySelector("h2").textContent = entry.family === "multilabel" ? "Answers by label" : "Confusion matrix";
  for (const [name, fits] of Object.entries(FITS)) by(`figure-${name}`).hidden = !fits(entry.family);
  const epoch = { title: { text: "epoch" }, rangemode: "tozero" };
  draw("score", parts.flatMap((part) => curve(part, "dev_score", "solid")), { xaxis: epoch, yaxis: { title: { text: "dev score" } } });
  draw("loss", parts.flatMap((part) => [...curve(part, "train_loss", "dot"), ...curve(part, "dev_loss", "solid")]),
    { xaxis: epoch, yaxis: { title: { text: "loss" } } });
  draw("test", parts.filter((part) => part.test.length).map((part) => ({
    type: "box", name: nameOf(part), y: percent(part.test), boxpoints: "all", jitter: 0.4, pointpos: 0, showlegend: false,
    line: { color: color(part.row) }, fillcolor: shade(color(part.row)) })), { yaxis: { title: { text: "test score" } } });
  drawClasses(entry, parts);
  drawConfusion();
  drawScatter(parts);
  drawCalibration(entry, parts);
  draw("rate", bars(parts.map((part) => ({ ...part, list: part.rates.examples })), "list", "examples/s"), { yaxis: { title: { text: "examples / s" } } });
  draw("hours", bars(parts, "hours", "device hours"), { yaxis: { title: { text: "device hours" } } });
}

function drawClasses(entry, parts) {
  const traces = parts.filter((part) => Object.keys(part.classes).length).map((part) => {
    const labels = Object.keys(part.classes), values = Object.values(part.classes);
    return { type: "bar", name: nameOf(part), x: labels.map(plain), y: percent(values.map((one) => one.f1)),
      error_y: { type: "data", array: percent(values.map((one) => one.std)), thickness: 1, width: 2 }, marker: { color: color(part.row) },
      customdata: values.map((one, i) => [100 * one.precision, 100 * one.recall, one.support, plain(entry.names[entry.labels.indexOf(labels[i])])]),
      hovertemplate: "%{customdata[3]}: F1 %{y:.1f}, precision %{customdata[0]:.1f}, recall %{customdata[1]:.1f}, support %{customdata[2]:.0f}" };
  });
  draw("classes", traces, { xaxis: { type: "category" }, yaxis: { title: { text: "F1" }, range: [0, 105] } });
}

function drawConfusion() {
  const part = task().rows.find((one) => String(one.row) === by("confusion-model").value);
  if (!part || !part.confusion) { draw("confusion", []); return; }
  const { rows, columns, counts } = part.confusion;
  const sums = counts.map((line) => line.reduce((a, b) => a + b, 0));
  const isSquare = rows.join() === columns.join();
  const z = counts.map((line, i) => line.map((count) => (sums[i] ? (100 * count) / sums[i] : 0)));
  const low = css("--paper"), high = color(part.row);
  draw("confusion", [{ type: "heatmap", x: columns.map(plain), y: rows.map(plain), z, text: counts, texttemplate: "%{text}", zmin: 0, zmax: 100,
    xgap: 2, ygap: 2, colorscale: [[0, low], [1, high]], showscale: false,
    hovertemplate: "gold %{y}, " + (isSquare ? "predicted " : "") + "%{x}: %{text} (%{z:.1f}% of the row)<extra></extra>" }],
  { xaxis: { type: "category", title: { text: isSquare ? "predicted" : "" }, showgrid: false },
    yaxis: { type: "category", autorange: "reversed", title: { text: "gold" }, showgrid: false } });
}

function diagonal(low, high) {
  return { type: "line", x0: low, y0: low, x1: high, y1: high, line: { color: css("--quiet"), dash: "dot", width: 1 } };
}

function drawScatter(parts) {
  const found = parts.filter((part) => part.scatter);
  const top = Math.max(0, ...found.flatMap((part) => part.scatter.gold));
  draw("scatter", found.map((part) => ({ mode: "markers", name: nameOf(part), x: part.scatter.gold, y: part.scatter.predicted,
    marker: { color: color(part.row), size: 6, opacity: 0.6 }, hovertemplate: "gold %{x}, predicted %{y:.2f}" })),
  { xaxis: { title: { text: "gold" } }, yaxis: { title: { text: "predicted" } }, shapes: [diagonal(0, top)] });
}

function drawCalibration(entry, parts) {
  const found = parts.filter((part) => part.calibration), isScore = entry.family === "similarity";
  const top = isScore ? Math.max(0, ...found.flatMap((part) => part.calibration.true)) : 1;
  draw("calibration", found.map((part) => ({ mode: "lines+markers", name: `${nameOf(part)} (${part.calibration.error.toFixed(3)})`,
    x: part.calibration.claimed, y: part.calibration.true, line: { color: color(part.row) }, customdata: part.calibration.count,
    marker: { size: part.calibration.count.map((n) => 5 + 12 * Math.sqrt(n / Math.max(...part.calibration.count))) },
    hovertemplate: "claimed %{x:.2f}, true %{y:.2f} (%{customdata} answers)" })),
  { xaxis: { title: { text: isScore ? "predicted score" : "predicted probability" } },
    yaxis: { title: { text: isScore ? "gold score" : "share that is right" } }, shapes: [diagonal(0, top)] });
}

data.tasks.forEach((entry, number) => option(by("task"), number, entry.title));
by("task").addEventListener("input", () => { chips(); drawTask(); });
by("confusion-model").addEventListener("input", drawConfusion);
shownListeners.leaderboard = drawBoard;
shownListeners.tasks = () => { if (data.tasks.length) { if (!by("models").children.length) chips(); drawTask(); } };
document.addEventListener("theme", openAddressed);
