"""What a folder of lm-eval's task files reads from the hub. Light: the files are searched, not loaded."""

from __future__ import annotations

import re
from pathlib import Path

LOCAL_DATA = ("json", "csv", "parquet", "text", "arrow")  # dataset builders that never query the hub


def hub_datasets(folder: Path) -> list[str]:
    """Return the datasets of the hub that the task files of a folder name, sorted."""
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("[!.]*.yaml")]
    sources = {s for text in texts for s in re.findall(r"^dataset_path:\s*[\"']?([^\s\"']+)", text, re.M)}
    return sorted(sources - set(LOCAL_DATA))
