"""Results of other tools: every result file below a folder, or an existing table.

Results that are not understood are left out and reported, once per reason. Nothing is guessed, and two models
are never merged into one student.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results import metrics
from analysis.results.csv_files import read_csv
from analysis.results.files import Unreadable, walk
from analysis.results.names import distinct_names
from analysis.results.result_files import RESULT_FILE, ResultFile, Row, rows_of
from analysis.results.table import COLUMNS, few, plain, warn

COMPUTE, TABLE = "compute.csv", "results.csv"
TABLE_NEEDS = ("student", "benchmark", "accuracy")
COMPUTE_COLUMNS = (
    "student", "training_flops", "inference_flops", "size", "share", "order", "seed",
    "output_tokens", "reasoning_tokens", "parameters", "training_tokens",
)  # fmt: skip


def foreign(root: Path) -> pd.DataFrame:
    """Return rows of a folder of other tools' result files, with data from compute.csv; or of a table.

    Raises:
        ValueError: There are no usable results.
    """
    if studies := sorted(p.parent.name for p in root.glob("*/study.json")):
        raise ValueError(f"{root}: holds the studies {', '.join(studies)}; name the folder of one of them")
    files, skipped = _read_all(root)
    if not files and (root / TABLE).is_file():
        return _table(root / TABLE)
    listed = "; ".join(f"{few(names, 4)}: {why}" for why, names in skipped.items())
    if not files:
        raise ValueError(
            f"{root}: no results found. Expected a run directory of this project (with a study.json), "
            f"lm-eval's result files (results_TIME.json or results.json) in any folder below, or a {TABLE}."
            + (f" Skipped: {listed}." if skipped else "")
        )
    if skipped:
        warn(f"Files without results of lm-eval are skipped: {listed}.")
    names = distinct_names(file.model for file in files)
    table = pd.DataFrame([_as_dict(row, file, names[file.model]) for file in files for row in rows_of(file)])
    if table.empty:
        raise ValueError(f"{root}: the result files hold no results of any task")
    table = newest(_apart_by_template(table))
    return _add_compute(_nested(_usable(root, table)), root / COMPUTE)


def _read_all(root: Path) -> tuple[list[ResultFile], dict[str, list[str]]]:
    """Return the result files below a folder, and the skipped files by reason."""
    files, skipped = [], defaultdict[str, list[str]](list)
    for file in walk(root, ".json"):
        if RESULT_FILE.fullmatch(file.name):
            try:
                files.append(ResultFile.read(file, root))
            except Unreadable as error:
                skipped[plain(error)].append(plain(file.relative_to(root).as_posix()))
    return files, skipped


def _as_dict(row: Row, file: ResultFile, student: str) -> dict[str, Any]:
    return {
        **row.values, "student": student, "source": file.source, "_time": file.time, "_why": row.why,
        "_leaves": row.leaves, "_others": row.others, "_template": file.template,
    }  # fmt: skip


def _apart_by_template(table: pd.DataFrame) -> pd.DataFrame:
    """Split students that answered one benchmark with different chat templates."""
    known = table[table["_template"] != ""]
    several = known.groupby(["student", "benchmark"])["_template"].nunique() > 1
    twofold = set(several[several].index.get_level_values("student"))
    apart = table["student"].isin(twofold) & (table["_template"] != "")
    return table.assign(
        student=table["student"].where(~apart, table["student"] + " (" + table["_template"] + ")")
    )


def newest(table: pd.DataFrame) -> pd.DataFrame:
    """Keep one row per student and benchmark, from the newest file; warn if there were several."""
    if table.empty:
        return table
    key = ["student", "benchmark"]
    table = table.sort_values("_time", kind="stable")
    last = table.drop_duplicates(key, keep="last")
    several = table[table.duplicated(key, keep="last")]
    noted = [
        f"{student}, {benchmark} ({len(older) + 1} results; not {older['source'].iloc[-1]})"
        for (student, benchmark), older in several.groupby(key)
    ]
    if noted:
        warn(f"The newest of several results is taken: {few(noted)}.")
    return last


def _usable(root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the usable rows; warn about dropped rows and about benchmarks with several metrics."""
    reasons = defaultdict[str, list[str]](list)
    for why in table.loc[table["_why"].map(bool), "_why"]:
        reasons[why[0]].append(why[1])
    listed = "; ".join(f"{reason}: {few(what)}" for reason, what in reasons.items())
    used = table[~table["_why"].map(bool)]
    if used.empty:
        raise ValueError(f"{root}: none of the results can be used. Left out, {listed}")
    if reasons:
        warn(f"Left out, {listed}.")
    scored = used[["benchmark", "metric", "_others"]].drop_duplicates("benchmark")
    noted = [f"{name} by {metric} (also {few(more, 4)})" for name, metric, more in scored.to_numpy() if more]
    if noted:
        warn(f"Scored by one of several metrics: {few(noted)}.")
    return used


def _nested(table: pd.DataFrame) -> pd.DataFrame:
    """Mark benchmarks whose items another one also contains, so that means count them once."""
    own: dict[str, set[str]] = {}
    for benchmark, metric, parts in table[["benchmark", "metric", "_leaves"]].to_numpy():
        if metrics.is_accuracy(metric):
            own.setdefault(benchmark, set()).update(parts)
    holder: dict[str, str] = {}  # by task: the benchmark that counts it
    within: dict[str, str] = {}
    for benchmark in sorted(own, key=lambda name: (-len(own[name]), name)):
        if shared := sorted(own[benchmark] & holder.keys()):
            within[benchmark] = holder[shared[0]]
        else:
            holder |= dict.fromkeys(own[benchmark], benchmark)
    if within:
        noted = (f"{part} (within {whole})" for part, whole in within.items())
        warn(f"Items of several benchmarks are counted once in means, these are not added: {few(noted)}.")
    return table.assign(within=table["benchmark"].map(within))


def _add_compute(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Merge each student's data from compute.csv into its rows."""
    students = sorted(set(table["student"]))
    if not file.exists():
        warn(
            f"The training compute of {len(students)} student(s) is not known: lm-eval does not record it. "
            f"A file {COMPUTE} beside the results, with the columns student and training_flops, adds it."
        )
        return table
    known = read_csv(file, COMPUTE_COLUMNS[:2], COMPUTE_COLUMNS, ["student"])
    if unused := sorted(set(known["student"]) - set(students)):
        warn(f"{file}: no results of {few(unused)}; there are results of {few(students)}.")
    if missing := sorted(set(students) - set(known.dropna(subset="training_flops")["student"])):
        warn(f"{file}: no training_flops of {few(missing)}.")
    merged = table.merge(known, on="student", how="left", suffixes=("", "_given"))
    for column in known.columns:
        if (given := f"{column}_given") in merged:
            merged[column] = merged[given].combine_first(merged[column])
    return merged


def _table(file: Path) -> pd.DataFrame:
    """Read an existing table, such as a report's."""
    table = read_csv(file, TABLE_NEEDS, tuple(COLUMNS), ["student", "benchmark"])
    metric = table.get("metric", pd.Series("", table.index)).fillna("")
    for place, (student, benchmark, accuracy) in enumerate(table[list(TABLE_NEEDS)].itertuples(index=False)):
        if metrics.impossible(metric.iloc[place], accuracy):
            raise ValueError(
                f"{file}: accuracy of {student}, {benchmark} is {accuracy}; a fraction from 0 to 1 is needed"
            )
    return table.assign(source=file.name)
