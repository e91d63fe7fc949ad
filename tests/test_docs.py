"""What docs/ says is there, is there: folders, files, names, make's targets."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from jobs.core.causes import Cause

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
PROFILES = ROOT / "configs" / "clusters" / "README.md"
PACKAGES = sorted(
    str(init.parent.relative_to(ROOT))
    for package in ("launch", "jobs", "analysis")
    for init in (ROOT / package).rglob("__init__.py")
)


def test_the_tree_shows_every_package_and_no_other() -> None:
    tree = re.search(r"```\n(launch/ .*?)```", (ROOT / "docs/architecture.md").read_text("utf-8"), re.DOTALL)
    assert tree
    shown, above = list[str](), dict[int, str]()
    for line in tree[1].splitlines():
        depth = len(line) - len(line.lstrip())
        name = line.split()[0]
        if name.endswith("/"):
            above[depth] = name.strip("/")
            shown.append("/".join(above[d] for d in sorted(above) if d <= depth))
        else:
            folder = "/".join(above[d] for d in sorted(above) if d < depth)
            assert all((ROOT / folder / word).is_file() for word in line.split() if word.endswith(".py"))
    assert sorted(name for name in shown if name.split("/")[0] in ("launch", "jobs", "analysis")) == PACKAGES


def test_the_wheel_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    ours = [name.replace(".", "/") for name in listed if not name.startswith("scale_or_reason.")]
    assert sorted(ours) == PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_lives_there(package: str) -> None:
    assert re.match(r'"""[A-Z`][^"]+\.', (ROOT / package / "__init__.py").read_text("utf-8"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES, PROFILES], ids=str)
def test_files_and_targets_that_a_page_names(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    known = {name for line in targets for name in line.split()} | {"test-slurm-versions"}
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= known
    for name in re.findall(r"`((?:jobs|launch|analysis|configs|tests|sbatch_templates)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", text):
        target = page.parent / link if link else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), f"{link}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors that forges give a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("failing", "said"), [("version_info", "not Python 3.11 or newer"), ("ensurepip", "lacks Python's venv")]
)
def test_make_names_what_an_old_machine_lacks(failing: str, said: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text(f'#!/bin/sh\ncase "$*" in *{failing}*) exit 1;; esac\n', encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert f"{old} " in done.stderr
    assert said in done.stderr
    page, heading = re.findall(r"(docs/\w+\.md), '([^']+)'", done.stderr)[0]
    assert f"## {heading}\n" in (ROOT / page).read_text("utf-8")


def printed() -> str:
    """All texts in the sources that are no docstrings, one to a line; values in them are braces."""
    found = []
    for path in (p for package in ("launch", "jobs") for p in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        alone = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for node in (n for n in ast.walk(tree) if id(n) not in alone):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_errors_that_a_page_explains_are_those_that_are_printed() -> None:
    text = (ROOT / "docs/questions.md").read_text("utf-8")
    sources = printed()
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", text)
    assert len(quoted) > 8
    for words in quoted:
        assert words.replace("…", "{}") in sources, words


def test_every_cause_of_a_failure_is_explained() -> None:
    text = (ROOT / "docs/questions.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\w ]+) \|", text.partition("| --- |")[2], re.MULTILINE)
    assert rows == [cause.value for cause in Cause]
