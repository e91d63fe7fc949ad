"""A unit's identity covers all that changes its result, and nothing that does not."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.core.unit import STAGES, Resources, Unit

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(st.text(), values, max_size=4)
names = st.text("abc", min_size=1, max_size=4)


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same JSON value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {k: shuffled(value[k], rng) for k in keys}
    return [shuffled(v, rng) for v in value] if isinstance(value, list) else value


@st.composite
def units(draw: st.DrawFn) -> Unit:
    inputs = tuple(
        Unit("prepare", name, draw(configs)).as_input(name) for name in draw(st.sets(names, max_size=3))
    )
    resources = Resources(nodes=draw(st.integers(1, 8)), hours=draw(st.floats(0.5, 24)))
    return Unit(draw(st.sampled_from(STAGES)), draw(names), draw(configs), inputs, {}, resources, None)


@given(units(), st.randoms())
def test_identity_does_not_depend_on_the_order_of_keys_or_inputs(unit: Unit, rng: random.Random) -> None:
    inputs = list(unit.inputs)
    rng.shuffle(inputs)
    other = replace(unit, config=shuffled(unit.config, rng), inputs=tuple(inputs))
    assert other.id == unit.id


@given(units(), configs)
def test_identity_does_not_depend_on_how_or_where_it_runs(unit: Unit, execution: dict[str, Any]) -> None:
    other = replace(unit, name="other", execution=execution, resources=Resources(nodes=99), flops=7)
    assert other.id == unit.id


@given(units())
def test_unit_survives_json(unit: Unit) -> None:
    text = json.dumps(unit.to_json())
    again = Unit.from_json(json.loads(text))
    assert again == unit
    assert again.id == unit.id == json.loads(text)["id"]
    assert json.loads(unit.to_line(index=3)) == {"index": 3, "unit": json.loads(text)}


@given(units(), st.randoms())
def test_a_job_sees_the_same_config_whatever_the_order_of_its_keys(unit: Unit, rng: random.Random) -> None:
    other = replace(unit, config=shuffled(unit.config, rng))
    seen = [Unit.from_json(json.loads(u.to_line())["unit"]).config for u in (unit, other)]
    seen += [Unit.from_json(u.to_json()).config for u in (unit, other)]
    assert len({json.dumps(config) for config in seen}) == 1


@given(units(), units())
def test_different_work_has_different_identities(a: Unit, b: Unit) -> None:
    def work(u: Unit) -> str:
        return json.dumps([u.stage, u.config, sorted((i.role, i.id) for i in u.inputs)], sort_keys=True)

    assert (a.id == b.id) == (work(a) == work(b))


def test_identity_changes_with_each_part() -> None:
    first = Unit("prepare", "p", {"seed": 0})
    base = Unit("train", "t", {"lr": 1e-3}, (first.as_input(),))
    changed = [
        replace(base, stage="evaluate"),
        replace(base, config={"lr": 1e-4}),
        replace(base, inputs=()),
        replace(base, inputs=(first.as_input("other"),)),
        replace(base, inputs=(replace(first, config={"seed": 1}).as_input(),)),
    ]
    ids = {unit.id for unit in (base, *changed)}
    assert len(ids) == 1 + len(changed)


def test_identity_of_a_known_unit() -> None:
    """Results on disk are found by it: if this fails, everything published so far would be done again."""
    first = Unit("prepare", "p", {"function": "a:b", "args": {"seed": 0}})
    assert first.id == "b09289d73da1"
    assert Unit("collate", "c", {"pairs": None}, (first.as_input(),)).id == "f945dc0286d9"


def test_gpus_and_processes() -> None:
    resources = Resources(nodes=2, tasks_per_node=4, gpus_per_node=4, workers=3)
    assert resources.gpus == 24
    assert resources.world_size == 8
