"""Configs that are filled in are the same as those that are written out, in text and in value."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from test_unit import configs, values

from jobs.core.canonical import Filled, as_text, canonical, gap, pattern
from jobs.core.unit import Unit

names = st.from_regex(r"[a-z_]+", fullmatch=True)


@given(configs, st.dictionaries(names, values, max_size=4))
def test_a_filled_config_is_the_one_written_out(rest: dict[str, Any], filling: dict[str, Any]) -> None:
    """At any depth, also where a value is there twice, and whatever signs stand beside it."""

    def config(told: dict[str, Any]) -> dict[str, Any]:
        return {
            "rest %": rest,
            "%(deep)s": [told, {"100 %": told}],
            **{f"own {key}": told[key] for key in told},
        }

    written = config(filling)
    filled = Filled(
        pattern(config({key: gap(key) for key in filling})), {key: as_text(v) for key, v in filling.items()}
    )
    assert filled.text == canonical(filled) == canonical(written)
    assert filled == written == dict(filled)
    assert (len(filled), list(filled)) == (len(written), sorted(written))


def test_a_unit_of_a_filled_config_is_that_of_the_written_one() -> None:
    pieces = pattern({"share": 0.5, "name": gap("name")})
    filled, written = (
        Unit("train", "t", config)
        for config in (Filled(pieces, {"name": '"a \\" % b"'}), {"share": 0.5, "name": 'a " % b'})
    )
    assert filled.id == written.id
    assert filled.to_line(index=1) == written.to_line(index=1)
    assert Unit.from_json(filled.to_json()) == Unit.from_json(json.loads(json.dumps(written.to_json())))
