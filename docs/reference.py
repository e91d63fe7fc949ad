"""Write the JSON Schemas in configs/schema and docs/reference.md (`make reference`), from the models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.study.json_schema import KINDS, Schema, json_schema
from launch.study.textfile import Unusable
from launch.study.yamlfile import parse_yaml

ROOT = Path(__file__).parent.parent
ENDLESS = 10**12  # a limit that nobody needs to know
TITLES = {"study": "Study", "model": "Model", "evals": "Benchmark", "cluster": "Cluster"}
INTRODUCTION = """\
# Reference

All keys of the files that you write. This page and the JSON Schemas in `configs/schema` are made by
`make reference` from the models in `launch/study`.

The first line of a shipped file, and of each that `sor init` writes, names its schema. Editors with
yaml-language-server (VS Code with its YAML extension, Neovim, Emacs and others) then complete keys, show
what is said here, and mark mistakes. `sor init` names the schema of the installed package by its full path:
correct that line if the file moves to another machine. `sor plan` and `sor doctor --cluster FILE` check a
file completely, also whether what it names exists and fits together.
"""


def files() -> dict[Path, str]:
    """Return all files that are made from the models, with their contents."""
    schemas = {kind: json_schema(kind) for kind in KINDS}
    made = {
        ROOT / f"configs/schema/{kind}.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        for kind, schema in schemas.items()
    }
    parts = (part for kind, schema in schemas.items() for part in sections(kind, schema))
    return {**made, ROOT / "docs/reference.md": "\n".join([INTRODUCTION, *parts])}


def sections(kind: str, schema: Schema) -> Iterator[str]:
    """Yield the sections of a kind of file: its own keys, then those of each mapping within."""
    places = mappings(schema)
    links = {name: slug(heading(kind, keys)) for name, keys in places.items()}
    yield f"## {TITLES[kind]} files\n\nIn `configs/{KINDS[kind].folder}`. {schema['description']}\n"
    yield table(schema, links)
    for name, keys in places.items():
        part = schema["definitions"][name]
        yield f"### {heading(kind, keys)}\n\n{part['description']}\n"
        yield table(part, links)


def mappings(schema: Schema) -> dict[str, list[str]]:
    """Return the definitions that a schema uses, each with the keys above it, outer ones first."""
    found: dict[str, list[str]] = {}
    waiting = [("", schema)]
    while waiting:
        above, part = waiting.pop(0)
        for key, value in part["properties"].items():
            for name in dict.fromkeys(re.findall(r'"#/definitions/(\w+)"', json.dumps(value))):
                found.setdefault(name, []).append(above + key)
                waiting.append((f"{above}{key}.", schema["definitions"][name]))
    return found


def heading(kind: str, keys: list[str]) -> str:
    """Return the heading of the keys of one mapping."""
    return f"{TITLES[kind]}: {' and '.join(f'`{key}`' for key in keys)}"


def slug(text: str) -> str:
    """Return the anchor that forges give a heading."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


def table(schema: Schema, links: dict[str, str]) -> str:
    """Return the table of the keys of one mapping."""
    rows = ["| key | value | default | |", "| --- | --- | --- | --- |"]
    for key, value in schema["properties"].items():
        words, examples = value["description"], value.get("examples", ())
        if examples:
            said = ", ".join(f"`{flow(example)}`" for example in examples)
            words += f" Example{'s' if examples[1:] else ''}: {said}"
        default = "required" if key in schema.get("required", ()) else shown(value)
        default = "the file's name" if key == "name" else default
        cells = (f"`{key}`", kind_of({**value, "description": ""}, links), default, words)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join([*rows, ""])


def shown(schema: Schema) -> str:
    """Return the default of a key for a table."""
    if "allOf" in schema or ("anyOf" in schema and "default" not in schema):
        return "those of its keys"
    default = schema.get("default")
    if default in (None, [], {}):
        return "none"
    return f"`{flow(default[0] if isinstance(default, list) and len(default) == 1 else default)}`"


def kind_of(schema: Schema, links: dict[str, str]) -> str:
    """Return which values a schema allows, in words."""
    if schema.get("description"):
        return str(schema["description"])
    if "$ref" in schema:
        return f"[mapping](#{links[schema['$ref'].rpartition('/')[2]]})"
    if "const" in schema:
        return f"`{flow(schema['const'])}`"
    if "enum" in schema:
        *others, last = (f"`{flow(value)}`" for value in schema["enum"] if value is not False)
        return f"{', '.join(others)} or {last}"
    if "allOf" in schema:
        return kind_of(schema["allOf"][0], links)
    if "anyOf" in schema:
        parts = [part for part in schema["anyOf"] if part != {"type": "null"}]
        if len(parts) == 2 and parts[1] == {"type": "array", "items": parts[0], "minItems": 1}:
            return f"{kind_of(parts[0], links)}, or a list of these"
        return ", or ".join(kind_of(part, links) for part in parts)
    return of_type(schema, links)


def of_type(schema: Schema, links: dict[str, str]) -> str:
    """Return which values a schema of simple types allows, in words."""
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if types == ["array"]:
        count = f"list of {schema['minItems']}: " if "maxItems" in schema else "list of "
        return count + kind_of(schema["items"], links)
    if types == ["object"] and "required" in schema:
        choices = kind_of(schema["properties"]["model_type"], links)
        return f"mapping with {', '.join(f'`{key}`' for key in schema['required'])} (`model_type`: {choices})"
    names = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "mapping"}
    return " or ".join(names.get(name, name) for name in types if name != "null") + limits(schema)


def limits(schema: Schema) -> str:
    """Return the limits of a number, in words; empty if there are none."""
    least, most = schema.get("minimum"), schema.get("maximum", ENDLESS)
    if schema.get("exclusiveMinimum") == 0 and schema["type"] == "integer":
        least = 1
    found = [f"≥ {least}"] if least is not None else []
    found += [f"> {schema['exclusiveMinimum']}"] if "exclusiveMinimum" in schema and least is None else []
    found += [f"≤ {most:,}"] if most < ENDLESS else []
    found += [f"< {schema['exclusiveMaximum']:,}"] if "exclusiveMaximum" in schema else []
    return f" {' and '.join(found)}" if found else ""


def flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {flow(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str):
        try:
            plain = parse_yaml(f"x: [{value}]").data["x"] == [value]
        except Unusable:
            plain = False
        return value if plain else json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def main() -> None:
    """Write the files."""
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
