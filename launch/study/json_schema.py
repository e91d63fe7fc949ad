"""JSON Schemas of the files that users write, made from their pydantic models: for editors and for the docs.

Keys, types, limits and defaults are the models'. A field's description is the docstring below it, whose
last sentence may name examples. What validators check across keys is in RULES, as far as JSON Schema can
express it. `make reference` writes the schemas; `sor` itself does not import this module.
"""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise
from typing import Any, NamedTuple

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from jobs.core.architectures import SIZES
from jobs.core.flops import KNOWN
from launch.study.cluster import Cluster
from launch.study.endpoint import ENGINE, KEYS
from launch.study.model import AUTO, Model, Serving
from launch.study.presets import Strict, known_names, listed, models_in
from launch.study.schema import PRESETS, EvalGroup, Study
from launch.study.shapes import LAYERS, MEASURED, MOST, NULLABLE, OPTIONAL, SWITCHES
from launch.study.vllm_arguments import known
from launch.study.yamlfile import parse_yaml

DRAFT = "http://json-schema.org/draft-07/schema#"  # what most editors know
Schema = dict[str, Any]
EXAMPLES = re.compile(r"\s*\bExamples?:\s+((?:`[^`]+`(?:, )?)+)\.$")
LIMITS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


class Kind(NamedTuple):
    """A kind of file: its model, and the folder of configs/ with the shipped ones."""

    model: type[Strict]
    folder: str


KINDS = {
    "study": Kind(Study, "studies"),
    "model": Kind(Model, "models"),
    "evals": Kind(EvalGroup, "evals"),
    "cluster": Kind(Cluster, "clusters"),
}


def _given(*keys: str) -> Schema:
    """Return the schema of mappings that have these keys, and none of them null."""
    return {"required": list(keys), "properties": {key: {"not": {"type": "null"}} for key in keys}}


def _is(key: str, value: str) -> Schema:
    return {"required": [key], "properties": {key: {"const": value}}}


A_FAMILY: Schema = {"enum": list(KNOWN)}
RULES: dict[str, Schema] = {  # what the validators of whole models check
    "Source": {
        "oneOf": [_given("path"), _given("dataset")],
        "if": _given("dataset"), "then": _given("revision"),
    },
    "Model": {
        "if": _is("init", "random"), "then": _given("tokenizer"), "else": _given("model"),
        "allOf": [{
            "if": _given("flops"),
            "then": {"properties": {"architecture": {"properties": {"model_type": {"not": A_FAMILY}}}}},
            "else": {"properties": {"architecture": {
                "required": ["model_type", *SIZES], "properties": {"model_type": A_FAMILY},
            }}},
        }],
    },
    "Recipes": {"not": _given("epochs", "flops")},
    "Training": {
        "if": {"anyOf": [_is(key, AUTO) for key in ("micro_batch", "zero", "gradient_checkpointing")]},
        "then": {"required": ["gpus_per_node"], "properties": {"gpus_per_node": {"exclusiveMinimum": 0}}},
    },
    "Serving": {
        "if": _is("engine", ENGINE),
        "then": {
            **_given("url"),
            "properties": {"url": {"not": {"type": "null"}}, "gpus": {"maximum": 0}, "nodes": {"maximum": 1}},
        },
        "else": {"not": {"anyOf": [{"required": [key]} for key in sorted(KEYS)]}},
    },
    "Study": {
        "if": _given("pairs"), "else": _given("teacher", "prompts", "modes"),
        "then": {"not": {"anyOf": [_given(key) for key in ("teacher", "prompts", "modes")]}},
    },
    "Cluster": {"if": _is("backend", "local"), "then": {"not": {"required": ["slurm"]}}},
}  # fmt: skip


def json_schema(kind: str) -> Schema:
    """Return the JSON Schema of a kind of file, one of KINDS.

    Raises:
        ValueError: a field has no docstring.
    """
    model = KINDS[kind].model
    made = model.model_json_schema(ref_template="#/definitions/{model}", schema_generator=_Generator)
    definitions = {"definitions": made.pop("$defs")} if "$defs" in made else {}
    settled: Schema = _settled({"$schema": DRAFT, **made, **definitions})
    return settled


class _Generator(GenerateJsonSchema):
    """Adds what pydantic does not know: descriptions, examples, presets, rules, single values for lists."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # it would be the key again

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value  # examples keep their order

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        made = super().function_before_schema(schema)
        return _one_or_more(made["items"]) if schema["function"]["function"] is listed else made

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made, model = super().model_schema(schema), schema["cls"]
        properties = made["properties"]
        if model is Study:
            properties |= _presets()
        elif model is Model:
            properties["architecture"] = _architecture()
        elif model is Serving:
            properties["vllm"] |= {"properties": known(), "additionalProperties": False}
        for name, words in descriptions(model).items():
            text, examples = _split(words)
            properties[name] = {"description": text, **examples, **properties[name]}
        if "name" in properties:  # the file's name is the default
            made["required"].remove("name")
        return made | RULES.get(model.__name__, {})


def descriptions(model: type[Strict]) -> dict[str, str]:
    """Return what each field of a model means.

    That is the docstring below it or, for a key that holds a mapping, the docstring of that mapping's model.
    They are read from the source here: pydantic's `use_attribute_docstrings` would do so at every start of
    `sor`.

    Raises:
        ValueError: a field has neither.
    """
    found: dict[str, str] = {}
    for name, info in model.model_fields.items():
        for inner in models_in(info.annotation):
            found[name] = " ".join((inner.__doc__ or "").split())
    for cls in reversed(model.__mro__):
        if issubclass(cls, Strict) and cls is not Strict:
            (parsed,) = ast.parse(inspect.getsource(cls)).body
            assert isinstance(parsed, ast.ClassDef)
            for field, below in pairwise(parsed.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                        found[name] = " ".join(text.split())
    if missing := [name for name in model.model_fields if not found.get(name)]:
        raise ValueError(f"{model.__name__}: write a docstring below {', '.join(missing)}")
    return {name: found[name] for name in model.model_fields}


def _split(words: str) -> tuple[str, Schema]:
    """Return a description without its examples, and these, read as YAML."""
    match = EXAMPLES.search(words)
    if match is None:
        return words, {}
    examples = re.findall(r"`([^`]+)`", match[1])
    return words[: match.start()], {"examples": [parse_yaml(f"x: {text}").data["x"] for text in examples]}


def _one_or_more(item: Schema) -> Schema:
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}


def _presets() -> Schema:
    """Return the keys of a study that name presets: shipped ones, or files beside the study."""
    found: Schema = {}
    for key, folder in PRESETS.items():
        words = f"a name in configs/{folder}, or a .yaml file beside the study"
        shipped, own = {"enum": known_names(folder)}, {"type": "string", "pattern": r"\.ya?ml$"}
        found[key] = {"anyOf": [shipped, own], "description": words}
    several = {key: _one_or_more(name) for key, name in found.items() if key != "teacher"}
    return {"teacher": {"anyOf": [found["teacher"], {"type": "null"}]}, **several}


def _architecture() -> Schema:
    """Return the keys of an architecture that decide its shapes; it may have any others."""
    size = {"type": "integer", "minimum": 1, "maximum": MOST}
    sizes: Schema = {
        key: {**size, "type": ["integer", "null"]} if key in NULLABLE else size for key in (*SIZES, *OPTIONAL)
    }
    return {
        "type": "object",
        "required": ["model_type", *MEASURED],
        "properties": {
            "model_type": {"anyOf": [A_FAMILY, {"type": "string"}]},
            **sizes,
            "num_hidden_layers": {**size, "maximum": LAYERS},
            **{key: {"type": "boolean"} for key in SWITCHES},
        },
    }


def _settled(node: Any) -> Any:
    """Return a schema in the words of its draft; pydantic uses others where functions surround a type."""
    if isinstance(node, list):
        return [_settled(part) for part in node]
    if not isinstance(node, dict):
        return node
    made: Schema = {}
    for key, part in node.items():
        if key in ("properties", "definitions"):  # whose keys are names
            made[key] = {name: _settled(each) for name, each in part.items()}
        elif key in ("examples", "default", "enum"):  # values, not schemas
            made[key] = part
        elif key != "title":
            made[LIMITS.get(str(key), str(key))] = _settled(part)
    if "anyOf" in made:
        made.pop("minLength", None)  # of the list, which has its own
        if any("$ref" in part for part in made["anyOf"]) and made.get("default"):
            del made["default"]  # each of its keys has one
    if "prefixItems" in made:  # alike in all models; only newer drafts know the word
        made["items"] = made.pop("prefixItems")[0]
    if "$ref" in made and len(made) > 1:  # in this draft, nothing beside it counts
        made = {"allOf": [{"$ref": made.pop("$ref")}], **made}
        made.pop("default", None)  # each of its keys has one
    return made
