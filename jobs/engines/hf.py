"""Fallback engine without vLLM: generation and scoring by transformers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from jobs.engines.base import Completion, Engine, Pair, Request, Tick, Watch

BATCH = 32  # answers per batch


class TransformersEngine(Engine):
    """Plain transformers: slower, but runs wherever torch does."""

    def __init__(self, model: str, revision: str | None, max_length: int | None, seed: int = 0) -> None:
        import torch
        import transformers

        super().__init__(model, revision)
        self.draws = torch.Generator().manual_seed(seed)  # seeds of requests without one
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = f"transformers {transformers.__version__}"
        auto: Any = transformers.AutoModelForCausalLM
        loaded = auto.from_pretrained(model, revision=revision, dtype="auto")
        self._model: Any = loaded.to(self._device).eval()
        longest = self._model.config.max_position_embeddings
        if max_length and max_length > longest:
            raise ValueError(f"max_model_len is {max_length}, but the model's context is {longest} tokens")
        self.max_length = max_length or longest

    def close(self) -> None:
        del self._model

    def _generate(self, requests: Iterator[Request], tick: Tick) -> Iterator[Completion]:
        import torch
        from transformers import GenerationConfig

        while batch := list(islice(requests, BATCH)):
            width = max(len(r.prompt) for r in batch)
            pads = [width - len(r.prompt) for r in batch]
            rows = _Rows(self, batch, tick)
            longest = max(r.max_tokens for r in batch)
            config = GenerationConfig(max_new_tokens=longest, do_sample=False, pad_token_id=0)
            self._model.generation_config = config  # the model's own config might add penalties
            prompts = [[0] * n + r.prompt for n, r in zip(pads, batch, strict=True)]
            mask = [[0] * n + [1] * (width - n) for n in pads]
            with torch.inference_mode():
                self._model.generate(
                    torch.tensor(prompts, device=self._device),
                    attention_mask=torch.tensor(mask, device=self._device),
                    generation_config=config,
                    logits_processor=[rows.sample],
                    stopping_criteria=[rows.ended],
                )
            for request, ids, finish in zip(batch, rows.ids, rows.finish, strict=True):
                yield self.completion(request, ids, finish)

    def _score(self, pairs: Sequence[Pair], tick: Tick) -> Iterator[tuple[int, float, bool]]:
        import torch

        for index, (context, continuation) in enumerate(pairs):
            tokens = torch.tensor([context + continuation], device=self._device)
            with torch.inference_mode():
                logits = self._model(tokens, logits_to_keep=len(continuation) + 1).logits[0, :-1]
            logprobs = logits.float().log_softmax(-1)
            targets = tokens[0, len(context) :]
            total = logprobs.gather(1, targets[:, None]).sum()
            yield index, float(total), bool((logprobs.argmax(-1) == targets).all())
            tick()


class _Rows:
    """A batch inside transformers' `generate`: each row samples and ends by its own request."""

    def __init__(self, engine: TransformersEngine, batch: list[Request], tick: Tick) -> None:
        import torch

        self._batch, self._tick = batch, tick
        self._ends = set(engine.ends)
        self._watches = [Watch(engine, r) if r.until else None for r in batch]
        drawn = torch.randint(2**31, (len(batch),), generator=engine.draws).tolist()
        seeds = [own if r.seed is None else r.seed for own, r in zip(drawn, batch, strict=True)]
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.ids: list[list[int]] = [[] for _ in batch]
        self.finish = [""] * len(batch)

    def sample(self, _: Any, scores: Any) -> Any:
        """Logits processor: penalties, and of each sampling row one token, drawn with the row's own seed."""
        for row, request in enumerate(self._batch):
            if not self.finish[row]:
                scores[row] = _penalized(scores[row], request, self.ids[row])
            if request.temperature and not self.finish[row]:
                token = _draw(scores[row], request, self._generators[row])
                scores[row] = -math.inf
                scores[row, token] = 0.0
        return scores

    def ended(self, tokens: Any, _: Any) -> Any:
        """Stopping criterion: one boolean per row."""
        import torch

        self._tick()
        for row, (request, token) in enumerate(zip(self._batch, tokens[:, -1].tolist(), strict=True)):
            if self.finish[row]:
                continue
            self.ids[row].append(token)
            watch = self._watches[row]
            if token in self._ends or (watch and watch.ended(token)):
                self.finish[row] = "stop"
            elif len(self.ids[row]) == request.max_tokens:
                self.finish[row] = "length"
        return torch.tensor([bool(f) for f in self.finish], device=tokens.device)


def _penalized(scores: Any, request: Request, ids: list[int]) -> Any:
    """Apply the request's penalties to a row of logits; `ids` are the tokens generated so far."""
    import torch

    if request.repetition_penalty != 1:
        seen = torch.tensor(sorted({*request.prompt, *ids}), device=scores.device)
        logits, factor = scores[seen], request.repetition_penalty
        scores[seen] = torch.where(logits > 0, logits / factor, logits * factor)
    if (request.presence_penalty or request.frequency_penalty) and ids:
        tokens, times = torch.tensor(ids, device=scores.device).unique(return_counts=True)
        scores[tokens] -= request.presence_penalty + request.frequency_penalty * times
    return scores


def _draw(scores: Any, request: Request, generator: Any) -> int:
    """Draw one token from a row of logits: temperature, then min_p, then top_k, then top_p."""
    import torch

    logits, tokens = (scores.float().cpu() / request.temperature).sort(descending=True)
    if request.min_p > 0:
        logits[logits.softmax(-1) < request.min_p * logits.softmax(-1)[0]] = -math.inf
    if request.top_k > 0:
        logits = logits[: request.top_k]
    shares = logits.softmax(-1)
    shares[shares.cumsum(-1) - shares >= request.top_p] = 0.0  # the likeliest token always stays
    return int(tokens[torch.multinomial(shares, 1, generator=generator)])
