"""Files are UTF-8 whatever the locale says: in the sources, and in a run under LC_ALL=C and ISO-8859-1."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from small_study import SOR, write_study

ROOT = Path(__file__).parent.parent
OTHERS = (
    "os",
    "gzip",
    "tarfile",
    "zipfile",
    "webbrowser",
    "Blocks",
    "Index",
    "Pool",
    "TokenStore",
)  # whose `open` takes no encoding


def opened_by_locale(source: str) -> Iterator[int]:
    """The lines of calls that open or decode text in whatever encoding the locale has.

    Ruff's PLW1514 does not see a method of an object whose type it does not know, which most are.
    """
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        options = {k.arg: k.value for k in call.keywords}
        if "encoding" not in options and _decodes(call, options):
            yield call.lineno


def _decodes(call: ast.Call, options: dict[str | None, ast.expr]) -> bool:
    function, args = call.func, call.args
    method = isinstance(function, ast.Attribute)
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    if "text" in options or "universal_newlines" in options:
        return name in ("run", "Popen", "check_output", "check_call", "call")
    if name == "read_text":
        return not args
    if name == "write_text":
        return len(args) == 1
    if name in ("TemporaryFile", "NamedTemporaryFile"):
        return "b" not in _constant(args[0] if args else options.get("mode"), "b")
    if name not in ("open", "fdopen"):
        return False
    owner = getattr(function.value, "id", None) if isinstance(function, ast.Attribute) else None
    if name == "open" and owner in OTHERS:
        return False
    place = 0 if method and name == "open" else 1
    mode = args[place] if len(args) > place else options.get("mode")
    return "b" not in _constant(mode, "r")


def _constant(node: ast.expr | None, default: str) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else default


def test_every_file_is_opened_in_a_named_encoding() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for folder in ("launch", "jobs", "analysis", "tests", "docs")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line in opened_by_locale(file.read_text(encoding="utf-8"))
    ]
    assert not found, 'say encoding="utf-8"'


@pytest.mark.parametrize(
    "call",
    [
        "open(x)", "open(x, 'w')", "x.open()", "x.open('a')", "x.read_text()", "x.write_text('ä')",
        "a.b.read_text(errors='replace')", "os.fdopen(3, 'w')", "TemporaryFile('w+')", "run(x, text=True)",
        "Popen(x, universal_newlines=True)",
    ],
)  # fmt: skip
def test_a_call_without_an_encoding_is_found(call: str) -> None:
    assert list(opened_by_locale(call)) == [1]


@pytest.mark.parametrize(
    "call",
    [
        "open(x, 'rb')", "x.open('wb')", "os.open(x, 0)", "x.read_text('utf-8')", "TemporaryFile()",
        "run(x, encoding='utf-8')", "x.read_bytes()",
    ],
)  # fmt: skip
def test_a_call_with_one_or_of_bytes_is_not(call: str) -> None:
    assert not list(opened_by_locale(call))


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a locale whose encoding is ISO-8859-1, made with localedef."""
    folder = tmp_path_factory.mktemp("locales")
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-c", "-i", "POSIX", "-f", "ISO-8859-1", folder / "xx_XX.ISO-8859-1"],
        capture_output=True, check=False,
    )  # fmt: skip
    if not made or not (folder / "xx_XX.ISO-8859-1").exists():
        pytest.skip("localedef cannot make a locale here")
    return {"LOCPATH": str(folder), "LC_ALL": "xx_XX.ISO-8859-1"}


def everything(folder: Path, environment: dict[str, str]) -> bytes:
    """Run a study whose folder and words are not ASCII, and look at it; returns what was printed."""
    file = write_study(folder / "größe")
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    study["prepare"]["args"]["folder"] = str(folder / "größe")
    file.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    variables |= {"PYTHONPATH": str(Path(__file__).parent), "PYTHONUTF8": "0", **environment}
    printed = b""
    for words in (["plan"], ["submit", "--yes", "--only", "prepare"], ["status"], ["monitor", "--once"]):
        verb, *options = words
        run = subprocess.run(
            [SOR, verb, file, *options, "--runs", folder / "läufe"],
            env=variables, capture_output=True, check=False, timeout=300,
        )  # fmt: skip
        printed += run.stdout + run.stderr
        assert run.returncode in (0, 3, 4), printed.decode(errors="replace")
        assert b"Traceback" not in printed
    assert list((folder / "läufe" / "small" / "prepare").glob("*/out/result.json"))
    return printed


def test_the_c_locale(tmp_path: Path) -> None:
    assert "·" in everything(tmp_path, {"LC_ALL": "C"}).decode("utf-8")


def test_a_locale_in_latin_1(tmp_path: Path, latin: dict[str, str]) -> None:
    printed = everything(tmp_path, latin)
    assert "läufe".encode("latin-1") in printed
