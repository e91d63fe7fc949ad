"""What both kinds of cards say: front matter, how others find the study, names without paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.core.unit import PREPARED
from jobs.store.records import Damaged
from jobs.store.rundir import UnitDir, read_json
from launch.study.hub_needs import is_hub_name

HUB = "https://huggingface.co"
LICENSE = "# license: choose one; the terms of the models and data that this is made from apply"
PAPER = """The study asks: at the same compute, is it better to distill reasoning traces into a small student,
or plain answers into a larger one? Its design is that of [arXiv 2509.22193](https://arxiv.org/abs/2509.22193)."""
CITATION = """## Citation

```bibtex
@article{scaleorreason2025,
  title   = {Scale or Reason? A Compute-Equivalent Analysis of Reasoning Distillation},
  journal = {arXiv preprint arXiv:2509.22193},
  year    = {2025},
  url     = {https://arxiv.org/abs/2509.22193}
}
```
"""


def front_matter(fields: Mapping[str, Any]) -> str:
    """Return the head of a card, which the hub reads; the license is left to the user."""
    text = yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{LICENSE}\n{text}---\n"


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def as_yaml(value: object) -> str:
    """Return a value as a block of YAML."""
    return f"```yaml\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True)}```"


def named(name: str, revision: str | None, kind: str = "") -> str:
    """Return a model or dataset in words: a link to the hub, or a name without its folder.

    Args:
        kind: "datasets/" for a dataset.
    """
    if name.startswith(PREPARED):
        return f"`{name.removeprefix(PREPARED)}`, made by the study itself"
    if not is_hub_name(name):
        return f"`{Path(name).name}`, a local folder"
    at = f", revision `{revision}`" if revision else ""
    return f"[{name}]({HUB}/{kind}{name}){at}"


def versions(folder: UnitDir) -> str:
    """Return the code and packages that made a unit's result, in words."""
    try:
        made = read_json(folder.out / "provenance.json")
    except (FileNotFoundError, Damaged):
        return "not recorded"
    packages = [f"{name} {version}" for name, version in made.get("packages", {}).items()]
    commit = made.get("code", {}).get("commit")
    code = [f"commit {commit[:12]}"] if commit else []
    return ", ".join([f"Python {made.get('python')}", *packages, *code])
