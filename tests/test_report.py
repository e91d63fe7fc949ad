"""The report: its files say what the results say, and figures and page show every student."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import debian
import numpy as np
import pandas as pd
import pytest
from made_results import benchmark, each_row, evaluation, nine_students, results_table
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from rich.console import Console

from analysis import plots
from analysis.report import Report, analyse, print_report, run, write_report
from analysis.results.collect import collect
from analysis.results.csv_files import write_csv
from analysis.statistics.frontier import frontier_table
from analysis.terminal import questions_table, terminal_table
from jobs.core.unit import Unit
from jobs.runtime.context import Context
from jobs.store import journal
from jobs.store.rundir import StudyDir, read_json, write_json

SHARES = (0.0, 0.5, 1.0)
HARD = "hard</script><b>"
Study = tuple[Path, list[Unit]]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three sizes times three shares on two benchmarks, the name of one of which would end a script."""
    return tmp_path / "demo", nine_students(tmp_path / "demo", HARD)


def page_of(report: Report) -> Path:
    """The page, which has to be written."""
    assert report.page is not None
    return report.page


def page_data(report: Report) -> dict[str, Any]:
    (found,) = re.findall(
        r'<script id="data" type="application/json">(.*?)</script>',
        page_of(report).read_text(encoding="utf-8"),
        re.DOTALL,
    )
    data: dict[str, Any] = json.loads(found)
    return data


def test_files_hold_what_was_collected_and_the_page_is_whole(study: Study, tmp_path: Path) -> None:
    root, _ = study
    report = write_report(root, tmp_path / "new" / "out")
    out, data = page_of(report).parent, page_data(report)
    results, points = pd.read_csv(out / "results.csv"), pd.read_csv(out / "frontier.csv")
    assert len(results) == len(report.results) == 18
    assert results["accuracy"].tolist() == report.results["accuracy"].tolist()
    assert len(points) == len(data["points"]) == 9 * 5  # the mean, two groups, two benchmarks
    assert (
        points["on_training_frontier"].tolist() == report.tables["frontier"]["on_training_frontier"].tolist()
    )
    assert {file.name for file in out.iterdir()} == {*data["files"], "report.html"}
    for name in ("frontier-training", "frontier-inference", "mixtures-benchmarks"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ET.parse(out / f"{name}.svg").getroot().tag.endswith("svg")
    assert "easy" in (out / "frontier-training-benchmarks.svg").read_text(encoding="utf-8")
    assert data["points"][0]["accuracy"] == pytest.approx(0.25)
    assert data["sizes"] == ["0.5B", "3B", "14B"]
    page = page_of(report).read_text(encoding="utf-8")
    assert page.count("</script>") == 2  # a benchmark's name does not end the script
    assert not re.findall(
        r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", page
    )  # nothing from a network
    stages = {entry["stage"]: entry for entry in data["provenance"]}
    assert stages["evaluate"]["count"] == "9"
    assert stages["train"]["commit"] == "0123456789abcdef with uncommitted changes"
    assert "2 × NVIDIA H100" in stages["train"]["hardware"]
    assert "torch 2.13.0" in stages["train"]["packages"]


def test_units_of_one_origin_are_one_row(study: Study, tmp_path: Path) -> None:
    root, _ = study
    before = page_data(write_report(root, tmp_path / "before"))["provenance"]
    assert [(entry["stage"], entry["count"]) for entry in before] == [("train", "9"), ("evaluate", "9")]
    for file in root.glob("*/*/out/provenance.json"):
        write_json(file, read_json(file) | {"code": {"commit": "0123", "dirty": False}})
    (entry,) = page_data(write_report(root, tmp_path / "after"))["provenance"]
    assert (entry["stage"], entry["count"], entry["commit"]) == ("train, evaluate", "18", "0123")


def test_what_is_missing_is_said_in_the_report(tmp_path: Path) -> None:
    root, both = tmp_path / "run", [benchmark("easy", 0.5), benchmark("hard", 0.5, domain="math")]
    evaluation(root, "whole", 10, both)
    evaluation(root, "half-done", None, [benchmark("easy", 0.99, stderr=None)])
    report = write_report(root, tmp_path / "out")
    assert page_data(report)["warnings"] == list(report.warnings)
    text = " ".join(report.warnings)
    assert "half-done lacks hard (all benchmarks" in text
    assert "training FLOPs of half-done are not known" in text
    found = [p for p in page_data(report)["points"] if p["student"] == "half-done"]
    assert {p["scope"] for p in found} == {"easy", "general, open-ended", "benchmarks of all students"}
    assert {(p["training_flops"], p["stderr"], p["on_training_frontier"]) for p in found} == {
        (None, None, False)
    }


@pytest.mark.parametrize("text", ["", "null", "[]", "7", "{}", "[" * 100_000, '{"inputs": 5}'])
def test_a_damaged_record_costs_only_what_it_tells(study: Study, tmp_path: Path, text: str) -> None:
    root, units = study
    folder = StudyDir(root).unit(units[0])
    folder.spec.write_text(text, encoding="utf-8")
    (folder.out / "provenance.json").write_text(text, encoding="utf-8")
    report = analyse(root)
    assert len(report.results) == 18
    assert any(f"{folder.spec}: no record of a unit" in line for line in report.warnings)


def test_a_report_that_cannot_be_written_is_refused_in_words(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"file: the report cannot be written .* --out DIR"):
        write_report(study[0], tmp_path / "file")


def test_results_without_compute_have_a_report_but_no_frontier(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    made = {"results": {"t": {"acc,none": 0.5}}, "model_name": "org/m", "lm_eval_version": "0.4.9"}
    (folder / "results_2025-01-01T00-00-00.json").write_text(json.dumps(made), encoding="utf-8")
    report = write_report(folder, tmp_path / "out")
    assert page_data(report)["files"] == ["results.csv", "frontier.csv"]
    assert page_data(report)["provenance"][0]["packages"] == "lm_eval 0.4.9"
    assert any("compute.csv" in text for text in report.warnings)


def test_the_report_stage_takes_its_inputs_only(study: Study) -> None:
    root, units = study
    unit = Unit("report", "report", {}, tuple(u.as_input(f"evaluate-{i}") for i, u in enumerate(units[:4])))
    folder = StudyDir(root).unit(unit)
    folder.path.mkdir(parents=True)
    write_json(folder.spec, unit.to_json())
    run(Context(unit, folder))
    assert read_json(folder.result) == {"students": 4, "benchmarks": 2, "rows": 8}
    assert len(pd.read_csv(folder.out / "results.csv")) == 8
    assert (folder.out / "provenance.json").exists()


def printed(root: Path, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    results = collect(root)
    console.print(terminal_table(results, frontier_table(results), width))
    return console.export_text()


# What matplotlib's types call anything array-like is an array.


def corners(marks: Collection) -> NDArray[np.float64]:
    return np.asarray(marks.get_paths()[0].vertices)


def offsets(marks: Collection) -> NDArray[np.float64]:
    return np.asanyarray(marks.get_offsets())


def edges(marks: Collection) -> NDArray[np.float64]:
    return np.asanyarray(marks.get_edgecolor())


def xs(line: Line2D) -> list[float]:
    return list(np.asanyarray(line.get_xdata()))


def ys(line: Line2D) -> list[float]:
    return list(np.asanyarray(line.get_ydata()))


def drawn(axes: Any) -> dict[tuple[float, float], tuple[bytes, str]]:
    """Markers of a panel: (x, y) -> (shape, color)."""
    return {
        (float(x), float(y)): (corners(points).tobytes(), to_hex(color))
        for points in axes.collections
        if isinstance(points, PathCollection)
        for (x, y), color in zip(offsets(points), edges(points), strict=True)
    }


def test_a_figure_draws_every_student_once_and_its_frontier(study: Study) -> None:
    points = frontier_table(collect(study[0]))
    figure = plots.frontier(points, "inference_flops")
    assert [axes.get_title("left") for axes in figure.axes] == list(dict.fromkeys(points["scope"]))
    easy = points[points["scope"] == "easy"]
    axes = figure.axes[3]
    marks = drawn(axes)
    assert marks.keys() == set(zip(easy["inference_flops"], easy["accuracy"], strict=True))
    on = easy[easy["on_inference_frontier"]]
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert xs(steps)[:-1] == on["inference_flops"].tolist()
    shapes = {row.share: marks[(row.inference_flops, row.accuracy)][0] for row in each_row(easy)}
    assert len(set(shapes.values())) == 3
    colors = {row.size: marks[(row.inference_flops, row.accuracy)][1] for row in each_row(on)}
    assert len(set(colors.values())) == len(set(on["size"]))
    assert axes.get_xscale() == "log"


def test_titles_say_the_finding_in_lines_that_fit_and_are_not_cut(study: Study) -> None:
    points = frontier_table(collect(study[0]))
    said = (
        "reasoning is behind at 0.5B and 1.5B and better than every plain student at 7B, 14B, 32B and 3 more"
    )
    said = f"{said}, and ahead at 3B"
    assert len(said) > 3 * plots.TITLE
    plain = plots.frontier(points[points["kind"] == "benchmark"])
    figure = plots.frontier(points[points["kind"] == "benchmark"], findings={"easy": said})
    title, other = (axes.get_title("left") for axes in figure.axes)
    assert title.splitlines()[0] == "easy"
    assert " ".join(title.splitlines()[1:]) == said
    assert max(map(len, title.splitlines())) <= plots.TITLE
    assert other == HARD
    assert figure.get_size_inches()[1] > plain.get_size_inches()[1]  # panels keep their height
    title = plots.frontier(points.assign(scope="long " * 30)).axes[0].get_title("left")
    assert (len(title), title[-1]) == (3 * plots.TITLE, "…")


def test_the_steps_of_a_frontier_are_labeled_with_sizes_where_there_is_room(study: Study) -> None:
    points = frontier_table(collect(study[0]))
    easy = points[points["scope"] == "easy"]
    axes = plots.frontier(easy).axes[0]
    on = easy[easy["on_training_frontier"]]
    written = [text.get_text() for text in axes.texts]
    assert written
    assert set(written) <= set(on["size"])
    near = easy.assign(
        training_flops=1e18 * (1 + easy["accuracy"] / 100), accuracy=0.5 + easy["accuracy"] / 1e3
    )
    crowded = plots.frontier(near.assign(on_training_frontier=True)).axes[0]
    assert 0 < len(crowded.texts) < len(near)


def test_mixture_curves_join_each_size(study: Study) -> None:
    figure = plots.mixtures(frontier_table(collect(study[0])))
    curves = [line for line in figure.axes[0].lines if len(xs(line)) > 1]
    assert [xs(line) for line in curves] == [list(SHARES)] * 3


def test_orders_of_mixtures_are_told_apart(study: Study) -> None:
    root, _ = study
    made = [benchmark("easy", 0.33), benchmark(HARD, 0.33, domain="math")]
    evaluation(root, "shuffled", 10**19, made, size="3B", share=0.5, order="shuffled")
    figure = plots.mixtures(frontier_table(collect(root)))
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert ys(dashed[0])[1] == pytest.approx(0.33)
    assert "shuffled" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "50 % reasoning, shuffled" in printed(root, 200)


def test_more_sizes_and_mixtures_than_colors_and_markers_are_told_apart(tmp_path: Path) -> None:
    shares = [i / 20 for i in range(21)]
    made = [
        {"student": f"{size}B-{share}", "size": f"{size}B", "share": share, "benchmark": "t", "n": 100,
         "accuracy": (size + share) / 20, "training_flops": 1e18 * size * (1 + share), "inference_flops": 1e9}
        for size in range(1, 13) for share in shares
    ]  # fmt: skip
    points = frontier_table(results_table(made))
    look = plots.Style.of(points)
    assert len(set(look.colors.values())) == 12
    assert len(set(look.markers.values())) == 21
    axes = plots.frontier(points[points["kind"] == "average"]).axes[0]
    shapes = {corners(marks).tobytes() for marks in axes.collections if len(offsets(marks))}
    assert len(shapes) >= 21
    assert len(plots.Style.of(points[points["size"].isin(["1B", "2B"])]).colors) == 2


def test_names_of_all_kinds_are_drawn_and_printed_as_they_are(tmp_path: Path) -> None:
    names = ["$\\frac{a$", "[/red]x", "_" * 300, "a\\", "<b>", "%s {0}"]
    made = [
        {"student": name, "size": name, "share": i % 2, "benchmark": other, "n": 100, "domain": other,
         "accuracy": 0.1 + i / 20, "training_flops": 1e18 * (i + 1), "inference_flops": 1e9 * (i + 1)}
        for i, name in enumerate(names) for other in names
    ]  # fmt: skip
    write_csv(results_table(made), tmp_path / "results.csv")
    report = write_report(tmp_path, tmp_path / "out")
    print_report(report)
    assert {row["student"] for row in page_data(report)["points"]} == set(names)
    assert "$\\frac{a$" in (tmp_path / "out" / "frontier-training-benchmarks.svg").read_text(encoding="utf-8")


def test_the_mean_of_shared_benchmarks_is_shown_where_some_are_lacking(study: Study) -> None:
    root, _ = study
    assert "shared by" not in printed(root, 140)
    evaluation(root, "half-done", 10, [benchmark("easy", 0.99)], share=0.5)
    text = printed(root, 140)
    assert "shared by" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "–" in lines["half-done"]
    assert "99.0 ± 1.0" in lines["half-done"]


@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_table_fits_and_marks_the_frontier(study: Study, width: int) -> None:
    root, _ = study
    evaluation(root, "half-done", 10, [benchmark("easy", 0.99)], share=0.5)
    text = printed(root, width)
    assert "…" not in text
    assert ("multiple" in text or "math" in text) == (width == 140)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert lines["14B-100%"].count("●") == 2
    assert "3.00e20 ●" in lines["14B-100%"]
    assert "56.0 ± 0.7" in lines["14B-100%"]
    assert "●" not in lines["3B-0%"]  # 0.5B-100% is as accurate at less
    assert "50 % reasoning" in lines["half-done"]  # in one piece: what does not fit is left out
    assert lines["half-done"].count("–") >= 2


# What a reader does, and what is on the page after it.
VISIT = """
<script>
{
const seen = {}, text = id => document.getElementById(id).textContent;
const all = query => [...document.querySelectorAll(query)];
const titles = ["chart-title", "points-title", "matched-title"];
const note = name => { seen[name] = [all("#frontier .point").length, ...titles.map(text), location.hash]; };
const scope = document.getElementById("scope");
const choose = value => { scope.value = value; scope.dispatchEvent(new Event("change")); };
const press = name => all("#legend button").find(b => b.textContent === name).click();
note("at first");
seen.answer = all("#answer p").map(p => p.textContent);
seen.panels = all("#frontier figcaption").map(f => f.textContent);
seen.names = all("#frontier figure:first-child text.name").map(t => t.textContent);
seen.ticks = all("#frontier figure:first-child text.tick").map(t => t.textContent);
const first = document.querySelector("#frontier .point");
first.dispatchEvent(new MouseEvent("mouseenter"));
seen.tip = [document.getElementById("tip").hidden, text("tip")];
first.dispatchEvent(new MouseEvent("mouseleave"));
seen.left = document.getElementById("tip").hidden;
press("3B"); press("plain answers");
note("hidden");
press("3B"); press("plain answers");
document.querySelector("input[value=inference_flops]").click();
note("inference");
seen.scopes = [...scope.options].map(o => o.value);
choose(scope.options[3].value);
note("one");
seen.band = document.querySelector("#frontier .band").getAttribute("d");
const rows = table => all(`#${table} tbody tr`);
const cells = table => rows(table).map(r => [...r.cells].map(c => c.textContent));
const asked = all("#questions tr[data-question]");
seen.questions = asked.map(r => [r.dataset.question, ...[...r.cells].map(c => c.textContent)]);
seen.rows = cells("points");
seen.usage = cells("usage");
seen.links = all("#files a").map(a => decodeURIComponent(a.getAttribute("href")));
seen.wide = document.documentElement.scrollWidth - innerWidth;
const pre = Object.assign(document.createElement("pre"), { textContent: JSON.stringify(seen) });
document.body.replaceChildren(pre);
}
</script>
"""


# What the page shows at first, and after an address with other values and one without any.
LOOK = """
<script>
{
const all = query => [...document.querySelectorAll(query)].map(node => node.textContent);
const places = {
  panels: "#frontier figcaption", title: "#chart-title", students: "#points td:first-child",
  matched: "#matched td", dropped: "#dropped",
};
const shown = () => Object.fromEntries(Object.entries(places).map(([key, query]) => [key, all(query)]));
const go = hash => {
  history.replaceState(null, "", hash);
  dispatchEvent(new Event("hashchange"));
  return shown();
};
const seen = { first: shown() };
const last = [...document.getElementById("scope").options].at(-1).value;
seen.other = go(`#${new URLSearchParams({ compute: "inference_flops", over: last })}`);
seen.back = go("#");
const pre = Object.assign(document.createElement("pre"), { textContent: JSON.stringify(seen) });
document.body.replaceChildren(pre);
}
</script>
"""


def visited(page: Path, folder: Path, width: int = 1200, visit: str = VISIT) -> dict[str, Any]:
    """Open the page in a browser, do what `visit` does, and return what it saw."""
    browser = next(filter(None, map(shutil.which, ("google-chrome", "chromium-browser"))), "chromium")
    if browser == "chromium" and (why := debian.install("browser", ["chromium"], ["chromium"])):
        pytest.skip(why)
    file = folder / "visit.html"
    file.write_text(page.read_text(encoding="utf-8").replace("</body>", visit + "</body>"), encoding="utf-8")
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
        f"--window-size={width},900", "--dump-dom",
    ]  # fmt: skip
    made = subprocess.run(
        [browser, *options, file.as_uri()], capture_output=True, encoding="utf-8", timeout=120, check=True
    )
    (found,) = re.findall(r"<pre>(.*)</pre>", made.stdout, re.DOTALL)
    seen: dict[str, Any] = json.loads(html.unescape(found))
    return seen


def test_the_page_in_a_browser(study: Study, tmp_path: Path) -> None:
    folder = StudyDir(study[0]).unit(study[1][0])
    run: dict[str, Any] = {"attempt": 1, "restart": 0, "worker": 0, "rank": 0, "time": 9.0, "kept": 0}
    run |= {"host": "n1", "micro_batch": None}
    journal.append(folder.attempts, {**run, "seconds": 3.1, "error": None, "cause": None})
    report = write_report(study[0], tmp_path / "out", joules={"evaluate": 1.8e6})
    seen = visited(page_of(report), tmp_path)
    points, found = report.tables["frontier"], report.tables["questions"]
    assert seen["answer"] == list(report.sentences)
    assert seen["at first"] == [
        18, "Accuracy against training FLOPs", "Students: each benchmark",
        "At the same training compute: each benchmark", "",
    ]  # fmt: skip
    assert [text.split(":")[0] for text in seen["panels"]] == ["easy", HARD]
    assert seen["panels"][1].startswith(f"{HARD}: reasoning")
    on = points[(points["scope"] == "easy") & points["on_training_frontier"]]
    assert set(seen["names"]) >= set(on["size"])
    assert len(seen["ticks"]) >= 3
    hidden, tip = seen["tip"]
    assert not hidden
    assert "trained on" in tip
    assert "% of resamples" in tip
    assert seen["left"]
    assert seen["hidden"][0] == 2 * 4  # of nine students, two sizes with two kinds
    assert seen["hidden"][-1] == "#hide=size+3B&hide=share+0"
    assert seen["inference"][1] == "Accuracy against inference FLOPs per item"
    assert seen["one"][:-1] == [
        9, "Accuracy against inference FLOPs per item", f"Students: {HARD}",
        f"At the same inference compute: {HARD}",
    ]  # fmt: skip
    assert parse_qs(seen["one"][-1][1:]) == {"compute": ["inference_flops"], "over": [HARD]}
    # a group of one benchmark is not offered beside it
    assert seen["scopes"] == ["", "all benchmarks", "easy", HARD]
    assert re.fullmatch(r"M[\d.,HVLZ]+", seen["band"])
    assert [row[:2] for row in seen["questions"]] == found[["question", "scope"]].to_numpy().tolist()
    for row, training, inference in zip(
        seen["questions"], found["training"], found["inference"], strict=True
    ):
        assert row[2].startswith(training)
        assert row[-1].startswith(inference)
    assert seen["usage"] == [["evaluate", "1", "1", "0", "3 s", "2.00 × 10¹¹", "500 Wh"]]
    assert set(seen["links"]) == {file.name for file in page_of(report).parent.iterdir()} - {"report.html"}
    rows = {row[0]: row for row in seen["rows"]}
    stood = (
        report.tables["standing"]
        .query(f"scope == {HARD!r} and axis == 'inference_flops'")
        .set_index("student")
    )
    for student, row in rows.items():
        assert row[7] == f"{100 * stood.loc[student, 'probability']:.0f}"
    assert rows["0.5B-0%"][-1] == "yes"


def test_the_page_fits_a_narrow_window(study: Study, tmp_path: Path) -> None:
    seen = visited(page_of(write_report(study[0], tmp_path / "out")), tmp_path, 500)
    assert seen["wide"] <= 0
    assert len(seen["panels"]) == 2


def test_the_page_of_students_without_a_common_benchmark(tmp_path: Path) -> None:
    evaluation(tmp_path / "run", "p", 10**18, [benchmark("b1", 0.5)])
    evaluation(tmp_path / "run", "r", 10**18, [benchmark("b2", 0.6)], share=1.0)
    report = write_report(tmp_path / "run", tmp_path / "out")
    seen = visited(page_of(report), tmp_path, visit=LOOK)
    assert seen["first"]["panels"] == ["b1", "b2"]
    assert seen["first"]["students"] == ["p", "r"]


def test_an_address_sets_the_whole_view(study: Study, tmp_path: Path) -> None:
    seen = visited(page_of(write_report(study[0], tmp_path / "out")), tmp_path, visit=LOOK)
    assert seen["other"]["title"] == ["Accuracy against inference FLOPs per item"]
    assert len(seen["other"]["panels"]) == 1
    assert seen["back"] == seen["first"]
    assert seen["back"]["title"] == ["Accuracy against training FLOPs"]
    assert len(seen["back"]["panels"]) == 2


def test_a_large_break_even_has_no_exponent(tmp_path: Path) -> None:
    for name, flops, accuracy in (("small", 1, 0.5), ("large", 149.7, 0.6), ("full", 1, 0.6)):
        made = [benchmark("b", accuracy)]
        evaluation(tmp_path / "run", name, int(flops * 10**18), made, share=float(name == "full"), size=name)
    report = write_report(tmp_path / "run", tmp_path / "out")
    found = [row["break_even"] for row in page_data(report)["matched"] if row["axis"] == "training_flops"]
    assert found
    assert {text.split()[0] for text in found} == {"150×"}
    assert "e+" not in " ".join(found)


def test_a_difference_that_rounds_to_zero_has_no_sign(tmp_path: Path) -> None:
    for share, accuracy in ((0.0, 0.5), (1.0, 0.4996)):
        evaluation(tmp_path / "run", f"s{share}", 10**18, [benchmark("b", accuracy)], share=share)
    seen = visited(page_of(write_report(tmp_path / "run", tmp_path / "out")), tmp_path, visit=LOOK)
    assert "0.0" in seen["first"]["matched"]
    assert "-0.0" not in " ".join(seen["first"]["matched"])
    assert seen["first"]["dropped"] == [""]  # nothing is known of dropped rows, so nothing is said


def test_a_finding_over_several_benchmarks_is_not_that_of_each(tmp_path: Path) -> None:
    for share, accuracy in ((0.0, 0.3), (1.0, 0.7)):
        made = [benchmark(f"b{i}", accuracy, n=500) for i in range(7)]
        evaluation(tmp_path / "run", f"s{share}", 10**18, made, share=share)
    report = write_report(tmp_path / "run", tmp_path / "out")
    seen = visited(page_of(report), tmp_path, visit=LOOK)
    finding = "reasoning beats plain answers at 1B"
    assert seen["first"]["panels"] == [f"all benchmarks: {finding}"]
    assert seen["other"]["panels"] == ["b6"]
    said = {name: "beats plain" in svg_text(page_of(report).with_name(name)) for name in
            ("frontier-training.svg", "frontier-training-benchmarks.svg")}  # fmt: skip
    assert said == {"frontier-training.svg": True, "frontier-training-benchmarks.svg": False}


def svg_text(file: Path) -> str:
    """All text of a figure, in one line."""
    return " ".join(ET.parse(file).getroot().itertext())


def test_the_terminal_begins_with_the_sentences_of_the_page(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    report = write_report(study[0], tmp_path / "out")
    print_report(report)
    printed = " ".join(capsys.readouterr().out.split())
    assert report.sentences
    assert printed.startswith(" ".join(report.sentences))


def test_questions_fit_a_terminal(study: Study) -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(questions_table(analyse(study[0]).tables["questions"]))
    text = " ".join(console.export_text().split())
    assert "…" not in text
    assert "Is plain fine-tuning on or near" in text


def test_every_figure_of_a_study_shows_its_table(study: Study) -> None:
    found = analyse(study[0]).tables
    heat = plots.probabilities(found["standing"]).axes[0]
    assert [t.get_text() for t in heat.get_yticklabels()] == list(dict.fromkeys(found["standing"]["student"]))
    grid = heat.images[0].get_array()
    assert grid is not None
    assert grid.shape == (9, 5)
    gains = plots.gains(found["gains"]).axes[0]
    drawn_gains = {float(y) for line in gains.lines for y in ys(line) if line.get_marker() == "s"}
    assert drawn_gains == set(found["gains"].query("group == 'general, open-ended'")["gain"])
    band = plots.frontier(found["frontier"], "training_flops", found["standing"]).axes[0].collections
    steps = [len(corners(b)) for b in band]
    assert any(count > 9 for count in steps)  # a step for each student, there and back
