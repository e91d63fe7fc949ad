// The page as a whole: what it says at the top, its controls, and drawing all of it again.
function update() {
  const scopes = new Set(shownScopes()), rows = data.points.filter(r => scopes.has(r.scope));
  for (const input of document.querySelectorAll("input[name=x]")) input.checked = input.value === state.x;
  $("scope").value = state.scope;
  writeAddress();
  drawLegend();
  drawFrontier(rows);
  drawMixtures(rows);
  drawMatched();
  drawStudents(rows);
  drawResults();
}
function drawTop() {
  document.title = `Scale or reason? ${data.study}`;
  $("lead").textContent = `Study ${data.study}: ${many(data.counts.student, "student")}, ${many(data.counts.benchmark, "benchmark")}, ${many(data.counts.row, "result")}.`;
  $("answer").append(...data.sentences.map(sentence => make("p", {}, sentence)));
  if (data.warnings.length) {
    $("warnings").hidden = false;
    $("warnings").append(make("h2", {}, "Read these numbers with care"), make("ul", {}, ...data.warnings.map(w => make("li", {}, w))));
  }
  $("files").append(...data.files.flatMap((name, i) => [i ? ", " : "", make("a", { href: encodeURIComponent(name) }, name)]));
}
function start() {
  readAddress();
  drawTop();
  if (offered.includes(EACH)) $("scope").append(make("option", { value: EACH }, `each ${data.level}`));
  for (const [kind, label] of [["average", "Average"], ["group", "Groups"], ["benchmark", "Benchmarks"]]) {
    const names = data.scopes.filter(scope => data.points.find(r => r.scope === scope).kind === kind);
    if (names.length) $("scope").append(make("optgroup", { label }, ...names.map(n => make("option", { value: n }, n))));
  }
  $("scope").addEventListener("change", event => { state.scope = event.target.value; update(); });
  for (const input of document.querySelectorAll("input[name=x]"))
    input.addEventListener("change", () => { state.x = input.value; update(); });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; update(); } });
  addEventListener("hashchange", () => { readAddress(); update(); });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { d.open = true; }));
  drawQuestions();
  drawTeacher();
  drawDropped();
  drawFiltered();
  drawUsage();
  drawProvenance();
  update();
}
start();
