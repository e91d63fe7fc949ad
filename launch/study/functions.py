"""Static checks of a study's `prepare`: whether its function exists and takes these arguments.

The module is not imported: that could load torch, which a login node may lack, and would run its code. The
arguments are checked against the annotation of the function's second parameter, if that is a `TypedDict` of
the same module; with any other annotation, all arguments are accepted.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from launch.study.annotations import Classes, Faults, parsed

TAKES = 3  # output folder, arguments, progress
LISTED = 12  # names in a message


def prepare_faults(function: str, args: Mapping[str, Any]) -> Faults:
    """Yield mistakes in a function, MODULE:NAME, and its arguments, as keys of `prepare` and messages."""
    module, _, name = function.partition(":")
    try:
        file = _source(module)
        tree = parsed(file.read_bytes()) if file else None
    except _NotFound as error:
        yield "function", str(error)
        return
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield "function", f"{module} cannot be read: {error}"
        return
    if tree is None or file is None:  # a compiled module cannot be checked
        return
    names = dict(_names(tree.body))
    if name not in names:
        if "*" in names:
            return
        known = [n for n, node in names.items() if isinstance(node, ast.FunctionDef) and n[:1] != "_"]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(known[:LISTED]) + (", …" if len(known) > LISTED else "") or "none"
        yield "function", f"no function {name!r} in {file}; {hint}its functions are {listed}"
    elif isinstance(found := names[name], ast.FunctionDef):
        yield from _signature(found, file)
        positional = [*found.args.posonlyargs, *found.args.args]
        classes = {n: node for n, node in names.items() if isinstance(node, ast.ClassDef)}
        if len(positional) > 1:
            yield from Classes(classes).faults(args, positional[1].annotation, "args")


class _NotFound(ValueError):
    """A module that cannot be found."""


def _source(module: str) -> Path | None:
    """Return the source file of a module.

    Returns:
        None if it has no Python source.
    """
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for i in range(len(parts)):
        where = spec.submodule_search_locations if spec else None
        if i == 0:
            # Finding a top-level name imports nothing. Jobs also search the working directory.
            spec = _top(parts[0]) or PathFinder.find_spec(parts[0], [os.getcwd()])
        else:
            spec = PathFinder.find_spec(".".join(parts[: i + 1]), where) if where else None
        if spec is None:
            beside = sorted(m.name for m in pkgutil.iter_modules(where)) if where else []
            near = difflib.get_close_matches(parts[i], beside, 1)
            hint = f"did you mean {'.'.join([*parts[:i], *near])!r}?" if near else (
                "put its folder into PYTHONPATH, or run sor where it lies"
            )  # fmt: skip
            raise _NotFound(f"no module {'.'.join(parts[: i + 1])!r}; {hint}")
    assert spec is not None
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _top(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # "__main__", and errors of third-party finders
        return None


def _names(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the names that a module binds, also inside conditions; "*" for a star import."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((n.id, node) for n in ast.walk(target) if isinstance(n, ast.Name))
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _names(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _names(handler.body)


def _signature(function: ast.FunctionDef, file: Path) -> Faults:
    takes = function.args
    positional = len(takes.posonlyargs) + len(takes.args)
    named = [a.arg for a, d in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if d is None]
    fits = positional - len(takes.defaults) <= TAKES and (positional >= TAKES or takes.vararg)
    if named or not fits:
        what = f"{function.name} ({file}, line {function.lineno})"
        yield "function", f"{what} is called with (folder, arguments, progress) and does not take these"
