"""Test the tests: change one operator, number, argument or word of a module at a time and run its tests.

    python tests/mutants.py [launch/state/lock.py ...]     all of MODULES where none is named

mutmut makes the changes ("mutants") in a copy of the project below .mutants/. A mutant that no test notices
is printed as a difference, unless mutants.yaml explains it, or only the wording of a message (or an encoding)
differs. Its tests are the fast ones of the files named here, without vLLM, which takes half a minute to load:
what only a cluster, a training or another process would notice survives. The figures of the last run of each
module are printed at the end, and stand in docs/contributing.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".mutants"
MODULES: Mapping[str, str] = {  # module -> the test files that are to notice its mutants
    "launch/commands/submit.py": "submit",
    "launch/submit/steps.py": "submit limits",
    "launch/state/reconcile.py": "reconcile keeper",
    "launch/state/status.py": "poll cache memory",
    "launch/submit/arrays.py": "arrays",
    "launch/submit/array_options.py": "arrays",
    "launch/submit/limits.py": "limits memory submit checkpoint",
    "launch/submit/throttles.py": "arrays",
    "launch/state/lock.py": "lock",
    "launch/state/ledger.py": "ledger by_hand keeper",
    "jobs/training/checkpointer.py": "checkpointer checkpoint",
    "jobs/store/checkpoints.py": "checkpoint durability",
    "jobs/runtime/exit.py": "exit journal",
    "jobs/data/leases.py": "leases",
    "jobs/runtime/fence.py": "checkpoint",
    "jobs/data/backlog.py": "backlog",
    "jobs/data/chunks.py": "backlog generate",
    "jobs/stages/generate.py": "generate",
    "jobs/data/best_fit.py": "blocks",
    "jobs/data/packing.py": "tokenize",
    "jobs/stages/tokenize.py": "tokenize",
    "jobs/stages/evaluate.py": "evaluate",
    "jobs/core/flops.py": "flops studies architectures",
    "jobs/core/architectures.py": "architectures flops",
    "analysis/statistics/frontier.py": "frontier",
    "analysis/statistics/matched.py": "matched",
    "analysis/statistics/bootstrap.py": "frontier verdicts",
    "analysis/statistics/claims.py": "verdicts",
}
SETTINGS = """
[tool.mutmut]
source_paths = ["launch", "jobs", "analysis"]
only_mutate = ["{module}"]
also_copy = [{others}]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutants"]
pytest_add_cli_args_test_selection = [{tests}, "-m", "not slow and not slurm", "-k", "not vllm"]
process_isolation = "forkserver"
timeout_multiplier = 3.0
timeout_constant = 4.0
"""
# A text is changed once, not into small and into capital letters, too: it is either read by something or not.
# And a mutant's fast tests run first: the fork server would take them in no order.
RUN = """
from mutmut.mutation import mutators as m
from mutmut.state import state
from mutmut.workers.isolation import ForkServerRunner as server
def once(text):
    yield from list(m.operator_string(text))[:1]
for place, (kind, change) in enumerate(m.mutation_operators):
    if change is m.operator_string:
        m.mutation_operators[place] = (kind, once)
submit = server.submit
def fast_first(self, mutant, tests, *limits):
    submit(self, mutant, sorted(tests, key=state().duration_by_test.get), *limits)
server.submit = fast_first
from mutmut.__main__ import cli
cli()
"""
# Differences that no test on a machine of UTF-8 sees (test_encoding runs the programs on others), colors, and
# whether zip asserts what always holds.
ENCODING = re.compile(r",? ?(?:encoding|strict|style)=[\w\"-]+(?:,$)?|, (?=\))", re.MULTILINE)
KILLED, SURVIVED, UNTESTED, NOT_RUN = "killed", "survived", "untested", "not run"
EXPLAINED, WORDING = "explained", "wording"
FIGURES = "figures.json"


def main(modules: Sequence[str]) -> int:
    unknown = [module for module in modules if module not in MODULES]
    if unknown:
        print(f"{unknown[0]}: not one of {', '.join(MODULES)}", file=sys.stderr)
        return 2
    for module in modules or MODULES:
        work = _copy(module)
        with open(work / "mutmut.log", "w", encoding="utf-8") as log:
            command = [sys.executable, "-c", RUN, "run", f"{work.name}.*"]
            ended = subprocess.run(command, cwd=work, stdout=log, stderr=subprocess.STDOUT)
        if ended.returncode:
            print(f"mutmut failed on {module}: see {log.name}", file=sys.stderr)
            return 1
        _summarize(module, work)
    print(_table())
    return 0


def _work(module: str) -> Path:
    return WORK / module.removesuffix(".py").replace("/", ".")


def _copy(module: str) -> Path:
    """Copy the files that git tracks, with mutmut's settings for one module. Returns the copy's path."""
    work = _work(module)
    shutil.rmtree(work, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, work / name)
    own = {"launch", "jobs", "analysis", "tests", "pyproject.toml"}
    tests = [f'"tests/test_{stem}.py"' for stem in MODULES[module].split()]
    others = sorted({f'"{name.split("/")[0]}"' for name in names} - {f'"{name}"' for name in own})
    with open(work / "pyproject.toml", "a", encoding="utf-8") as settings:
        settings.write(SETTINGS.format(module=module, others=", ".join(others), tests=", ".join(tests)))
    return work


def _summarize(module: str, work: Path) -> None:
    """Print a module's survivors and write its figures down."""
    os.chdir(work)  # mutmut reads its settings from there
    from mutmut.configuration import reset_config
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    reset_config()

    ends = json.loads((work / "mutants" / f"{module}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
    explained = yaml.safe_load((ROOT / "tests" / "mutants.yaml").read_text(encoding="utf-8")).get(module, {})
    figures: Counter[str] = Counter()
    for mutant, code in ends.items():
        state = {None: NOT_RUN, 0: SURVIVED, 5: UNTESTED, 33: UNTESTED}.get(code, KILLED)
        if state in (SURVIVED, UNTESTED):
            difference = get_diff_for_mutant(mutant, path=Path(module))
            if _wording(difference):
                state = WORDING
            elif _changed(difference) in explained:
                state = EXPLAINED
            else:
                print(f"\n{state}: {mutant}\n{difference}")
        figures[state] += 1
    (work / FIGURES).write_text(json.dumps(figures), encoding="utf-8")


def _table() -> str:
    """Return the figures of the last run of each module as a Markdown table."""
    columns = (KILLED, SURVIVED, UNTESTED, NOT_RUN, EXPLAINED, WORDING)
    lines = [f"| module | mutants | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for module in MODULES:
        path = _work(module) / FIGURES
        if path.exists():
            figures = json.loads(path.read_text(encoding="utf-8"))
            counts = " | ".join(str(figures.get(column, 0)) for column in columns)
            lines.append(f"| {module} | {sum(figures.values())} | {counts} |")
    return "\n".join(lines)


def _changed(difference: str) -> str:
    """Return a difference's new lines as one, without comments; `-` and the old ones where none are new."""
    lines = difference.splitlines()[2:]
    new, old = (
        " ".join(line[1:].split("  # ")[0].strip() for line in lines if line[0] == sign) for sign in "+-"
    )
    return new or f"- {old}"


def _wording(difference: str) -> bool:
    """Return whether texts of several words, or an encoding, are all that differs between the lines."""
    lines = difference.splitlines()[2:]
    old, new = ("\n".join(line[1:] for line in lines if line[0] != skip) for skip in "+-")
    return _texts_removed(old) == _texts_removed(new)


def _texts_removed(code: str) -> str:
    """Return the code without encodings, what stands in quotes and has spaces, and white space."""
    kept = []
    for line in ENCODING.sub("", code).splitlines():
        parts = line.split('"')
        kept.append(
            '"'.join(part if n % 2 == 0 or " " not in part.strip() else "" for n, part in enumerate(parts))
        )
    return "".join("".join(kept).split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
