"""FLOPs of a model whose family `jobs.core.architectures` does not know, measured with torch's counter.

`python -m jobs.engines.measure` reads a config.json from its standard input and writes the sizes and FLOPs
for a preset. The model is built on torch's meta device, which computes shapes only: no weights are needed,
and a model of any size takes seconds.
"""

from __future__ import annotations

import inspect
import itertools
import json
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from jobs.core.architectures import TYPES

SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip
SHORT, LONG, CHECKS = 16, 40, (7, 96)  # tokens: of the sequences that are solved for, and that are compared
ATTENTION = "sor_measure"


def main() -> int:
    """Measure the config on standard input."""
    try:
        print(json.dumps(measure(json.load(sys.stdin))))
    except ImportError as error:
        extra = "run this where the extra 'train' is installed: pip install 'scale-or-reason[train]'"
        print(f"measuring FLOPs needs PyTorch and transformers ({error}); {extra}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def measure(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of a model, and under `flops` the coefficients of its FLOPs.

    A forward pass over n tokens with r rows of the output layer takes

        F(n, r) = per_token·n + per_output·r + per_pair·n²

    Two lengths give per_pair and per_token + per_output; the output layer's weights tell these apart. Other
    lengths must agree, to the operation. Layers with a sliding window are counted in full, since a window is
    a mask here; their part of per_pair stands in `windows`, as their attention was called.

    Raises:
        ValueError: transformers cannot build the model, or its FLOPs are none of that form.
    """
    config, count = _working(values)
    name, model = config.model_type, count.model
    short, long = count(SHORT), count(LONG)
    pairs, rest = divmod(long * SHORT - short * LONG, SHORT * LONG * (LONG - SHORT))
    each = (short - pairs * SHORT**2) // SHORT
    if rest or pairs <= 0 or any(count(n) != each * n + pairs * n**2 for n in CHECKS):
        raise ValueError(
            f"{name}: FLOPs of its forward pass are not a·n + b·n² for n tokens, as those of attention over "
            "all tokens are; models with state spaces, convolutions or linear attention cannot be counted"
        )
    windows = _windows(config, count.seen, pairs)
    output = 2 * model.get_output_embeddings().weight.numel()
    last = {"logits_to_keep": 1}
    if not inspect.signature(model.forward).parameters.keys().isdisjoint(last):
        fewer = count(SHORT) - count(SHORT, **last)
        if fewer != output * (SHORT - 1):
            raise ValueError(f"{name}: its output layer is not one product for each token")
    total = sum(p.numel() for p in model.parameters())
    flops: dict[str, Any] = {
        "per_token": each - output,
        "per_output": output,
        "per_pair": pairs - sum(windows.values()),
    }
    if windows:
        flops["windows"] = [{"window": window, "per_pair": each} for window, each in windows.items()]
    sizes = {key: getattr(config, key, None) for key in SIZES}
    return {
        "model_type": name,
        **{key: size for key, size in sizes.items() if isinstance(size, int)},
        "flops": {**flops, "parameters": total, "active_parameters": total - count.idle(SHORT)},
    }


def _working(values: Mapping[str, Any]) -> tuple[Any, Counting]:
    """Return a config, and what counts its model's FLOPs, for the first way to call it that works.

    Some models have an attention of their own, and some read their mask, which has no values here.

    Raises:
        ValueError: transformers does not know the family, or refuses the config, or none works.
    """
    why = ""
    for attention, masked in itertools.product((ATTENTION, "eager"), (False, True)):
        try:
            config, count = build(values, attention, masked)
            count(SHORT)
            return config, count
        except (RuntimeError, NotImplementedError, LookupError, TypeError, AttributeError) as error:
            why = why or str(error).partition("\n")[0]
    raise ValueError(f"{values['model_type']}: this model cannot be run on torch's meta device ({why})")


def build(
    values: Mapping[str, Any], attention: str = ATTENTION, masked: bool = False
) -> tuple[Any, Counting]:
    """Return a config and its model on the meta device, ready to be counted.

    Args:
        attention: Implementation in transformers' terms.
        masked: Whether the model is given a mask.

    Raises:
        ValueError: transformers does not know the family, or refuses the config.
    """
    import torch
    from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForCausalLM, __version__
    from transformers.utils import logging

    logging.set_verbosity_error()
    name, seen = values.get("model_type"), list[tuple[int | None, int]]()
    AttentionInterface.register(ATTENTION, partial(_attention, seen))
    if name not in CONFIG_MAPPING:
        raise ValueError(f"transformers {__version__} knows no model_type '{name}'")
    try:
        given = {key: value for key, value in values.items() if key != "quantization_config"}
        config = CONFIG_MAPPING[name].from_dict(given)
        config._experts_implementation = "batched_mm"  # each token with its own experts only
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype="float32")
    except ValueError as error:
        raise ValueError(f"transformers {__version__} cannot build it: {error}") from None
    return config, Counting(model.eval(), seen, masked)


def _attention(
    seen: list[tuple[int | None, int]],
    _: Any,
    query: Any,
    key: Any,
    value: Any,
    *__: Any,
    **options: Any,
) -> tuple[Any, None]:
    """Take the products of attention over all tokens, and note its window and products for one pair."""
    heads = query.shape[1]
    seen.append((options.get("sliding_window"), heads * (query.shape[-1] + value.shape[-1])))
    key, value = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (key, value))
    return (query @ key.mT @ value).transpose(1, 2).contiguous(), None


class Counting:
    """Counts FLOPs of forward passes of a model, by module.

    Args:
        seen: Fills with the calls of attention of the last pass: the window, or None, and the multiply-adds
            for a query-key pair.
    """

    def __init__(self, model: Any, seen: list[tuple[int | None, int]], masked: bool) -> None:
        self.model, self.seen, self.masked = model, seen, masked

    def __call__(self, tokens: int, **options: Any) -> int:
        return int(sum(self.by_module(tokens, **options).get("Global", {}).values()))

    def by_module(self, tokens: int, **options: Any) -> dict[str, dict[Any, int]]:
        """Return FLOPs by operation, by the module's name; "Global" is the sum."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        self.seen.clear()
        ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
        if self.masked:
            options["attention_mask"] = torch.zeros(1, 1, tokens, tokens, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False, depth=None) as counter:
            self.model(ids, use_cache=False, **options)
        return dict(counter.get_flop_counts())

    def idle(self, tokens: int) -> int:
        """Return the parameters of experts that a token does not pass.

        Experts of a layer are one module whose matrices have three dimensions. Its FLOPs tell which part of
        them a token passes, and so which part of their biases.
        """
        flops, total = self.by_module(tokens), 0
        for name, module in self.model.named_modules():
            own = list(module.parameters(recurse=False))
            if matrices := sum(p.numel() for p in own if p.dim() == 3):
                passed = sum(flops[f"{type(self.model).__name__}.{name}"].values()) // (2 * tokens)
                total += sum(p.numel() for p in own) * (matrices - passed) // matrices
        return total


def _windows(config: Any, seen: list[tuple[int | None, int]], pairs: int) -> dict[int, int]:
    """Return the FLOPs of a query-key pair in layers with a window, by window.

    Raises:
        ValueError: some layers attend otherwise, or their windows cannot be told.
    """
    types = set(getattr(config, "layer_types", None) or ())
    windowed = "sliding_attention" in types or (not types and getattr(config, "sliding_window", None))
    layers: Counter[int | None] = Counter()
    for window, products in seen:
        layers[window] += 2 * products
    found = {window: flops for window, flops in layers.items() if window}
    odd = types - set(TYPES) or (seen and (len(seen) != config.num_hidden_layers or layers.total() != pairs))
    if odd or (windowed and not found):
        raise ValueError(
            f"{config.model_type}: not all of its {config.num_hidden_layers} layers attend to all tokens or "
            "to those in a sliding window, so its FLOPs cannot be counted"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
