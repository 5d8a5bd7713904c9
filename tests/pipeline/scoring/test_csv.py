"""Labels as CSV: the same rows as in Parquet, and no cell that a spreadsheet would run."""

import csv
import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.scoring import ScoringError
from pipeline.scoring.csv_text import count_lines, csv_lines
from pipeline.scoring.output_formats import OUTPUT_FORMATS, FormatName
from pipeline.scoring.scorer import Settings
from pipeline.scoring.shards import Totals
from tests.pipeline.scoring.kit import ARTIFACT, limelight, rows, score

TEXTS = ("path", "label", "top_classes", "code", "detail")


def csv_rows(out: Path, kind: str = "part") -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for file in sorted(out.glob(f"{kind}-*.csv")):
        with file.open(encoding="utf-8", newline="") as stream:
            found += csv.DictReader(stream)
    return found


def cells(column: pa.Array) -> list[str]:
    """The column's cells as a reader of CSV sees them."""
    text = "".join(csv_lines(pa.table({"column": column, "end": [0] * len(column)})))
    return [row[0] for row in csv.reader(text.splitlines(keepends=True))][1:]


def test_csv_has_the_rows_and_columns_of_parquet(digits: Path, tmp_path: Path) -> None:
    settings = Settings(device="cpu", threads=1, explain=True)
    score(digits, tmp_path / "parquet", settings=settings)
    totals = score(digits, tmp_path / "csv", settings=settings, output="csv")
    assert totals == Totals(scored=100, bad=4)
    for kind in ("part", "bad"):
        expected, found = rows(tmp_path / "parquet", kind), csv_rows(tmp_path / "csv", kind)
        for one, other in zip(expected, found, strict=True):
            assert list(one) == list(other)
            for name, value in one.items():
                read = other[name] if isinstance(value, str) else json.loads(other[name])
                same = value if name in TEXTS else pytest.approx(value, rel=1e-6)
                assert read == same, name
    assert not list((tmp_path / "csv").glob("*.parquet"))


def test_confidence_has_no_digits_that_it_does_not_know(digits: Path, tmp_path: Path) -> None:
    score(digits / "7", tmp_path / "out", output="csv")
    for row in csv_rows(tmp_path / "out"):
        assert len(row["confidence"]) <= 12
        assert json.loads(row["top_probabilities"])[0] == float(row["confidence"])


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_text_that_begins_like_a_formula_gets_an_apostrophe(first: str) -> None:
    text = f'{first}HYPERLINK("http://x.example","1")'
    assert cells(pa.array([text, f"a{text}"])) == [f"'{text}", f"a{text}"]


def test_numbers_stay_numbers() -> None:
    assert cells(pa.array([-1, None, 2])) == ["-1", "", "2"]
    assert cells(pa.array([-0.5, float("nan"), None])) == ["-0.5", "nan", ""]
    assert cells(pa.array([0.1, -1e-7], pa.float32())) == ["0.1", "-1e-7"]
    assert cells(pa.array([Decimal("-1.50")])) == ["-1.50"]
    assert cells(pa.array([True, False, None])) == ["true", "false", ""]
    # Names of classes, such as +1 and -1.
    assert cells(pa.array(["-1", "+1", "-1.5e3", "-1-1", "-"])) == [
        "-1", "+1", "-1.5e3", "'-1-1", "'-",
    ]  # fmt: skip


def test_values_of_other_types_are_text() -> None:
    day = datetime.date(2024, 2, 29)
    assert cells(pa.array([day, None])) == ["2024-02-29", ""]
    assert cells(pa.array([datetime.timedelta(days=-1)])) == ["'-1 day, 0:00:00"]
    assert cells(pa.array([b"\0\xff", None])) == ["AP8=", ""]
    nested = pa.array([{"a": [1, 2.5], "b": "ä", "c": day, "d": b"x"}])
    expected = {"a": [1, 2.5], "b": "ä", "c": "2024-02-29", "d": "eA=="}
    assert json.loads(cells(nested)[0]) == expected
    assert cells(pa.array([[0.1, None], None, []], pa.list_(pa.float32()))) == [
        "[0.1, null]", "", "[]",
    ]  # fmt: skip


def test_hostile_names_of_files_columns_and_values_are_escaped(
    digits: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    body = (digits / "0" / "000.png").read_bytes()
    columns = {"image": [body, b"bad"], "=1+1": ['@SUM("a";\n"b")', "ü,;\t'"]}
    pq.write_table(pa.table(columns), source / "=cmd|'calc'.parquet")
    assert score(source, tmp_path / "out", output="csv") == Totals(scored=1, bad=1)
    (scored,), (bad,) = csv_rows(tmp_path / "out"), csv_rows(tmp_path / "out", "bad")
    assert scored["file"] == "'=cmd|'calc'.parquet"
    assert scored["'=1+1"] == '\'@SUM("a";\n"b")'
    assert bad["'=1+1"] == "ü,;\t'"


def test_lines_in_quotes_are_not_counted() -> None:
    table = pa.table({"a": ['x\n"\ny', "\r\n", ""], "b": [1, 2, 3]})
    content = "".join(csv_lines(table)).encode()
    assert count_lines(content) == 4
    for cut in range(1, len(content)):
        try:
            assert count_lines(content[:cut]) < 4
        except ValueError:
            continue


def test_missing_rows_and_cut_files_are_errors(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(digits, out, output="csv")
    part = out / "part-00001.csv"
    whole = part.read_bytes()
    part.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(ScoringError, match=r"part-00001\.csv: 29 scored and 0 bad are not the 30"):
        score(digits, out, output="csv")
    part.write_bytes(whole[:-9])
    with pytest.raises(ScoringError, match=r"part-00001\.csv cannot be read \(its last line does"):
        score(digits, out, output="csv")


def test_job_is_continued_in_its_own_format_only(digits: Path, tmp_path: Path) -> None:
    score(digits / "7", tmp_path / "out")
    with pytest.raises(ScoringError, match="begun with another --format: choose another --out"):
        score(digits / "7", tmp_path / "out", output="csv")


def test_command_writes_csv_and_names_its_files(digits: Path, tmp_path: Path) -> None:
    options = ("--model", ARTIFACT, "--out", "scores", "--format", "csv")
    done = limelight(digits, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 bad (bad-*.csv says why)" in done.stderr
    assert len(csv_rows(tmp_path / "scores")) == 100


def test_every_format_has_a_name_on_the_command_line() -> None:
    assert get_args(FormatName) == tuple(OUTPUT_FORMATS)
