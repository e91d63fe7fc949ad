// What all other scripts use: the data, the state, numbers as text, nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const EACH = "";  // the scope that stands for every one of the asked level, as small multiples
const AXIS = { training_flops: "training FLOPs", inference_flops: "inference FLOPs per item" };
const COMPUTE = { training_flops: "training compute", inference_flops: "inference compute" };
const MARK = { training_flops: "on_training_frontier", inference_flops: "on_inference_frontier" };
const missing = value => value === null || value === undefined;
const each = [...new Set(data.points.filter(r => r.kind === data.level).map(r => r.scope))];
const offered = [...(each.length > 1 ? [EACH] : []), ...data.scopes];
const state = { scope: offered[0], x: "training_flops", hidden: new Set() };
const shownScopes = () => state.scope === EACH ? each : [state.scope];
const scopeName = () => state.scope === EACH ? `each ${data.level}` : state.scope;

// The state as the part of the address after #, so that a view can be shared and survives a reload.
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.x = given.get("compute") in AXIS ? given.get("compute") : "training_flops";
  state.scope = offered.includes(given.get("over")) ? given.get("over") : offered[0];
  state.hidden = new Set(given.getAll("hide"));
}
function writeAddress() {
  const given = new URLSearchParams();
  if (state.x !== "training_flops") given.set("compute", state.x);
  if (state.scope !== offered[0]) given.set("over", state.scope);
  for (const name of state.hidden) given.append("hide", name);
  history.replaceState(null, "", `#${given}`);
}

const superscript = n => String(n).replace(/./g, c => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻");
const flops = v => missing(v) ? "–" : v === 0 ? "0" : (e => `${(v / 10 ** e).toFixed(2)} × 10${superscript(e)}`)(Math.floor(Math.log10(v)));
const percent = v => missing(v) ? "–" : (100 * v).toFixed(1);
const whole = v => missing(v) ? "–" : Math.round(v).toLocaleString("en");
const text = v => missing(v) || v === "" ? "–" : String(v);
const tenths = v => Math.round(1000 * v) / 10 + 0;  // adding 0 turns -0 into 0
const points = v => missing(v) ? "–" : (tenths(v) > 0 ? "+" : "") + tenths(v).toFixed(1);
const between = (low, high) => missing(low) || missing(high) ? "–" : `[${points(low)}, ${points(high)}]`;
const many = (n, name) => `${whole(n)} ${name}${n === 1 ? "" : "s"}`;
// Hours in the largest unit of which there is at least one. As `span` of jobs/core/wording.py, but no hours are a dash, and below half a second is not 0 s.
const span = h => h >= 100 ? `${whole(h)} h` : h >= 1 ? `${+h.toPrecision(3)} h` : h * 60 >= 1 ? `${whole(h * 60)} min` : h * 3600 >= 0.5 ? `${whole(h * 3600)} s` : h > 0 ? "under 1 s" : "–";
const energy = joules => missing(joules) || !joules ? "–" : joules < 3.6e6 ? `${+(joules / 3600).toPrecision(3)} Wh` : `${+(joules / 3.6e6).toPrecision(3)} kWh`;
const standing = new Map(data.standing.map(s => [`${s.scope}\n${s.axis}\n${s.student}`, s]));
const stand = (r, axis = state.x) => standing.get(`${r.scope}\n${axis}\n${r.student}`) ?? {};
const accuracy = r => percent(r.accuracy) + (missing(r.stderr) ? "" : ` ± ${percent(r.stderr)}`);
const color = r => { const c = data.colors[r.size]; return !c || c === "#000000" ? "var(--ink)" : `color-mix(in oklab, ${c}, white var(--lift))`; };
const visible = r => !state.hidden.has(`size ${r.size}`) && !state.hidden.has(`share ${r.share}`);

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
function draw(parent, name, attributes, content) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (content !== undefined) node.textContent = content;
  parent.append(node);
  return node;
}
function light(student, on) {
  for (const node of document.querySelectorAll("[data-student]"))
    if (node.dataset.student === student) node.classList.toggle("lit", on);
}
