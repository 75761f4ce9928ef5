"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7c5cff", "#8a7f00", "#b23a48", "#4c8c2b"];
const MOST = 10;  // lines that one chart can show and a reader can tell apart
const byId = id => document.getElementById(id);
const AVERAGE = "average_incremental_accuracy";
const state = { stream: 0, sort: AVERAGE, down: true, hidden: new Set() };

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "circle", "rect", "text", "g", "title", "polygon"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value); else if (value !== null) node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}
const percent = value => value === null ? "–" : (100 * value).toFixed(1);
const compact = value => Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);

function visible() {
  const wanted = byId("filter").value.trim().toLowerCase(), rule = byId("rule").value, most = byId("bytes").valueAsNumber;
  return DATA.streams[state.stream].rows.filter(row => row.label.toLowerCase().includes(wanted) && (rule === "" || row.cells.scoring === rule)
    && !(row.values.memory_bytes > most) && !(byId("scratch").checked && row.values.pretrained !== ""));
}

function offerRules() {
  const rules = [...new Set(DATA.streams[state.stream].rows.map(row => row.cells.scoring))].sort(), before = byId("rule").value;
  byId("rule").replaceChildren(make("option", { value: "" }, "any rule"), ...rules.map(rule => make("option", { value: rule }, rule)));
  byId("rule").value = rules.includes(before) ? before : "";
}

function shownColumns() {
  const keys = DATA.streams[state.stream].columns;
  return DATA.columns.filter(column => keys.includes(column.key) && (!column.more || byId("more").checked));
}

function cell(row, column) {
  if (column.key === "memory_bytes") return make("td", { class: "kept" }, row.cells[column.key], row.kept ? make("small", {}, row.kept) : null);
  return make("td", { class: column.words ? `words ${column.head}` : null }, row.cells[column.key]);
}

function drawTable() {
  const stream = DATA.streams[state.stream], rows = visible(), table = byId("board"), columns = shownColumns(), [, ...rest] = columns;
  const heads = columns.map(column => make("th", { scope: "col", class: column.words ? "words" : null, "aria-sort": column.key === state.sort ? (state.down ? "descending" : "ascending") : null },
    make("button", { type: "button", title: column.says, onclick: () => sortBy(column) }, column.head)));
  table.replaceChildren(make("caption", { class: "soft" }, stream.key), make("thead", {}, make("tr", {}, ...heads)));
  const compare = (a, b) => {
    const [x, y] = [a.values[state.sort], b.values[state.sort]];
    if (x === null || y === null) return (x === null) - (y === null);
    return (x < y ? -1 : x > y ? 1 : 0) * (state.down ? -1 : 1);
  };
  const body = make("tbody");
  for (const row of rows.sort(compare)) {
    const runs = row.runs.map(at => make("button", { type: "button", "aria-label": `open ${row.label}, seed ${DATA.runs[at].seed}`, onclick: () => { location.hash = `run=${at}`; } }, `${DATA.runs[at].seed}`));
    body.append(make("tr", { class: row.role ? "reference" : null }, make("th", { scope: "row" }, row.label, row.role ? make("span", { class: "role" }, `reference – ${row.role}`) : null,
      make("div", { class: "runs" }, "seeds", ...runs)), ...rest.map(column => cell(row, column))));
  }
  table.append(body);
  if (stream.quoted.length) {
    const body = make("tbody", { class: "quoted" }, make("tr", { class: "section" }, make("th", { colspan: columns.length, scope: "rowgroup" }, "quoted from papers, not run here")));
    for (const one of stream.quoted) body.append(make("tr", {}, make("th", { scope: "row" }, one.label), ...rest.slice(0, 3).map(column => make("td", {}, one[column.key] ?? "–")), make("td", { colspan: rest.length - 3 }, one.source)));
    table.append(body);
  }
  byId("shown").textContent = `${rows.length} of ${stream.rows.length} rows`;
  byId("missing").replaceChildren(...stream.missing.map(text => make("li", {}, text)));
}

function sortBy(column) {
  state.down = state.sort === column.key ? !state.down : !column.words;
  state.sort = column.key;
  drawTable();
  byId("board").querySelectorAll("thead button")[shownColumns().indexOf(column)].focus();
}

function drawCharts() {
  const every = visible().sort((a, b) => b.values[AVERAGE] - a.values[AVERAGE]), rows = every.slice(0, MOST);
  rows.forEach((row, at) => { row.colour = COLOURS[at]; row.dash = ["", "7 3", "2 3"][at % 3]; });
  byId("keys").replaceChildren(...rows.map(row => make("li", {}, make("button", { type: "button", "aria-pressed": String(!state.hidden.has(row.id)), onclick: () => toggle(row) },
    colourKey(row.colour), row.label))), ...(every.length > MOST ? [make("li", { class: "soft" }, `the ${MOST} best on average of ${every.length}; filter to see others`)] : []));
  const shown = rows.filter(row => !state.hidden.has(row.id));
  byId("charts").replaceChildren(curves(shown), scatter(shown, row => row.values.memory_bytes, "bytes kept from the past"), scatter(shown, row => row.train_s, "seconds of training"));
}
function colourKey(colour) { const key = make("span", { class: "key" }); key.style.background = colour; return key; }
function toggle(row) {
  if (!state.hidden.delete(row.id)) state.hidden.add(row.id);
  const at = [...byId("keys").querySelectorAll("button")].indexOf(document.activeElement);
  drawCharts();
  byId("keys").querySelectorAll("button")[at]?.focus();
}

const W = 480, H = 300, L = 46, R = 14, T = 12, B = 42;
function frame(caption, below, ticks, low, high) {
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": caption });
  const y = value => T + (H - T - B) * (high - value) / (high - low);
  const step = [.01, .02, .05, .1, .2].find(size => (high - low) / size <= 6) || .5;
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9; at++) {
    const value = at * step;
    svg.append(make("line", { class: "grid", x1: L, x2: W - R, y1: y(value), y2: y(value) }), make("text", { class: "axis", x: L - 6, y: y(value) + 4, "text-anchor": "end" }, (100 * value).toFixed(0)));
  }
  for (const [x, text] of ticks) svg.append(make("text", { class: "axis", x, y: H - B + 18, "text-anchor": "middle" }, text));
  svg.append(make("text", { class: "axis", x: (L + W - R) / 2, y: H - 5, "text-anchor": "middle" }, below));
  return [make("figure", {}, make("figcaption", {}, caption), svg), svg, y];
}
function bounds(values) {
  const low = Math.max(0, Math.floor(10 * Math.min(...values, 1)) / 10), high = Math.min(1, Math.ceil(10 * Math.max(...values, 0)) / 10);
  return low < high ? [low, high] : [0, 1];
}

function curves(rows) {
  const stream = DATA.streams[state.stream], seen = stream.tasks.map((_, at) => stream.tasks.slice(0, at + 1).reduce((a, b) => a + b, 0));
  const last = seen.length - 1, x = at => last ? L + (W - L - R) * (seen[at] - seen[0]) / (seen[last] - seen[0]) : (L + W - R) / 2;
  const step = Math.ceil(seen.length / 8), ticks = seen.map((count, at) => [x(at), count]).filter((_, at) => at % step === 0);
  const [low, high] = bounds(rows.flatMap(row => row.mean.flatMap((value, at) => [value - row.std[at], value + row.std[at]])));
  const [figure, svg, y] = frame("Accuracy (%) after each task, band: ± one standard deviation over seeds", "classes seen", ticks, low, high);
  for (const row of rows) {
    const points = row.mean.map((value, at) => `${x(at)},${y(value)}`);
    const band = [...row.mean.map((value, at) => `${x(at)},${y(Math.min(high, value + row.std[at]))}`), ...row.mean.map((value, at) => `${x(at)},${y(Math.max(low, value - row.std[at]))}`).reverse()];
    svg.append(make("polygon", { points: band.join(" "), fill: row.colour, opacity: .18 }),
      make("path", { d: `M${points.join("L")}`, fill: "none", stroke: row.colour, "stroke-width": 2, "stroke-dasharray": row.dash }));
    row.mean.forEach((value, at) => svg.append(make("circle", { cx: x(at), cy: y(value), r: 3, fill: row.colour }, make("title", {}, `${row.label}: ${percent(value)} % after task ${at + 1}`))));
  }
  return figure;
}

function scatter(rows, of, unit) {
  const logs = rows.map(row => Math.log10(1 + of(row))), least = Math.floor(Math.min(...logs, 9)), most = Math.max(Math.ceil(Math.max(...logs, 1)), least + 1);
  const x = value => L + 10 + (W - L - R - 20) * (Math.log10(1 + value) - least) / (most - least);
  const ticks = Array.from({ length: most - least + 1 }, (_, at) => least + at).filter((_, at) => (most - least) < 7 || at % 2 === 0)
    .map(power => [L + 10 + (W - L - R - 20) * (power - least) / (most - least), power === 0 ? "0" : compact(10 ** power)]);
  const [low, high] = bounds(rows.map(row => row.values[AVERAGE]));
  const [figure, svg, y] = frame(`Average accuracy (%) against ${unit}`, `${unit} (logarithmic)`, ticks, low, high);
  const dots = rows.map(row => ({ row, x: x(of(row)), y: y(row.values[AVERAGE]) })), names = place(dots);
  for (const name of names) svg.append(...(name.far ? [make("line", { x1: name.dot.x, y1: name.dot.y, x2: name.near, y2: name.y + 7, stroke: name.dot.row.colour })] : []));
  for (const dot of dots) svg.append(make("circle", { cx: dot.x, cy: dot.y, r: 6, fill: dot.row.colour }, make("title", {}, `${dot.row.label}: ${percent(dot.row.values[AVERAGE])} %, ${compact(of(dot.row))} ${unit}`)));
  for (const name of names) svg.append(make("text", { class: "name", x: name.x, y: name.y + 11 }, name.text));
  return figure;
}

// A place for the name of each dot: beside it where that is free, else further off with a line to it. It covers no dot and no other name;
// a name without such a place is left out, and the colour says whose dot it is.
const pen = document.createElement("canvas").getContext("2d");  // which measures texts; it draws nothing
function place(dots) {
  pen.font = `13px ${getComputedStyle(document.body).fontFamily}`;
  const taken = dots.map(dot => ({ x: dot.x - 7, y: dot.y - 7, width: 14, height: 14 })), names = [];
  const free = box => box.x >= L + 2 && box.x + box.width <= W - 2 && box.y >= 0 && box.y + box.height <= H - B
    && !taken.some(other => box.x < other.x + other.width && other.x < box.x + box.width && box.y < other.y + other.height && other.y < box.y + box.height);
  for (const dot of dots) {
    const text = dot.row.label.length > 22 ? dot.row.label.slice(0, 21) + "…" : dot.row.label, width = pen.measureText(text).width + 4, height = 14;
    const spots = [0, 16, 32, 48, 64].flatMap(off => [[9 + off / 3, 0], [-9 - off / 3 - width, 0], [-width / 2, -16], [-width / 2, 16]].flatMap(([right, down]) => {
      const moved = down ? [Math.sign(down) * (16 + off)] : off ? [-off, off] : [0];
      return moved.map(by => ({ x: dot.x + right, y: dot.y - 7 + by, width, height, far: off > 0 }));
    }));
    const box = spots.find(free);
    if (!box) continue;
    taken.push(box);
    names.push({ ...box, dot, text, near: Math.min(Math.max(dot.x, box.x), box.x + box.width) });
  }
  return names;
}

function heat(caption, corner, matrix, show, title) {
  const width = Math.max(...matrix.map(row => row.length)), most = Math.max(1e-9, ...matrix.flat().filter(value => value !== null));
  const numbers = Array.from({ length: width }, (_, at) => make("th", { scope: "col" }, `${at + 1}`));
  const rows = matrix.map((row, i) => make("tr", {}, make("th", { scope: "row" }, `${i + 1}`), ...Array.from({ length: width }, (_, j) => {
    if (row[j] === undefined || row[j] === null) return make("td", { class: "unknown" });
    const cell = make("td", { title: title(i, j, row[j]) }, show(row[j])), strength = row[j] / most;
    cell.style.background = `rgba(var(--heat), ${(.85 * strength).toFixed(2)})`;
    if (strength > .6) cell.style.color = "#fff";
    return cell;
  })));
  return make("section", {}, make("h3", {}, caption), make("div", { class: "scroll heat", tabindex: 0, role: "region", "aria-label": caption },
    make("table", {}, make("thead", {}, make("tr", {}, make("th", { class: "soft" }, corner), ...numbers)), make("tbody", {}, ...rows))));
}

function forgettingBars(matrix) {
  const last = matrix.length - 1, drops = Array.from({ length: last }, (_, j) => Math.max(...matrix.slice(j, last).map(row => row[j])) - matrix[last][j]);
  if (!drops.length) return null;
  const low = Math.min(0, ...drops), high = Math.max(.1, ...drops), width = (W - L - R) / drops.length;
  const [figure, svg, y] = frame("Forgetting of each task: best accuracy before the last task, less the last (points)", "task", drops.map((_, j) => [L + width * (j + .5), j + 1]), low, high);
  drops.forEach((drop, j) => svg.append(make("rect", { x: L + width * (j + .15), width: width * .7, y: y(Math.max(0, drop)), height: Math.abs(y(0) - y(drop)), fill: COLOURS[1] }, make("title", {}, `task ${j + 1}: ${percent(drop)}`))));
  return figure;
}

function openRun(at) {
  const run = DATA.runs[at], stream = DATA.streams[run.stream], dialog = byId("run");
  const matrix = run.correct.map(row => row.map((right, j) => right / stream.total[j])), names = stream.names;
  const facts = Object.entries(run.facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  const parts = [heat("Accuracy (%) on each task (column) after each task (row)", "after \\ on", matrix, percent, (i, j, value) => `task ${j + 1} after task ${i + 1}: ${percent(value)} %`), forgettingBars(matrix)];
  if (run.confusion) {
    parts.push(heat("Confusion between tasks: rows of each task (row) that were given a class of each task (column), after the last", "true \\ given", run.confusion, String, (i, j, value) => `${value} images of task ${i + 1} taken for task ${j + 1}`));
    parts.push(make("h3", {}, "Most confused classes"), run.pairs.length ? make("table", {}, make("thead", {}, make("tr", {}, ...["true", "given", "images"].map(text => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...run.pairs.map(([label, given, count]) => make("tr", {}, make("td", {}, names[label]), make("td", {}, names[given]), make("td", {}, `${count}`))))) : make("p", {}, "None."));
  } else parts.push(make("p", { class: "soft" }, run.without));
  if (run.samples && run.samples.length) {
    parts.push(make("h3", {}, "Generated sentences"), make("ul", { class: "samples" }, ...run.samples.map(([image, label, given, answer]) => make("li", { class: label === given ? "right" : "wrong" },
      DATA.images[image] ? make("img", { src: DATA.images[image], alt: `an image of ${names[label]}` }) : null,
      make("div", {}, make("strong", {}, label === given ? "right" : "wrong"), make("div", {}, `“${answer}”`), make("div", { class: "soft" }, `true: ${names[label]}; taken for: ${names[given] ?? "no class"}`))))));
  }
  dialog.replaceChildren(make("header", {}, make("h2", { id: "run-title" }, `${run.label}, seed ${run.seed}`), make("button", { type: "button", onclick: () => dialog.close() }, "Close")),
    make("dl", {}, ...facts), ...parts.filter(part => part !== null));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function follow() {
  const found = /^#run=(\d+)$/.exec(location.hash);
  if (!found || !DATA.runs[found[1]]) return;
  if (DATA.runs[found[1]].stream !== state.stream) { byId("stream").value = state.stream = DATA.runs[found[1]].stream; draw(); }
  openRun(+found[1]);
}
function draw() { if (DATA.streams.length) { offerRules(); drawTable(); drawCharts(); } else byId("board").replaceChildren(make("caption", {}, "No record may stand in a table yet.")); }
function list(title, items) { if (items.length) byId("remarks").append(make("h2", {}, title), make("ul", {}, ...items.map(text => make("li", {}, text)))); }

byId("legend").append(...DATA.columns.flatMap(column => [make("dt", {}, column.head), make("dd", {}, column.says)]));
byId("stream").append(...DATA.streams.map((stream, at) => make("option", { value: at }, stream.key)));
byId("stream").addEventListener("change", event => { state.stream = +event.target.value; state.hidden.clear(); draw(); });
for (const name of ["filter", "rule", "bytes", "scratch", "more"]) byId(name).addEventListener("input", draw);
byId("run").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
window.addEventListener("hashchange", follow);
list("Notes", DATA.notes);
list("Refused records", DATA.refused);
if (DATA.streams.length) offerRules();
byId("rule").value = DATA.only.rule ?? ""; byId("bytes").value = DATA.only.bytes ?? ""; byId("scratch").checked = DATA.only.scratch;
if (byId("rule").selectedIndex < 0) byId("rule").value = "";
draw();
follow();
