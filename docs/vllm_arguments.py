"""Write configs/schema/vllm.json: the engine arguments of the installed vLLM, with the types of their values.

`make reference` calls it. Login nodes and editors read the file; no vLLM is imported there.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import json
import os
import types
import typing
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "configs" / "schema" / "vllm.json"
SIMPLE: dict[Any, str] = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", set: "array",
    dict: "object", type(None): "null",
}  # fmt: skip
Schema = dict[str, Any]


def arguments() -> Schema:
    """Return the content of the file: vLLM's version, and a JSON Schema of each argument."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    import vllm
    import vllm.config
    from vllm.engine import arg_utils

    # Annotations are texts, and some name classes that vLLM imports for type checkers only.
    names = _Names({**vars(builtins), **vars(typing), **vars(vllm.config), **vars(arg_utils)})
    fields = dataclasses.fields(arg_utils.EngineArgs)
    found = {
        field.name: schema(eval(field.type, {}, names) if isinstance(field.type, str) else field.type)
        for field in fields
        if not field.name.startswith("_")
    }
    return {"version": vllm.__version__.partition("+")[0], "properties": dict(sorted(found.items()))}


class _Names(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return dict  # a group of settings


def schema(kind: Any) -> Schema:
    """Return the JSON Schema of the values that an annotation allows, as far as YAML can write them."""
    parts = [_part(part) for part in _members(kind)]
    allowed = dict.fromkeys(name for part in parts for name in part.get("type", ()))
    values = [value for part in parts for value in part.get("enum", ())]
    if values and "string" not in allowed:
        return {"enum": [*values, *([None] if "null" in allowed else [])]}
    made: Schema = {"type": next(iter(allowed)) if len(allowed) == 1 else list(allowed)}
    items = [part["items"] for part in parts if "items" in part]
    return {**made, "items": items[0]} if items else made


def _members(kind: Any) -> list[Any]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(kind) for member in _members(part)]
    return [kind]


def _part(kind: Any) -> Schema:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin in (list, set) and inner:
        return {"type": ["array"], "items": schema(inner[0])}
    if origin in SIMPLE:
        return {"type": [SIMPLE[origin]]}
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        # By value, or by name, as for backends of attention.
        return {"type": ["integer" if issubclass(origin, int) else "string"]}
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        return {"type": ["object"]}
    return {}  # a class or a function, which YAML cannot write


def text() -> str:
    """Return the file's text: a line for each argument."""
    found = arguments()
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(kind)}" for name, kind in found["properties"].items()
    )
    return f'{{\n "version": {json.dumps(found["version"])},\n "properties": {{\n{lines}\n }}\n}}\n'


def main() -> None:
    """Write the file."""
    FILE.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
