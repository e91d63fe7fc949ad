"""Where results come from: code, hardware and packages of the units that made them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results.collect import lineage
from analysis.results.files import Unreadable, read_object, section
from jobs.core.unit import STAGES
from jobs.store.rundir import StudyDir, UnitDir


def provenance(path: Path, results: pd.DataFrame) -> list[dict[str, str]]:
    """Return the results' origins: an entry per combination of code, hardware and packages."""
    entries = defaultdict[tuple[str, ...], Counter[str]](Counter)
    for stage, record in _records(path, sorted(set(results["source"]))):
        code, hardware = section(record, "code"), section(record, "hardware")
        commit = str(code.get("commit", "unknown"))
        commit += " with uncommitted changes" if code.get("dirty") else ""
        gpus = hardware.get("gpus")
        machine = [
            f"{n} × {gpu}" for gpu, n in Counter(map(str, gpus if isinstance(gpus, list) else ())).items()
        ]
        if hardware:
            processor = hardware.get("cpu") or "an unnamed processor"
            machine.append(f"{hardware.get('cores')} cores of {processor}")
        packages = {"python": record.get("python"), **section(record, "packages")}
        versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        entries[commit, "; ".join(machine) or "unknown", versions or "unknown"][stage] += 1
    rows = [
        {"stage": ", ".join(sorted(stages, key=_place)), "commit": commit, "hardware": hardware,
         "packages": packages, "count": str(stages.total())}
        for (commit, hardware, packages), stages in entries.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: _place(row["stage"].partition(",")[0]))


def _place(stage: str) -> int:
    """Return a stage's place in a study; results from elsewhere come last."""
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def _records(path: Path, sources: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each source's provenance: of the evaluation and all units before it, or what lm-eval recorded."""
    own = [path / source for source in sources if Path(source).name == "result.json"]
    notes = [
        (folder.path.parent.name, folder.out / "provenance.json")
        for folder in lineage(StudyDir(path), (UnitDir(result.parent.parent) for result in own))
    ]
    for stage, note in notes:
        with suppress(Unreadable):  # missing or damaged: nothing is known
            yield stage, read_object(note)
    for file in (path / source for source in sources):
        if file.suffix == ".json" and file not in own:
            with suppress(Unreadable):
                data = read_object(file)
                versions = {name: data.get(f"{name}_version") for name in ("lm_eval", "transformers")}
                yield "evaluated elsewhere", {"packages": versions}
