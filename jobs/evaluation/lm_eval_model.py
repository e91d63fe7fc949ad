"""lm-eval's view of an engine: passes its requests to the engine and counts computed tokens per item.

Thinking is removed from an answer before lm-eval sees it, and stop strings apply to the answer only. lm-eval
is imported at module level, so import this module only to run it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from jobs.engines.base import Engine, Pair, Request, row_seed
from jobs.text.chat import Chat
from jobs.text.thinking import Thinking


@dataclass
class Usage:
    """Token counts of one item's requests, per generated answer and per scored sequence."""

    prompts: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    reasoning: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)


class EngineLM(TemplateLM):
    """lm-eval language model backed by one of our engines.

    Args:
        config: The evaluation's config, which says how a student answers.
        report: Called after each step with the number of requests done and the total.
    """

    def __init__(self, engine: Engine, config: Mapping[str, Any], report: Callable[[int, int], None]) -> None:
        super().__init__()
        self.tokenizer = engine.tokenizer
        self.max_length = engine.max_length
        self.usage: dict[tuple[str, int], Usage] = defaultdict(Usage)
        self._engine, self._config, self._report = engine, config, report
        self._thinking = Thinking.of(config.get("thinking"))
        self._chat = Chat.of(engine.tokenizer, self._thinking)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render the prompt; a final assistant message is left open for the model to continue."""
        return self._chat.prompt(chat_history)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text; the chat template has already written the special ones."""
        return self._engine.encode(string)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return one answer per request, thinking removed; of a task's own settings only `until` applies."""
        answers: dict[int, str] = {}
        asked = [self._request(index, instance) for index, instance in enumerate(requests)]
        for found in self._engine.generate(asked, lambda: self._report(len(answers), len(asked))):
            index = found.request.key
            answers[index] = found.answer
            usage = self._usage(requests[index])
            usage.prompts.append(len(found.request.prompt))
            usage.outputs.append(len(found.ids))
            usage.reasoning.append(found.reasoning_tokens)
        return [answers[index] for index in range(len(asked))]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return ln p of each continuation given its context, and whether greedy decoding gives it."""
        pairs = [self._pair(context, rest) for context, rest in (r.args for r in requests)]
        scored = self._engine.score(pairs, lambda: self._report(0, len(pairs)))
        for instance, (context, rest) in zip(requests, pairs, strict=True):
            self._usage(instance).scored.append(len(context) + len(rest))
        return scored

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        raise AssertionError("loglikelihood goes to the engine at once")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise ValueError(
            "this task measures perplexity of whole texts, which says nothing of a model that answers in a "
            "chat: take a task that generates (generate_until) or chooses (multiple_choice)"
        )

    def _pair(self, context: str, rest: str) -> Pair:
        """Encode a context and its continuation, an answer, which follows the thinking."""
        shut = self._thinking.shut(context)
        if not shut:
            return self._encode_pair(context, rest)
        # As in training, the text after the prompt closes the thinking that the template opened.
        whole, before = self.tok_encode(shut + rest), len(self.tok_encode(shut))
        return self.tok_encode(context) + whole[:before], whole[before:]

    def _usage(self, instance: Instance) -> Usage:
        return self.usage[str(instance.task_name), int(instance.doc_id or 0)]

    def _request(self, index: int, instance: Instance) -> Request:
        text, settings = instance.args
        until = settings.get("until") or []
        sampling = {**self._config["sampling"], "max_tokens": self._config["group"]["max_tokens"]}
        item = f"{instance.task_name}:{instance.doc_id}:{index}"
        seed = row_seed(self._config["student"]["seed"], item, "evaluate")
        ends = (until,) if isinstance(until, str) else tuple(until)
        request = self._engine.request(index, text, sampling, self._thinking, seed, ends)
        if request.max_tokens < 1:
            raise ValueError(
                f"task {instance.task_name}, item {instance.doc_id}: its prompt has {len(request.prompt)} "
                f"tokens and the model's context is {self.max_length}: use fewer examples (fewshot) or "
                "another task"
            )
        return request
