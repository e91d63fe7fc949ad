// The tables: questions, students, comparisons, results, and what the study used.

// A table that sorts by the header that is clicked. Columns: [title, key, shown, kind of cells].
const number = "number", wrap = "wrap";
function table(box, columns, rows, caption) {
  const place = box.sorted ?? null;
  const head = make("tr"), body = make("tbody");
  const order = (column, down) => [...rows].sort((a, b) => {
    const [p, q] = [a[column[1]], b[column[1]]];
    if (missing(p) || missing(q)) return missing(p) - missing(q);
    return (column[3] === number ? p - q : String(p).localeCompare(String(q), "en", { numeric: true })) * (down ? -1 : 1);
  });
  const fill = found => body.replaceChildren(...found.map(r => {
    const line = make("tr", { "data-student": r.student ?? "" });
    line.addEventListener("mouseenter", () => light(r.student, true));
    line.addEventListener("mouseleave", () => light(r.student, false));
    line.append(...columns.map(([, key, shown, kind = ""], i) => make("td", i ? { class: kind } : { class: kind, title: text(r[key]) }, shown(r[key], r))));
    return line;
  }));
  const sort = (title, down) => {
    box.sorted = [title, down];
    for (const cell of head.children) cell.removeAttribute("aria-sort");
    const i = columns.findIndex(c => c[0] === title);
    head.children[i].setAttribute("aria-sort", down ? "descending" : "ascending");
    fill(order(columns[i], down));
  };
  columns.forEach(([title, , , kind = ""]) => {
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => sort(title, box.sorted?.[0] === title ? !box.sorted[1] : kind === number));
    head.append(make("th", { scope: "col", class: kind }, button));
  });
  box.replaceChildren(make("table", { "aria-label": caption }, make("thead", {}, head), body));
  if (place && columns.some(c => c[0] === place[0])) sort(...place); else fill(rows);
}

// One block for each question, one row for each scope: the answers at training and at inference compute.
function drawQuestions() {
  $("questions-part").hidden = !data.questions.length;
  const look = answer => answer === "" ? "" : /^(yes|reasoning)/.test(answer) ? "yes" : /^(no$|plain)/.test(answer) ? "no" : "open";
  const cell = (answer, evidence, columns = 1) => make("td", { colspan: columns }, make("b", { class: look(answer) }, text(answer)), make("small", {}, evidence));
  const row = r => {
    const alike = r.training === r.inference && r.training_evidence === r.inference_evidence;
    const cells = alike ? [cell(r.training, r.training_evidence, 2)] : [cell(r.training, r.training_evidence), cell(r.inference, r.inference_evidence)];
    const lines = [make("tr", { "data-question": r.question }, make("th", { scope: "row" }, r.scope), ...cells)];
    if (r.why) lines.push(make("tr", { class: "why" }, make("td"), make("td", { colspan: 2 }, `Why they differ: ${r.why}`)));
    return lines;
  };
  for (const question of new Set(data.questions.map(r => r.question))) {
    const head = ["over", "training compute", "inference compute"].map(name => make("th", { scope: "col" }, name));
    $("questions").append(make("h3", {}, question), make("table", { class: "asked" }, make("thead", {}, make("tr", {}, ...head)),
      make("tbody", {}, ...data.questions.filter(r => r.question === question).flatMap(row))));
  }
}

const dotted = mark => (v, r) => make("span", r[mark] ? { class: "on", title: "on the frontier" } : {}, flops(v));
const over = () => shownScopes().length > 1 ? [["over", "scope", text]] : [];
function nearFrontier(r) {
  if (missing(stand(r).axis)) return "–";
  if (missing(r.gap)) return "yes";
  return missing(r.gap_high) ? "not known" : r.gap_high <= data.near ? "yes" : r.gap_low > data.near ? "no" : "unclear";
}
function drawStudents(rows) {
  $("points-title").textContent = `Students: ${scopeName()}`;
  rows = rows.map(r => ({ ...r, ...Object.fromEntries(["probability", "gap", "gap_low", "gap_high"].map(k => [k, stand(r)[k]])) }));
  table($("points"), [["student", "student", text], ...over(), ["size", "size", text], ["trained on", "supervision", text],
    ["training FLOPs", "training_flops", dotted(MARK.training_flops), number],
    ["FLOPs per item", "inference_flops", dotted(MARK.inference_flops), number], ["tokens per item", "output_tokens", whole, number],
    ["accuracy, %", "accuracy", (_, r) => accuracy(r), number], ["how often on it, %", "probability", v => missing(v) ? "–" : whole(100 * v), number],
    ["below it, points", "gap", (v, r) => missing(v) ? "–" : `${points(v)} ${between(r.gap_low, r.gap_high)}`, number],
    [`on or near (${100 * data.near} point${data.near === .01 ? "" : "s"})`, "gap_high", (_, r) => nearFrontier(r)]],
    rows, `students, ${scopeName()}`);
}
function drawMatched() {
  const compared = data.matched.filter(r => shownScopes().includes(r.scope) && r.axis === state.x);
  $("matched-part").hidden = !compared.length;
  $("matched-title").textContent = `At the same ${COMPUTE[state.x]}: ${scopeName()}`;
  table($("matched"), [["student", "student", text], ...over(), ["trained on", "supervision", text], [AXIS[state.x], "flops", flops, number],
    ["accuracy, %", "accuracy", percent, number], ["plain answers there, %", "plain", (v, r) => percent(v) + (r.extrapolated ? " extrapolated" : ""), number],
    ["difference", "difference", points, number], ["95 %, each", "low", (_, r) => between(r.low, r.high), number],
    ["95 %, all", "low_all", (_, r) => between(r.low_all, r.high_all), number], ["break-even", "break_even", text]], compared, `same compute, ${scopeName()}`);
}
function drawResults() {
  const scopes = new Set(shownScopes()), kind = data.points.find(r => scopes.has(r.scope))?.kind;
  const inside = data.results.filter(r => kind === "average" ? missing(r.within) : scopes.has(kind === "group" ? `${r.domain}, ${r.format}` : r.benchmark));
  table($("results"), [["student", "student", text], ["benchmark", "benchmark", text], ["group", "domain", (v, r) => `${text(v)}, ${text(r.format)}`],
    ["metric", "metric", text], ["version", "task_version", text], ["items", "n", whole, number], ["accuracy, %", "accuracy", (_, r) => accuracy(r), number],
    ["FLOPs per item", "inference_flops", flops, number], ["tokens per item", "output_tokens", whole, number],
    ["of them reasoning", "reasoning_tokens", whole, number], ["file", "source", text]], inside, `results, ${scopeName()}`);
}

function drawUsage() {
  $("usage-part").hidden = !data.usage.length;
  const gpus = data.usage.some(r => r.gpu_hours), named = (key, name, shown) => data.usage.some(r => r[key]) ? [[name, key, shown, number]] : [];
  table($("usage"), [["stage", "stage", text], ["units", "units", whole, number], ["runs", "runs", whole, number],
    ["interrupted", "interrupted", (v, r) => whole(v) + (r.untimed ? ` (${r.untimed} not timed)` : ""), number], ["job time", "hours", span, number],
    ...(gpus ? [["GPU time", "gpu_hours", span, number], ["of it in interrupted runs", "interrupted_gpu_hours", span, number]] : []),
    ...named("flops", "FLOPs", v => v ? flops(v) : "–"), ...named("joules", "energy of its nodes", energy)], data.usage, "usage");
}
function drawTeacher() {
  $("teacher-part").hidden = !data.teacher.length;
  table($("teacher"), [["teacher", "teacher", text], ["mode", "mode", text], ["answers", "answers", whole, number], ["mean tokens", "tokens", whole, number],
    ["max_tokens", "max_tokens", whole, number], ["cut off", "cut_off", (v, r) => `${whole(v)} (${(100 * v / r.answers).toFixed(1)} %)`, number]], data.teacher, "teacher");
}
function drawDropped() {
  $("dropped-part").hidden = !data.dropped.length;
  if (!data.dropped.length) return;
  if (data.dropped.every(r => !r.dropped)) {
    $("dropped").replaceChildren(make("p", {}, `Nothing was dropped: all ${many(Math.max(...data.dropped.map(r => r.prompts)), "prompt")} were kept, in both modes.`));
    return;
  }
  table($("dropped"), [["stage", "stage", text], ["rows", "rows", text], ["prompts", "prompts", whole, number], ["kept", "kept", whole, number],
    ["reason", "reason", v => text(v?.replaceAll("_", " "))], ["dropped", "dropped", whole, number]], data.dropped, "dropped");
}
function drawFiltered() {
  $("filtered-part").hidden = !data.filtered.length;
  $("contaminated-part").hidden = !data.contaminated.length;
  const from = key => (v, r) => [r[`${key}_before`], v].map(key === "correct" ? percent : whole).join(" → ");
  const judged = data.filtered.some(r => r.judged) ? [["correct, %", "correct", from("correct"), number]] : [];
  table($("filtered"), [["mode", "mode", text], ["prompts", "prompts", from("prompts"), number],
    ["mean length", "length", (v, r) => `${from("length")(v, r)} ${r.lengths_in}`, number], ...judged], data.filtered, "filters");
  table($("contaminated"), [["benchmark", "benchmark", text], ["prompts", "prompts", whole, number]], data.contaminated, "contaminated");
}
function drawProvenance() {
  $("provenance-part").hidden = !data.provenance.length;
  const commit = v => make("code", { title: v }, v.replace(/^([0-9a-f]{12})[0-9a-f]+/, "$1"));
  table($("provenance"), [["stage", "stage", text, wrap], ["units", "count", text, number], ["commit", "commit", commit],
    ["hardware", "hardware", text, wrap], ["packages", "packages", text, wrap]], data.provenance, "provenance");
}
