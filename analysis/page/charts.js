// The charts: accuracy against compute and against the share of reasoning, a panel for each scope.

// Markers: the names are matplotlib's, so that the page and the figures look alike. Size: about 2r.
const around = (n, r, turn) => Array.from({ length: n }, (_, i) => {
  const a = turn + 2 * Math.PI * i / n; return `${(r * Math.sin(a)).toFixed(2)},${(-r * Math.cos(a)).toFixed(2)}`; }).join("L");
const PATHS = {
  o: r => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`, s: r => `M${around(4, r * 1.3, Math.PI / 4)}Z`,
  "^": r => `M${around(3, r * 1.3, 0)}Z`, v: r => `M${around(3, r * 1.3, Math.PI)}Z`, D: r => `M${around(4, r * 1.3, 0)}Z`,
  p: r => `M${around(5, r * 1.15, 0)}Z`,
  P: r => (w => `M${-w},${-r}H${w}V${-w}H${r}V${w}H${w}V${r}H${-w}V${w}H${-r}V${-w}H${-w}Z`)(r / 2.6),
  X: r => (w => `M0,${-w}L${r - w},${-r}L${r},${w - r}L${w},0L${r},${r - w}L${r - w},${r}L0,${w}L${w - r},${r}L${-r},${r - w}L${-w},0L${-r},${w - r}L${w - r},${-r}Z`)(r / 2),
};
const markerOf = share => (data.markers.find(m => m[0] === share) ?? [0, "o"])[1];
const hollow = r => data.both_orders && r.share > 0 && r.share < 1 && r.order === "shuffled";
const star = (n, r) => `M${Array.from({ length: 2 * n }, (_, i) => around(1, i % 2 ? r * .55 : r * 1.3, Math.PI * i / n)).join("L")}Z`;
const outline = (shape, r) => shape.startsWith("star") ? star(+shape.slice(4), r) : PATHS[shape](r);
function marker(parent, shape, fill, open, r) {
  draw(parent, "path", { d: outline(shape, r), style: `fill:${open ? "var(--bg)" : fill};stroke:${open ? fill : "var(--bg)"}`, "stroke-width": open ? 1.8 : 1 });
}

function showTip(r, event) {
  const list = make("dl"), often = stand(r).probability;
  for (const [key, value] of [["over", r.scope], ["trained on", r.supervision], ["size", text(r.size)],
    ["accuracy, %", accuracy(r)], ["items", whole(r.n)], ["training FLOPs", flops(r.training_flops)],
    ["FLOPs per item", flops(r.inference_flops)], ["tokens per item", whole(r.output_tokens)],
    ["of them reasoning", whole(r.reasoning_tokens)], ["seeds", whole(r.seeds)],
    ["on the frontier in", missing(often) ? "–" : `${whole(100 * often)} % of resamples`]]) list.append(make("dt", {}, key), make("dd", {}, value));
  const tip = $("tip");
  tip.replaceChildren(make("b", {}, r.student), list);
  tip.hidden = false;
  const box = event.target.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const beside = box.right + 10 + own.width < innerWidth ? box.right + 10 : box.left - own.width - 10;
  tip.style.left = `${Math.max(8, Math.min(beside, innerWidth - own.width - 8))}px`;
  tip.style.top = `${Math.max(8, Math.min(box.top - own.height / 2, innerHeight - own.height - 8))}px`;
  light(r.student, true);
}
function hideTip(r) { $("tip").hidden = true; light(r.student, false); }

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find(m => m * power >= rough);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) found.push(v);
  return found;
}
// Ticks between two powers of ten: the finest of some steps that leaves room for the labels.
function logTicks(low, high, room) {
  const made = (digits, every) => {
    const found = [];
    for (let e = Math.floor(low); e <= high; e++) for (const d of digits) {
      const at = e + Math.log10(d);
      if (at >= low && at <= high && e % every === 0) found.push([at, (d > 1 ? `${d}×` : "") + `10${superscript(e)}`]);
    }
    return found;
  };
  const steps = [[[1, 2, 3, 4, 5, 6, 8], 1], [[1, 2, 5], 1], [[1, 3], 1], ...[1, 2, 3, 4, 6, 8, 12].map(every => [[1], every])];
  return steps.map(step => made(...step)).find(found => found.length <= room) ?? [];
}
// What all panels of a chart share: the ranges, so that panels can be compared by eye.
function ranges(rows, xs, margin) {
  const lows = rows.map(r => r.accuracy - (r.stderr ?? 0)), highs = rows.map(r => r.accuracy + (r.stderr ?? 0));
  const [y0, y1] = [100 * Math.min(...lows), 100 * Math.max(...highs)], pad = Math.max((y1 - y0) * .06, 1);
  return { y: [y0 - pad, y1 + pad], x: [Math.min(...xs) - margin, Math.max(...xs) + margin] };
}
// A panel's frame. Gives the svg and the two scales; x is in the units of the axis.
function frame(box, range, label, xTicks, tall) {
  const width = Math.max(280, box.clientWidth), height = tall ? 400 : 290, left = 46, right = width - 14, top = 10, bottom = height - 46;
  const svg = draw(box, "svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `accuracy in % against ${label}` });
  const [[y0, y1], [x0, x1]] = [range.y, range.x];
  const x = v => left + (v - x0) / (x1 - x0) * (right - left), y = v => bottom - (100 * v - y0) / (y1 - y0) * (bottom - top);
  for (const v of ticks(y0, y1, 5)) {
    draw(svg, "line", { class: "grid", x1: left, x2: right, y1: y(v / 100), y2: y(v / 100) });
    draw(svg, "text", { x: left - 8, y: y(v / 100) + 4, "text-anchor": "end" }, String(+v.toFixed(2)));
  }
  for (const [at, name] of xTicks(x0, x1, Math.floor((right - left) / 62))) {
    draw(svg, "line", { class: "grid", x1: x(at), x2: x(at), y1: top, y2: bottom });
    draw(svg, "text", { class: "tick", x: x(at), y: bottom + 19, "text-anchor": "middle" }, name);
  }
  draw(svg, "path", { class: "axis", d: `M${left},${top}V${bottom}H${right}`, fill: "none" });
  draw(svg, "text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, label);
  draw(svg, "text", { x: 12, y: (top + bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(top + bottom) / 2})` }, "accuracy, %");
  return { svg, x, y, left, right, top, bottom };
}
function point(svg, r, px, y, on) {
  const group = draw(svg, "g", { class: on ? "point" : "point off", tabindex: 0, role: "img", "data-student": r.student,
    transform: `translate(${px},0)`, "aria-label": `${r.student}, ${r.supervision}: ${accuracy(r)} % at ${flops(r[state.x])} ${AXIS[state.x]}${on ? "" : ", not on the frontier"}` });
  if (!missing(r.stderr))
    draw(group, "line", { y1: y(r.accuracy - r.stderr), y2: y(r.accuracy + r.stderr), style: `stroke:${color(r)}`, "stroke-width": 1.4 });
  const at = draw(group, "g", { transform: `translate(0,${y(r.accuracy)})` });
  marker(at, markerOf(r.share), color(r), hollow(r), on ? 7 : 5.5);
  draw(at, "circle", { class: "halo", r: 11 });
  for (const name of ["mouseenter", "focus"]) group.addEventListener(name, event => showTip(r, event));
  for (const name of ["mouseleave", "blur"]) group.addEventListener(name, () => hideTip(r));
}
// Label points where there is room, those on the frontier first: off the line if possible, or not at all.
function labels(panel, rows, at) {
  const { svg, y, left, right, top, bottom } = panel;
  const taken = rows.map(r => [at(r) - 7, y(r.accuracy) - 7, at(r) + 7, y(r.accuracy) + 7]);
  const free = b => b[0] >= left && b[2] <= right + 12 && b[1] >= top - 8 && b[3] <= bottom && !taken.some(t => b[0] < t[2] && t[0] < b[2] && b[1] < t[3] && t[1] < b[3]);
  for (const r of [...rows].sort((a, b) => b[MARK[state.x]] - a[MARK[state.x]])) {
    const name = text(r.size), wide = 7 * name.length, [px, py] = [at(r), y(r.accuracy)];
    const places = [[px + 7, py + 17], [px + 7, py - 9], [px - wide - 7, py - 9], [px - wide / 2, py + 21],
      [px - wide - 7, py + 17], [px + 10, py + 4], [px - 10 - wide, py + 4]];
    const place = places.find(([lx, ly]) => free([lx, ly - 10, lx + wide, ly + 2]));
    if (!place || missing(r.size)) continue;
    taken.push([place[0], place[1] - 10, place[0] + wide, place[1] + 2]);
    draw(svg, "text", { class: r[MARK[state.x]] ? "name" : "name off", x: place[0], y: place[1] }, name);
  }
}

function finding(scope) {
  const found = data.answers.find(a => a.scope === data.asked[scope] && a.axis === state.x);
  return found ? found.finding : "";
}
// A figure for each shown scope; `fill` draws into its box.
function panels(box, rows, fill) {
  box.replaceChildren();
  const scopes = shownScopes();
  box.classList.toggle("pairs", [2, 4].includes(scopes.length));
  const boxes = scopes.map(scope => {
    const own = make("div"), said = box.id === "frontier" ? finding(scope) : "";
    box.append(make("figure", { "data-scope": scope }, make("figcaption", {}, scope, make("span", {}, said && `: ${said}`)), own));
    return [own, rows.filter(r => r.scope === scope)];
  });
  for (const [own, rows] of boxes) fill(own, rows, scopes.length === 1);
}

function drawFrontier(rows) {
  $("chart-title").textContent = `Accuracy against ${AXIS[state.x]}`;
  const known = rows.filter(r => r[state.x] > 0 && !missing(r.accuracy)), xs = known.map(r => Math.log10(r[state.x]));
  const range = known.length && ranges(known, xs, Math.max(.07 * (Math.max(...xs) - Math.min(...xs)), .08));
  panels($("frontier"), known, (box, own, tall) => {
    if (!own.length) box.append(make("p", { class: "note" }, `The ${COMPUTE[state.x]} of these students is not known.`));
    else drawPanel(frame(box, range, AXIS[state.x], logTicks, tall), own);
  });
}
function drawPanel(panel, known) {
  const { svg, x, y, right } = panel, at = r => x(Math.log10(r[state.x]));
  const banded = known.map(r => ({ r, s: stand(r) })).filter(b => !missing(b.s.band_low)).sort((a, b) => a.r[state.x] - b.r[state.x] || a.s.band_high - b.s.band_high);
  if (banded.length) {
    const edge = name => banded.map((b, i) => (i ? `H${at(b.r)}V` : `${at(b.r)},`) + y(Math.min(1, Math.max(0, b.s[name])))).join("") + `H${right}`;
    const back = banded.map((b, i) => [i + 1 < banded.length ? at(banded[i + 1].r) : right, at(b.r), y(Math.max(0, b.s.band_low))]).reverse();
    draw(svg, "path", { class: "band", d: `M${edge("band_high")}${back.map(([from, to, h]) => `L${from},${h}H${to}`).join("")}Z` });
  }
  const best = known.filter(r => r[MARK[state.x]]).sort((a, b) => a[state.x] - b[state.x]);
  const path = best.map((r, i) => i ? `H${at(r)}V${y(r.accuracy)}` : `M${at(r)},${y(r.accuracy)}`).join("");
  if (best.length) draw(svg, "path", { class: "steps", d: `${path}H${right}` });
  const shown = known.filter(visible).sort((a, b) => a[MARK[state.x]] - b[MARK[state.x]]);
  shown.forEach(r => point(svg, r, at(r), y, r[MARK[state.x]]));
  labels(panel, shown, at);
}

function drawMixtures(rows) {
  const known = rows.filter(r => !missing(r.share) && !missing(r.accuracy)), shares = data.markers.map(m => m[0]);
  $("mixtures-part").hidden = shares.length < 3 || !known.length;
  if ($("mixtures-part").hidden) return;
  const range = ranges(known, [0, 100], 6);
  panels($("mixtures"), known.filter(visible), (box, own, tall) => {
    const { svg, x, y } = frame(box, range, "share of reasoning, %", () => shares.map(s => [100 * s, String(Math.round(100 * s))]), tall);
    for (const size of data.sizes) for (const recipe of new Set(own.map(r => r.recipe)))
      drawLines(svg, own.filter(r => r.size === size && r.recipe === recipe), shares, x, y);
    own.forEach(r => point(svg, r, x(100 * r.share), y, true));
  });
}
function drawLines(svg, own, shares, x, y) {
  const mixed = own.filter(r => r.share > 0 && r.share < 1);
  for (const order of mixed.length ? new Set(mixed.map(r => r.order)) : [null]) {
    const line = own.filter(r => r.share === 0 || r.share === 1 || r.order === order);
    const path = shares.map(s => [s, line.filter(r => r.share === s)]).filter(([, found]) => found.length)
      .map(([s, found]) => `${x(100 * s)},${y(found.reduce((sum, r) => sum + r.accuracy, 0) / found.length)}`).join("L");
    if (path) draw(svg, "path", { d: `M${path}`, fill: "none", style: `stroke:${color(own[0])}`, "stroke-width": 1.8,
      "stroke-dasharray": data.both_orders && order === "shuffled" ? "5 4" : "none" });
  }
}
// The legend: a button for each size and each supervision, which hides and shows its students.
function drawLegend() {
  const entry = (key, name, shape, fill, open) => {
    const button = make("button", { type: "button", "aria-pressed": !state.hidden.has(key) });
    marker(draw(button, "svg", { viewBox: "-9 -9 18 18", "aria-hidden": "true" }), shape, fill, open, 6);
    button.append(name);
    button.addEventListener("click", () => {
      state.hidden.has(key) ? state.hidden.delete(key) : state.hidden.add(key);
      update();
      [...$("legend").querySelectorAll("button")].find(b => b.textContent === name).focus();
    });
    return button;
  };
  $("legend").replaceChildren(...data.sizes.map(size => entry(`size ${size}`, size, "o", color({ size }))), make("i"),
    ...data.markers.map(([share, shape, name]) => entry(`share ${share}`, name, shape, "var(--soft)")));
  if (data.both_orders) $("legend").append(make("span", { class: "note" }, "hollow: shuffled"));
}
