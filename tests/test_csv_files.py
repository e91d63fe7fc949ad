"""CSV files as people have them, and as the report writes them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import results_table

from analysis.report import write_report
from analysis.results.collect import DataWarning, collect
from analysis.results.csv_files import write_csv

LINES = ("student,benchmark,accuracy,share,n", "a,t,0.25,0,100", "b,t,0.5,0.5,100")


def read(folder: Path, text: str, encoding: str = "utf-8") -> tuple[list[tuple[str, float, float]], str]:
    """Student, accuracy and share of each line of a results.csv, and the warnings."""
    (folder / "results.csv").write_text(text, encoding=encoding)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        table = collect(folder)
    return list(table[["student", "accuracy", "share"]].itertuples(index=False, name=None)), " ".join(
        str(w.message) for w in caught
    )


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LINES),
        "\r\n".join(LINES),
        "\n".join(LINES).replace(",", ";").replace("0.", "0,"),  # as a spreadsheet in Germany saves it
        "\n".join(LINES).replace(",", "\t"),
        "\n".join(LINES).replace(",", " , "),
        "\ufeff" + "\n".join(LINES),
        "\n\n" + "\n\n".join(LINES) + "\n,,,,\n",
        "\n".join(LINES).replace("student,benchmark", "Student,BENCHMARK"),
        "\n".join(f"{i},{line}" for i, line in zip(("", "0", "1"), LINES, strict=True)),  # pandas' index
        "\n".join(LINES).replace("0.5,0.5", '"0,5",50 %').replace("0.25,0,", "25 %,0 %,"),
    ],
)
def test_tables_as_people_have_them_are_read(tmp_path: Path, text: str) -> None:
    found, told = read(tmp_path, text)
    assert found == [("a", 0.25, 0.0), ("b", 0.5, 0.5)]
    assert "ignored" not in told


def test_unknown_columns_are_ignored_and_said(tmp_path: Path) -> None:
    found, told = read(tmp_path, "student,benchmark,accuracy,color,who\na,t,0.5,red,me\n")
    assert found[0][:2] == ("a", 0.5)
    assert "unknown columns are ignored: color, who." in told


def test_shares_in_percent_are_read_as_such(tmp_path: Path) -> None:
    lines = (f"s{share},t,0.5,{share}" for share in (0, 25, 100))
    found, told = read(tmp_path, "student,benchmark,accuracy,share\n" + "\n".join(lines))
    assert [share for *_, share in found] == [0.0, 1.0, 0.25]
    assert "share has values up to 100: it is read as percent." in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "student,benchmark,accuracy,share\na,t,0.5,0.5\nb,t,0.5,50",
            "all of them as fractions from 0 to 1, or",
        ),
        ("student,benchmark,accuracy,share\na,t,0.5,250", "share has values from 250 to 250"),
        ("student,benchmark,accuracy,training_flop\na,t,0.5,1", "'training_flop'; is it 'training_flops'"),
        ("student,benchmark,accuracy,accuracy\na,t,0.5,0.5", "the column 'accuracy' occurs more than once"),
        ("student,benchmark,accuracy\na,t,0.5,7", "line 2: 4 cells, but the header has 3"),
        ('student,benchmark,accuracy,n\na,t,0.5,"1,319"', "without separators of thousands"),
        ("student;benchmark;accuracy;n\na;t;0,5;1,000,000", "without separators of thousands"),
        ("student,benchmark,accuracy,n\na,t,0.5,1.5", "n must be whole numbers"),
        ("student,benchmark,accuracy\n,t,0.5", "a line has no student"),
        ("student,benchmark,accuracy\na,t,inf", "accuracy is 'inf'; a number is needed"),
        ("student,benchmark,accuracy,training_flops\na,t,0.5,1e300", "training_flops is '1e300'; a number"),
        ("", "the file is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_hint(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"results.csv.*{words}"):
        read(tmp_path, text)


def test_other_encodings_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte 28\)\. Save it as CSV in UTF-8"):
        read(tmp_path, "student,benchmark,accuracy\nné,t,0.5", encoding="latin-1")
    with pytest.raises(ValueError, match=r"results\.csv"):
        read(tmp_path, "student,benchmark,accuracy\na,t,0.5", encoding="utf-16")


NAMES = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-2",
    "@SUM(A1)",
    "'=quoted",
    "''-",
    "'plain",
    "a,b",
    'say "x"',
    "NA",
    "a=b",
]


def test_no_cell_is_a_formula_and_names_come_back(tmp_path: Path) -> None:
    table = results_table(
        [{"student": name, "benchmark": "-t", "accuracy": 0.5, "n": 100, "size": "=1B"} for name in NAMES]
    )
    write_csv(table, tmp_path / "results.csv")
    raw = pd.read_csv(tmp_path / "results.csv", dtype="str", keep_default_na=False)
    for column in raw:
        assert not raw[column].str.match(r"[=+\-@\t\r]").any()
    assert raw["accuracy"].tolist() == ["0.5"] * len(NAMES)  # numbers stay numbers
    found = collect(tmp_path)
    assert sorted(found["student"]) == sorted(NAMES)
    assert set(found["benchmark"]) == {"-t"}
    assert set(found["size"]) == {"=1B"}


def test_every_file_of_a_report_is_escaped_and_can_be_reported_again(tmp_path: Path) -> None:
    rows = [
        {"student": f"={size}-{share}", "size": f"+{size}", "share": share, "benchmark": f"@b{b}",
         "accuracy": 0.3 + 0.05 * i + 0.2 * share, "stderr": 0.01, "n": 500, "domain": "-d",
         "training_flops": 1e20 * 3**i * (1 + share), "inference_flops": 1e9 * 3**i}
        for i, size in enumerate(("1B", "3B")) for share in (0.0, 0.5, 1.0) for b in range(2)
    ]  # fmt: skip
    (tmp_path / "one").mkdir()
    write_csv(results_table(rows), tmp_path / "one" / "results.csv")
    first = write_report(tmp_path / "one", tmp_path / "two")
    written = {file.name for file in (tmp_path / "two").glob("*.csv")}
    assert {"frontier.csv", "standing.csv", "matched.csv", "kept.csv", "gains.csv", "claims.csv"} <= written
    for file in (tmp_path / "two").glob("*.csv"):
        raw = pd.read_csv(file, dtype="str", keep_default_na=False)
        texts: pd.Series[Any] = raw.select_dtypes("str").stack()
        numeric = pd.to_numeric(texts, errors="coerce").notna()
        assert not texts[~numeric].str.match(r"[=+@]|-[^i]").any(), file.name  # -inf is a number
    second = write_report(tmp_path / "two", tmp_path / "three")
    pd.testing.assert_frame_equal(first.results.drop(columns="source"), second.results.drop(columns="source"))
    pd.testing.assert_frame_equal(first.tables["claims"], second.tables["claims"])
