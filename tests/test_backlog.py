from __future__ import annotations

import pytest

import jobs.data.chunks
from jobs.data.backlog import Backlog, Key
from jobs.data.chunks import chunk_sizes


def rows(backlog: Backlog, prompts: dict[str, str], chunk: int = 0) -> None:
    for id, prompt in prompts.items():
        for mode in ("ift", "reasoning"):
            backlog.add(Key(chunk, id, mode), prompt)


def popped(backlog: Backlog) -> list[str]:
    return [f"{key.id} {key.mode}" for key in (backlog.pop() for _ in range(len(backlog)))]


def test_the_longer_mode_goes_first_and_its_longest_prompts_before_others() -> None:
    backlog = Backlog({"ift": 8, "reasoning": 8})  # as long, as far as is known
    rows(backlog, {"a": "12", "b": "1234", "c": "123", "d": "1234"})
    assert popped(backlog) == [f"{id} {mode}" for mode in ("reasoning", "ift") for id in "bdca"]
    backlog = Backlog({"ift": 9, "reasoning": 8})
    rows(backlog, {"a": "1"})
    assert popped(backlog) == ["a ift", "a reasoning"]


def test_finished_answers_say_which_mode_is_the_longer_one() -> None:
    backlog = Backlog({"ift": 8, "reasoning": 64})
    assert backlog.order() == ["reasoning", "ift"]
    backlog.finished("reasoning", 3)
    assert backlog.order() == ["ift", "reasoning"]
    backlog.finished("ift", 5)
    backlog.finished("ift", 2)  # 3.5 in the mean
    assert backlog.order() == ["ift", "reasoning"]
    backlog.finished("ift", 2)
    backlog.finished("reasoning", 4)
    assert backlog.order() == ["reasoning", "ift"]


def test_a_chunk_is_wanted_while_no_long_answer_waits_and_few_others_are_kept_back() -> None:
    backlog = Backlog({"ift": 8, "reasoning": 64})
    assert backlog.wants(0)
    rows(backlog, {str(n): "1" for n in range(3)})
    assert not backlog.wants(400)
    assert [backlog.pop().mode for _ in range(3)] == ["reasoning"] * 3
    assert [n for n in range(100) if backlog.wants(n)] == list(range(16, 100)), (
        "one kept back for 4 in flight"
    )
    backlog.pop()
    backlog.pop()
    assert not backlog.wants(7)
    assert backlog.wants(8)


@pytest.mark.parametrize(("workers", "most"), [(2, 256), (16, 256), (16, 4)])
def test_chunks_become_smaller_so_that_a_slow_workers_last_one_is_not_missed(
    workers: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.data.chunks, "CHUNK_ROWS", most)
    sizes = chunk_sizes(10_000, workers)
    assert sum(sizes) == 10_000
    assert sizes[0] == min(most, 10_000 // (4 * workers) + 1)
    assert sizes[-4 * workers :] == [1] * (4 * workers)
    left = 10_000
    for size in sizes:
        assert size <= left / (4 * workers) + 1
        left -= size


def test_a_worker_alone_has_chunks_of_one_size() -> None:
    assert chunk_sizes(600, 1) == [256, 256, 88]
