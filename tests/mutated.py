"""Files that people write, changed as people and accidents change them, for the fuzz tests.

A change knows the structure of YAML: values are replaced by odd ones, keys are deleted, given twice, renamed
or moved. What PyYAML would not write stands in the text as a word that is replaced at the end.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

from launch.study.presets import CONFIGS, read_yaml

Draw = Callable[[st.SearchStrategy[Any]], Any]
Files = dict[str, bytes]

ODD = (  # as they stand in a file
    "", "~", "null", "true", "no", "Yes", "on", "0", "-1", "1.5", "-0.0", "1e-5", "1e308", "1e999",
    "-1e999", ".nan", ".inf", "-.inf", "0x10", "0o7", "010", "1:30", "1_000", "9" * 25, "9" * 5000,
    "18446744073709551616", "9223372036854775807", "1000000", "2020-13-45", "2020-01-01T00:00:00Z", "''",
    "' '", "a", "a b", "é", "'..'", "'../../etc/passwd'", "/dev/zero", "/dev/null", "/", "'@prepare/'",
    "'@prepare/../../x'", "toy-s", "demo", "'a\\nb'", '"a\\nb"', '"\\0"', '"\\e[31m"', '"\\u202e"',
    '"[/INST]"', '"[bold]x"', "'$(touch pwned)'", "'`touch pwned`'", "'; touch pwned'",
    '"x\\n#SBATCH --wrap=touch"', "'%s%n'", "'{}'", "'{gpus}'", "'{{code}}'", "x" * 300,
    "'" + "x/" * 3000 + "'", "[]", "{}", "[[]]", "[{}]", "{a: 1}", "[1, 2, 3]", "[a, a]", "[~]",
    "{? [a] : b}", "[" * 40 + "]" * 40, "[" * 3000 + "]" * 3000, "{a: " * 60 + "1" + "}" * 60, "&a [*a]",
    "*a", "&a {b: *a}", "{<<: {a: 1}}", "{<<: 1}", "!!python/object/apply:os.system ['touch pwned']",
    "!!python/name:os.system", "!!python/object/new:subprocess.Popen [['touch', 'pwned']]", "!!binary aGk=",
    "!!set {a}", "!!timestamp 2020-01-01", "!!int '3'", "!!str 3", "!env HOME", "!<tag:x> 1", "=", "<<",
    "@a", "%a", "- a", "? a", "'", '"', "|", ">-", "# a", "os:system", "subprocess:run", "own:make",
    "own:nothing", "jobs.toy:prepare", "jobs.smollm:prepare", "antigravity:geohash", "'a.b.c:d'",
)  # fmt: skip
ODD_JSON = (
    "null", "true", "0", "-1", "1", "1.5", "NaN", "-Infinity", "1e999", "1e308", "-0.0", "100", "50.5", "''",
    '""', '" "', '"a"', '"\\u0000"', '"\\u001b[31m"', '"\\ud800"', '"\u00e9"', '"nan"', '"0.5"', '"50 %"',
    '"../x"', "[]", "{}", "[[]]", "[1]", "[null]", '{"a": 1}', "9" * 5000, "[" * 100_000,
    '"' + "x" * 5000 + '"', "01", "+1", "'a'", "undefined", "",
)  # fmt: skip
TEXTS = (
    "a b", "é", "../x", "/dev/zero", "a\nb", "\x1b[31m", "[/INST]", "[bold]", "$(touch pwned)",
    "; touch pwned", "-x", "{gpus}", "{{code}}", "x" * 60, "x" * 61, "x" * 5000, "@prepare/x",
    "@prepare/../..", "local", "slurm", "cpu", "h100", "bf16", "plain", "%j", "~", "CON", "-", ".", "=1+1",
    "\u202e", "\ufffe", "0", "x/y", "x/", "shuffled",
)  # fmt: skip
RAW = (
    b"\0", b"\xff", b"\xe9", b"\xef\xbb\xbf", b"\t", b"\n\t", b"\r", b"\x1b[31m", b"---\n", b"...\n", b"- ",
    b": ", b"{", b"}", b"[", b"]", b"'", b'"', b"#", b"&a ", b"*a", b"!x ", b"%YAML 9.9\n", b"\n" * 50,
    b" ", b"\xc2\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"&a &b ", b"<<: *a\n", b"a: 1\na: 2\n",
    b"\xff\xfe", b"x" * 2_000_000,
)  # fmt: skip
WORD = "odd{}value"
Place = tuple[Any, ...]


def shipped(folder: str, name: str) -> dict[str, Any]:
    """What a shipped file holds."""
    data = read_yaml(CONFIGS / folder / f"{name}.yaml").data
    return {key: value for key, value in data.items() if key != "name"}


def study_with_presets(name: str, cluster: str) -> dict[str, dict[str, Any]]:
    """A shipped study with its presets and a cluster as files beside it, by their names."""
    study = shipped("studies", name)
    files = {"study.yaml": study, "cluster.yaml": shipped("clusters", cluster)}
    for key, folder in {"teacher": "models", "students": "models", "benchmarks": "evals"}.items():
        named = study[key] if isinstance(study[key], list) else [study[key]]
        files |= {f"{one}.yaml": shipped(folder, one) for one in named}
        own = [f"{one}.yaml" for one in named]
        study[key] = own if isinstance(study[key], list) else own[0]
    return files


def places(data: Any, at: Place = ()) -> list[Place]:
    """The keys that lead to each value below the top."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in items for place in ((*at, key), *places(value, (*at, key)))]


def as_yaml(name: str, data: Any) -> str:
    """A file of YAML."""
    return yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=10**6)


def as_json(name: str, data: Any) -> str:
    """A file of JSON, of JSON Lines, or of text, by its name."""
    if isinstance(data, str):
        return data
    lines = data if name.endswith(".jsonl") and isinstance(data, list) else [data]
    return "".join(json.dumps(line) + "\n" for line in lines)


class Change:
    """Some files, changed step by step.

    Attributes:
        data: of each file, by its name.
    """

    def __init__(
        self, draw: Draw, data: Mapping[str, Any], text: Callable[[str, Any], str], odd: Sequence[str]
    ) -> None:
        self.data = copy.deepcopy(dict(data))
        self._draw, self._text, self._odd_values, self._words = draw, text, odd, dict[str, str]()

    def step(self) -> None:
        """One change somewhere."""
        file = self._draw(st.sampled_from(sorted(self.data)))
        every = places(self.data[file])
        if not every:
            return
        place = self._draw(st.sampled_from(every))
        inside = self.data[file]
        for key in place[:-1]:
            inside = inside[key]
        rough = (self._odd, self._drawn, self._delete, self._rename, self._twice, self._moved, self._wrap)
        changes = (*[self._alike] * 2 * len(rough), *rough)  # else nearly all would be refused at once
        self._draw(st.sampled_from(changes))(inside, place[-1])

    def files(self) -> Files:
        """Their contents, with raw bytes put into some."""
        found: Files = {}
        for name, data in self.data.items():
            text = self._text(name, data)
            for word, value in self._words.items():
                for quoted in (f"'{word}'", f'"{word}"', word):
                    text = text.replace(quoted, value)
            found[name] = text.encode("utf-8", "surrogatepass")
        if self._draw(st.integers(0, 9)) == 0:
            name = self._draw(st.sampled_from(sorted(found)))
            at = self._draw(st.integers(0, len(found[name])))
            raw = self._draw(st.one_of(st.sampled_from(RAW), st.binary(max_size=5)))
            found[name] = found[name][:at] + raw + found[name][at:]
        return found

    def _word(self, value: str) -> str:
        """What stands for a piece of YAML until all is text."""
        word = WORD.format(len(self._words))
        self._words[word] = value
        return word

    def _alike(self, inside: Any, key: Any) -> None:
        """Another value of the same kind."""
        value = inside[key]
        if isinstance(value, bool):
            inside[key] = not value
        elif isinstance(value, int | float):
            odd = st.sampled_from(
                (0, 1, 2, 3, 7, 64, 10**6, 10**12, -1, 1e-300, 1e-5, 0.1, 0.5, 1.0, 1e15, 1e300)
            )
            inside[key] = self._draw(st.one_of(odd, st.just(2 * value), st.integers(0, 10**4)))
        elif isinstance(value, str):
            inside[key] = self._draw(
                st.one_of(st.just(f"{value}x"), st.text(max_size=8), st.sampled_from(TEXTS))
            )
        elif isinstance(value, list):
            inside[key] = self._draw(st.permutations(value))[: self._draw(st.integers(0, len(value)))]
        elif isinstance(value, dict):
            inside[key] = {k: value[k] for k in self._draw(st.permutations(list(value)))}

    def _odd(self, inside: Any, key: Any) -> None:
        inside[key] = self._word(self._draw(st.sampled_from(self._odd_values)))

    def _drawn(self, inside: Any, key: Any) -> None:
        inside[key] = self._draw(
            st.one_of(st.integers(), st.floats(), st.text(max_size=8), st.integers(0, 100), st.booleans())
        )

    def _delete(self, inside: Any, key: Any) -> None:
        del inside[key]

    def _rename(self, inside: Any, key: Any) -> None:
        if isinstance(inside, dict):
            shorter = str(key)[:-1]
            name = self._draw(
                st.one_of(st.just(shorter), st.sampled_from(ODD).map(self._word), st.text(max_size=4))
            )
            inside[name] = inside.pop(key)

    def _twice(self, inside: Any, key: Any) -> None:
        if isinstance(inside, dict):
            inside[self._word(str(key))] = inside[key]
        else:
            inside.append(inside[key])

    def _moved(self, inside: Any, key: Any) -> None:
        other = self._draw(st.sampled_from(sorted(self.data)))
        every = places(self.data[other])
        if every:
            value: Any = self.data[other]
            for step in self._draw(st.sampled_from(every)):
                value = value[step]
            inside[key] = copy.deepcopy(value)

    def _wrap(self, inside: Any, key: Any) -> None:
        inside[key] = self._draw(st.sampled_from(([inside[key]], {"a": inside[key]}, [inside[key]] * 2)))


@st.composite
def changed(
    draw: Draw,
    bases: Sequence[Mapping[str, Any]],
    text: Callable[[str, Any], str] = as_yaml,
    odd: Sequence[str] = ODD,
) -> Files:
    """Files of one of some sets, changed in one to three places."""
    change = Change(draw, draw(st.sampled_from(bases)), text, odd)
    for _ in range(draw(st.integers(1, 3))):
        change.step()
    return change.files()
