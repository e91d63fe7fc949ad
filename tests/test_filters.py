"""Duplicates, near duplicates, benchmark items and wrong answers, each in texts as people write them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.data.filters.correct import agrees, result_of
from jobs.data.filters.judges import Claim, Judges
from jobs.data.filters.near import MISSED, MOST, SIZE, Sketches, rows_of, sketch
from jobs.data.filters.overlap import COMMON, Index, Item
from jobs.data.filters.references import References
from jobs.data.filters.words import Hashed, digest, words
from jobs.data.prompts import prompt_id

CLIPS = (  # as GSM8K asks
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)
WENG = (
    "Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of babysitting. "
    "How much did she earn?"
)
FRUIT = "小明有三个苹果和五个橙子，他给了妹妹两个苹果，请问他现在一共还有多少个水果？"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is 5-3?", "what is 5 - 3"),
        (r"What is $5 \times 3$?", "what is 5 * 3"),
        ("WHAT\n is\t5×3 ?", "what is 5 * 3"),
        ("1,000 plus 2.50", "1000 plus 2.50"),
        ("她每天赚１８美元。", "她 每 天 赚 18 美 元"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("สวัส", "ส ว ั ส"),
        ("안녕하세요 세계", "안녕하세요 세계"),
        ("def f(x):\n    return x+1", "def f x return x + 1"),
        ("ﬁne cafe\u0301 co\u00adop", "fine café coop"),
        ("?!", "?!"),
    ],
)
def test_words_of_texts_in_many_scripts(text: str, found: str) -> None:
    assert words(text) == found.split()


def test_digests_ignore_case_space_and_forms_alone() -> None:
    same = ["What is ½ of 10?", "what  is\n½ of 10?", "WHAT IS 1⁄2 OF 10?\u200b", " what is ½ of １０？"]
    assert len({digest(text) for text in same}) == 1
    assert digest("What is 5-3?") != digest("What is 5+3?")


def test_runs_do_not_reach_into_the_next_text() -> None:
    hashed = Hashed.of([list("abcd"), list("ab"), list("bcdab")])
    runs, text = hashed.runs(3)
    assert text.tolist() == [0, 0, 2, 2, 2]
    assert runs[1] == runs[2], "bcd in both"
    assert len(set(runs.tolist())) == 4
    shingles, starts = hashed.shingles(3)
    assert np.diff(starts).tolist() == [2, 1, 3]
    assert shingles[2] not in runs, "the short text as a whole"
    assert len(Hashed.of([]).runs(3)[0]) == 0


def later(
    texts: Sequence[str], threshold: float, folder: Path, among: Sequence[bool] | None = None
) -> set[int]:
    """The prompts that leave as near duplicates, added in two parts."""
    with Sketches(folder / "runs", threshold) as sketches:
        half = len(texts) // 2
        for part in filter(None, (texts[:half], texts[half:])):
            sketches.add(sketch(Hashed.of([words(text) for text in part]), threshold))
        found = sketches.later(np.ones(len(texts), bool) if among is None else np.array(among))
    assert not (folder / "runs").exists()
    assert all(first < number for number, first in found.items())
    return set(found)


def exactly_later(texts: Sequence[str], threshold: float) -> set[int]:
    """The same, by comparing all pairs of sets of words."""
    sets = []
    for text in texts:
        found = words(text)
        runs = {tuple(found[i : i + SIZE]) for i in range(len(found) - SIZE + 1)} or {tuple(found)}
        sets.append(runs)
    kept: list[int] = []
    for number, own in enumerate(sets):
        if not any(len(own & sets[other]) >= threshold * len(own | sets[other]) for other in kept):
            kept.append(number)
    return set(range(len(texts))) - set(kept)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_near_duplicates_are_those_of_comparing_all_pairs(threshold: float, tmp_path: Path) -> None:
    drawn = random.Random(0)
    vocabulary = [f"{a}{b}" for a in "bcdfgklmnprst" for b in "aeiou"]
    texts: list[str] = []
    for _ in range(150):
        own = drawn.choices(vocabulary, k=drawn.randrange(3, 80))
        for changes in (0, 0, 1, 2, 4):  # some below and some above the threshold
            copy = list(own)
            for _ in range(changes):
                copy[drawn.randrange(len(copy))] = drawn.choice(vocabulary)
            texts.append(" ".join(copy))
    drawn.shuffle(texts)
    expected = exactly_later(texts, threshold)
    assert 30 < len(expected) < 600
    assert later(texts, threshold, tmp_path) == expected


def test_a_prompt_that_leaves_keeps_no_other_out(tmp_path: Path) -> None:
    chain = [
        " ".join(map(str, range(start, start + 60))) for start in (0, 4, 8)
    ]  # 0.87 to the next one, 0.75 beyond
    assert later(chain, 0.8, tmp_path) == {1}
    assert later(chain, 0.8, tmp_path, among=[False, True, True]) == {2}
    assert later([CLIPS], 0.8, tmp_path) == set()


@pytest.mark.parametrize(
    ("other", "leaves"),
    [
        (CLIPS.lower().replace(",", ""), True),
        (f"Solve: {CLIPS}", True),
        (CLIPS.replace("48", "36"), False),  # another problem of the same kind: 5 of 35 runs differ
        ("What is the capital of Japan?", False),
        (f"{CLIPS} {WENG}", False),
    ],
)
def test_near_duplicates_of_a_question(other: str, leaves: bool, tmp_path: Path) -> None:
    assert later([CLIPS, other], 0.8, tmp_path) == ({1} if leaves else set())


def test_short_and_empty_prompts_are_compared_as_a_whole(tmp_path: Path) -> None:
    texts = ["2+3=", "2+4=", "2 + 3 =", "", "?", "??", "?", "Hi", "hi!"]
    assert later(texts, 0.8, tmp_path) == {2, 6, 8}


def test_prompts_of_one_template_are_compared_a_bounded_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, similar = list[int](), Sketches._similar

    def counted(self: Sketches, one: frozenset[int], other: frozenset[int]) -> bool:
        compared.append(1)
        return similar(self, one, other)

    monkeypatch.setattr(Sketches, "_similar", counted)
    frame = " ".join(f"frame{i}" for i in range(40))
    texts = [f"{frame} {i} {i * i} {i * 7} end of the {i}th text of many" for i in range(3 * MOST)]
    assert later(texts, 0.9, tmp_path) == set()
    assert MOST < len(compared) <= MOST * len(texts)


def test_bands_miss_no_more_than_promised() -> None:
    for threshold in np.linspace(0.5, 1, 51):
        rows = rows_of(float(threshold))
        assert (1 - threshold**rows) ** (128 // rows) <= MISSED


def test_items_are_found_in_prompts_and_answers_of_any_form(tmp_path: Path) -> None:
    items = [
        Item(CLIPS, ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72",)),
        Item(WENG),
        Item(FRUIT),
    ]
    index = Index.of({"gsm8k": [items[:2]], "mgsm": [items[2:]], "again": [[items[1]]]}, 13)
    index.save(tmp_path / "items.npz")
    index = Index.load(tmp_path / "items.npz")
    prompts = {
        CLIPS.upper().replace(",", " ,"): {"gsm8k"},
        f"Q: {WENG}\nA:": {"gsm8k", "again"},
        f"问题：{FRUIT}": {"mgsm"},
        CLIPS.replace("clips", "pens").replace("friends", "pals"): set(),
        "Weng earns $12 an hour for babysitting.": set(),
        "小红有三个苹果": set(),
        "": set(),
    }
    found = index.found(list(prompts), [[""] * 6 + [f"As in the problem: {CLIPS}"], [""] * 7])
    assert found == [*map(frozenset, list(prompts.values())[:-1]), {"gsm8k"}]


def test_the_frame_of_a_benchmark_removes_nothing() -> None:
    end = '\n\nEnd with "The answer is X", where X is the letter of the best choice.'
    start = "You are a careful assistant who reads each of the questions twice and then thinks.\n"
    asked = ["What is the capital of France?\nA. Paris\nB. Rome", "What do bees make?\nA. Honey\nB. Silk"]
    items = [Item(start + text + end) for text in asked]
    index = Index.of({"letter": [items]}, 13)
    assert index.found([start + "Which planet is red?\nA. Mars\nB. Venus" + end]) == [frozenset()]
    assert index.found([start + asked[0] + end, asked[0]]) == [{"letter"}, {"letter"}]


def test_what_many_items_have_in_common_identifies_none() -> None:
    story = " ".join(f"word{i}" for i in range(30))
    few = [Item(f"{i} {story} question {i}") for i in range(COMMON)] + [
        Item(f"other {i}") for i in range(COMMON)
    ]
    many = [Item(f"{i} {story} question {i}") for i in range(COMMON + 1)] + [Item(f"{i}") for i in range(90)]
    half = [Item(f"{i} {story} question {i}") for i in range(3)] + [Item("other 0"), Item("other 1")]
    for items, hit in ((few, True), (many, False), (half, False)):
        assert Index.of({"b": [items]}, 13).found([story]) == [frozenset({"b"} if hit else ())], len(items)


@pytest.mark.parametrize(
    ("item", "prompt", "hit"),
    [
        ("2+3=", "2+3=", True),
        ("2+3=", " 2 + 3 =", False),  # the normal form keeps spaces within
        ("2+3=", "Is 2+3=5?", False),  # too short to be looked for inside of a text
        ("2+3=", "2-3=", False),
        ("What is the capital of Peru?", "what is  the capital of PERU?", True),
        ("What is the capital of Peru?", "What is the capital of Peru? And of Chile?", False),
        ("Who was the first president of the United States?",
         "Tell me: who was the first president of the United States, and when?", True),
    ],
)  # fmt: skip
def test_short_items(item: str, prompt: str, hit: bool) -> None:
    index = Index.of({"b": [[Item(item), Item("Why?")]]}, 13)
    assert index.found([prompt]) == [frozenset({"b"} if hit else ())]


SOLUTION = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = 72 clips altogether.\n#### 72"
)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [  # as models answer, and as data sets have their references
        ("Natalia sold 48+24=72 clips.\n#### 72", "72", True),
        ("The answer is **72** clips.", SOLUTION, True),
        ("She sold 24 in May, so 48 + 24 = 74.", SOLUTION, False),
        (r"Thus the probability is \boxed{\frac{1}{2}}.", r"\frac{1}{2}", True),
        ("The answer is 0.5", r"We get $\boxed{\frac12}$.", True),
        (r"\boxed{1000}", "1,000", True),
        ("So she paid $1,000 in total.", "1000", True),
        ("So she paid $1,001 in total.", "1000", False),
        (r"\boxed{5\text{ miles}}", "5 miles", True),
        (r"\boxed{25\%}", "25%", True),
        ("她每天赚18美元。", "18", True),
        ("她每天赚１９美元。", "18", False),
        ("The solution is x = −3.", "-3", True),
        (r"\boxed{[0,1)}", "[0, 1)", True),
        (r"\boxed{(0,1)}", "[0, 1)", False),
        (r"We get \boxed{(x-1)(x+1)}", "x^2-1", True),
        ("Paris is in France. The answer is Paris.", "Paris", True),
        ("**Answer:** Paris", "Paris", True),
        ("The answer is pairs", "Paris", False),  # the same product of letters
        ("答案是东京。", "东京", True),
        ("The answer is (B) 42", "B", True),
        (r"\boxed{\text{C}}", r"\text{(C)}", True),
        ("The answer is C", "B", False),
        ("the answer should be the chief. So the answer is (A).", "(A)", True),  # as BIG-Bench Hard writes
        ("**Final Answer**: **Paris**", "Paris", True),
        ("Answer:\nParis", "Paris", True),
        ("A train leaves at noon. The answer is C.", "A", False),
        ("A train leaves at noon, so it is C", "A", False),
        ("I think so.\n(I)", "I", True),
        ("C. because A is wrong", "C", True),
        (r"\boxed{x}", "x", True),
        ("Yes.", "yes", True),
        ("```python\ndef f(x): return x\n```", "def f(x): return x", False),
        ("anything", " ", False),
    ],
)  # fmt: skip
def test_answers_against_references(answer: str, reference: str, right: bool) -> None:
    assert agrees(answer, reference) is right


def test_the_result_of_a_solution() -> None:
    assert result_of(SOLUTION) == "72"
    assert result_of(r"First \boxed{1}, then \boxed{\frac{a}{b}}.") == r"\frac{a}{b}"
    assert result_of(r"\boxed{1") == r"\boxed{1"
    assert result_of("12 cm") == "12 cm"


def test_a_comparison_without_an_end_is_ended() -> None:
    endless = Claim(r"x = \boxed{10^{10^{10}}}", "100")
    claims = [Claim(r"\boxed{72}", "72"), endless, Claim("So it is 73", "72"), Claim("$0.5$", r"\frac12")]
    with Judges(1, patience=4) as judges:
        assert judges.verdicts(claims) == [True, None, False, True]
        assert judges.verdicts([]) == []
        assert judges.verdicts(claims[2:]) == [False, True]


def test_references_are_looked_up_by_prompt() -> None:
    batch = pa.record_batch({"q": ["a", "b", "c", "a", None], "r": ["1", None, " ", "2", "3"]})
    found = References([batch, pa.record_batch({"q": ["b"], "r": ["4"]})])
    assert found.of([prompt_id(text) for text in "zacb"]) == [None, "1", None, "4"]
    assert References([]).of([prompt_id("a")]) == [None]
    assert found.of([]) == []
