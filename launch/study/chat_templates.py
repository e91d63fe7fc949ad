"""Early checks of a study's chat templates on a login node, if the model's files are already there.

Files come from a folder or the hub's cache; the jobs check again in any case. Nothing is downloaded and
transformers is not imported; templates are rendered as transformers does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.core.unit import MODES, PREPARED
from jobs.text.chat import Chat, Message
from jobs.text.thinking import Thinking
from launch.study.hub_cache import Cache, snapshot
from launch.study.hub_needs import Need
from launch.study.presets import Mistake
from launch.study.textfile import is_file, read_text

if TYPE_CHECKING:
    from launch.study.schema import Study

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"  # as transformers names them
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def template_mistakes(study: Study, file: Path) -> list[Mistake]:
    """Return mistakes for chat templates with which this study's rows would be wrong.

    Args:
        file: the study file.
    """
    wrong = []
    for student in study.students:
        chat = local_chat(*student.tokens_with, Thinking.of(student.thinking.model_dump()), {})
        if chat and (fault := chat.student_fault()):
            wrong.append(Mistake(file, "students", f"{student.name}: {fault}"))
    teacher, modes = study.teacher, study.modes
    if teacher and modes and teacher.model:
        for mode in MODES:
            options = getattr(modes, mode).chat_template_kwargs
            chat = local_chat(
                teacher.model, teacher.revision, Thinking.of(teacher.thinking.model_dump()), options
            )
            if chat and (fault := chat.teacher_fault(mode)):
                wrong.append(Mistake(file, f"modes.{mode}", fault))
    return wrong


def local_chat(
    name: str, revision: str | None, thinking: Thinking, options: Mapping[str, Any]
) -> Chat | None:
    """Return the chat of a tokenizer whose files are on this machine.

    Args:
        name: a folder, or a name on the hub.
        revision: of a name on the hub.

    Returns:
        None if the files are not there, or have no template.
    """
    folder = None if name.startswith(PREPARED) else _folder(name, revision)
    found = folder and _read(folder)
    if not found:
        return None
    source, tokens = found

    def render(messages: Sequence[Message], **more: Any) -> str:
        given = {"tools": None, "documents": None, **tokens, **more}
        return str(_compiled(source).render(messages=messages, **given))

    return Chat(render, thinking, name, tokens.get("eos_token", ""), options)


def _folder(name: str, revision: str | None) -> Path | None:
    if Path(name).is_dir():
        return Path(name)
    return snapshot(Cache.of(os.environ), Need(name, revision))


def _read(folder: Path) -> tuple[str, dict[str, str]] | None:
    """Read a folder's chat template and special tokens; what cannot be read is left to the jobs."""
    try:
        config = json.loads(read_text(folder / CONFIG))
        own = folder / TEMPLATE
        source = read_text(own) if is_file(own) else config.get("chat_template")
        if isinstance(source, list):  # several, by name
            source = next((each["template"] for each in source if each["name"] == "default"), None)
        tokens = {name: config.get(name) for name in TOKENS}
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    texts = {name: t.get("content") if isinstance(t, dict) else t for name, t in tokens.items()}
    known = {name: text for name, text in texts.items() if isinstance(text, str)}
    return (source, known) if isinstance(source, str) else None


@cache
def _compiled(source: str) -> Any:
    """Compile a template as transformers does."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %}: marks the text that a model writes, without changing it."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source)
