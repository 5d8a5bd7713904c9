"""Parquet files as people have them: their columns, their folders and their names."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.scoring import ScoringError
from pipeline.scoring.shards import Totals
from tests.pipeline.scoring.kit import ARTIFACT, limelight, rows, score, write_parquet


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_gives_the_labels_of_the_folder_and_keeps_its_columns(
    struct: bool, digits: Path, tmp_path: Path
) -> None:
    names = write_parquet(digits, tmp_path / "source", struct=struct)
    totals = score(tmp_path / "source", tmp_path / "out", shard=16)
    assert totals == Totals(scored=99, bad=2)
    score(digits, tmp_path / "folder")
    labels = {row["path"]: row["label"] for row in rows(tmp_path / "folder")}
    scored, bad = rows(tmp_path / "out"), rows(tmp_path / "out", "bad")
    for row in scored:
        assert row["label"] == labels[row["id"]]
    assert {row["id"]: row["code"] for row in bad} == {
        "bad/cut.png": "undecodable_image",
        names[50]: "missing_image",
    }
    everything = sorted(scored + bad, key=lambda row: (str(row["file"]), int(str(row["row"]))))
    assert [row["id"] for row in everything] == names
    assert [row["source_label"] for row in everything] == list(range(len(names)))
    places = [("a.parquet", row) for row in range(61)]
    places += [("b.parquet", row) for row in range(len(names) - 61)]
    assert [(row["file"], row["row"]) for row in everything] == places
    if struct:
        assert [row["path"] for row in everything] == names


def test_single_parquet_file_is_a_source(digits: Path, tmp_path: Path) -> None:
    write_parquet(digits, tmp_path / "source", struct=True)
    assert score(tmp_path / "source" / "a.parquet", tmp_path / "out").images == 61


def test_unusable_parquet_is_rejected_with_the_reason(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    file = source / "a.parquet"
    for table, words in (
        (pa.table({"picture": [b"x"]}), "no column 'image', but picture: name the .* --column"),
        (pa.table({"image": ["a.png"]}), "the column 'image' is string, and must hold encoded"),
        (pa.table({"image": pa.array([], pa.binary())}), "no rows, so there is nothing to score"),
    ):
        pq.write_table(table, file)
        with pytest.raises(DataError, match=words):
            score(source, out)
    pq.write_table(pa.table({"image": [b"x"], "id": [1]}), file)
    pq.write_table(pa.table({"image": [b"x"], "id": ["1"]}), source / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has a column of another type .*id.*int64"):
        score(source, out)
    file.write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match=r"a\.parquet is not a Parquet file, or is damaged"):
        score(source, out)
    assert not out.exists()


def test_images_beside_parquet_are_rejected(digits: Path, tmp_path: Path) -> None:
    write_parquet(digits, tmp_path / "source", struct=True)
    (tmp_path / "source" / "a.png").touch()
    with pytest.raises(DataError, match="has images and Parquet files: put them into separate"):
        score(tmp_path / "source", tmp_path / "out")


@pytest.fixture
def bodies(digits: Path) -> list[bytes]:
    """Four encoded digits: three zeros and a one."""
    return [(digits / name).read_bytes() for name in ("0/000.png", "0/010.png", "0/020.png")] + [
        (digits / "1" / "001.jpeg").read_bytes()
    ]


def save(file: Path, columns: dict[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


KINDS = {
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
    "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "struct of views": pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
    "struct of large ones": pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_every_arrow_type_are_images(
    kind: str, bodies: list[bytes], tmp_path: Path
) -> None:
    wanted = KINDS[kind]
    if pa.types.is_struct(wanted):
        images = pa.StructArray.from_arrays(
            [
                pa.array(bodies if field.name == "bytes" else list("abcd"), field.type)
                for field in wanted
            ],
            fields=list(wanted),
        )
    elif pa.types.is_dictionary(wanted):
        images = pa.array(bodies).dictionary_encode()
    else:
        images = pa.array(bodies, wanted)
    file = tmp_path / "source" / "a.parquet"
    save(file, {"image": images})
    assert pq.read_schema(file).field("image").type == wanted
    assert score(tmp_path / "source", tmp_path / "out", shard=2) == Totals(scored=4, bad=0)
    scored = rows(tmp_path / "out")
    assert [row["label"] for row in scored] == ["0", "0", "0", "1"]
    assert [row.get("path") for row in scored] == (
        list("abcd") if pa.types.is_struct(wanted) else [None] * 4
    )


def test_views_and_dictionaries_beside_the_images_are_carried(
    bodies: list[bytes], tmp_path: Path
) -> None:
    views = {
        "text": pa.array(["x", None, "y", "z"], pa.string_view()),
        "mask": pa.array([b"x", None, b"y", b"z"], pa.binary_view()),
        "category": pa.array(["cat", "dog", "cat", None]).dictionary_encode(),
        "names": pa.array([["a"], None, [], ["b", "c"]], pa.list_(pa.string_view())),
    }
    save(tmp_path / "source" / "a.parquet", {"image": [*bodies[:3], b"bad"], **views})
    assert score(tmp_path / "source", tmp_path / "out") == Totals(scored=3, bad=1)
    kept = rows(tmp_path / "out") + rows(tmp_path / "out", "bad")
    for name, column in views.items():
        assert [row[name] for row in kept] == column.to_pylist()


def test_files_may_have_other_columns_in_another_order(bodies: list[bytes], tmp_path: Path) -> None:
    source = tmp_path / "source"
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    small = pa.array([1], pa.int32())
    save(source / "a.parquet", {"id": small, "image": bodies[:1], "note": pa.nulls(1)})
    save(source / "b.parquet", {"image": bodies[1:2], "extra": ["e"], "note": ["n"], "id": [2**40]})
    images = pa.array([{"bytes": bodies[3], "path": "p.jpg"}], kind)
    save(source / "c.parquet", {"image": images})
    assert score(source, tmp_path / "out", shard=2) == Totals(scored=3, bad=0)
    kept = ("id", "note", "extra", "path", "label")
    assert [[row[name] for name in kept] for row in rows(tmp_path / "out")] == [
        [1, None, None, None, "0"],
        [2**40, "n", "e", None, "0"],
        [None, None, None, "p.jpg", "1"],
    ]


@pytest.mark.parametrize(
    "column",
    [pa.array([[1]]), pa.array([{"a": 1}]), pa.nulls(1), pa.array([[{"a": 1}]]), pa.array([b"x"])],
    ids=lambda column: str(column.type),
)
def test_column_of_any_type_may_be_missing_in_a_file(
    column: pa.Array, bodies: list[bytes], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    save(source / "a.parquet", {"image": bodies[:1], "meta": column})
    save(source / "b.parquet", {"image": bodies[1:2]})
    assert score(source, tmp_path / "out") == Totals(scored=2, bad=0)
    assert [row["meta"] for row in rows(tmp_path / "out")] == [column[0].as_py(), None]


def test_folders_of_a_partition_become_columns(bodies: list[bytes], tmp_path: Path) -> None:
    source = tmp_path / "source"
    save(source / "year=2024" / "month=01" / "part.parquet", {"image": bodies[:2], "id": [1, 2]})
    save(source / "year=2025" / "month=a%20b" / "part.parquet", {"image": bodies[2:3], "id": [3]})
    nothing = "__HIVE_DEFAULT_PARTITION__"
    save(source / f"year={nothing}" / "month=02" / "part.parquet", {"image": bodies[3:], "id": [4]})
    score(source, tmp_path / "out", shard=3)
    names = ("file", "row", "id", "year", "month", "label")
    assert [tuple(row[name] for name in names) for row in rows(tmp_path / "out")] == [
        ("year=2024/month=01/part.parquet", 0, 1, 2024, "01", "0"),
        ("year=2024/month=01/part.parquet", 1, 2, 2024, "01", "0"),
        ("year=2025/month=a%20b/part.parquet", 0, 3, 2025, "a b", "0"),
        (f"year={nothing}/month=02/part.parquet", 0, 4, None, "02", "1"),
    ]


def test_column_of_a_file_wins_over_that_of_its_folder(bodies: list[bytes], tmp_path: Path) -> None:
    save(tmp_path / "source" / "year=2024" / "a.parquet", {"image": bodies[:1], "year": ["own"]})
    score(tmp_path / "source", tmp_path / "out")
    assert rows(tmp_path / "out")[0]["year"] == "own"


def test_suffix_is_known_in_any_case(bodies: list[bytes], tmp_path: Path) -> None:
    save(tmp_path / "source" / "A.PARQUET", {"image": bodies[:1]})
    save(tmp_path / "source" / "b.Parquet", {"image": bodies[1:3]})
    assert score(tmp_path / "source", tmp_path / "out").scored == 3
    assert score(tmp_path / "source" / "A.PARQUET", tmp_path / "one").scored == 1


def test_hidden_and_private_files_are_skipped(bodies: list[bytes], tmp_path: Path) -> None:
    source = tmp_path / "source"
    save(source / "0.parquet", {"image": bodies})
    hidden = ("._0.parquet", ".hidden/a.parquet", "_delta_log/b.parquet", "__MACOSX/c.parquet")
    for name in hidden:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"\0\5\x16\7")
    assert score(source, tmp_path / "out") == Totals(scored=4, bad=0)


def test_column_of_images_has_the_name_that_is_given(bodies: list[bytes], tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    save(source / "a.parquet", {"img": bodies, "image": list("abcd")})
    with pytest.raises(DataError, match="the column 'image' is string, and must hold encoded"):
        score(source, out)
    assert score(source, out, column="img").scored == 4
    assert [row["image"] for row in rows(out)] == list("abcd")
    save(source / "a.parquet", {"img": bodies, "image": bodies})
    score(source, tmp_path / "other", column="img")
    with pytest.raises(ScoringError, match="begun with another --column: choose another --out"):
        score(source, tmp_path / "other")


def test_column_is_not_for_folders_of_images(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder of images: leave out --column"):
        score(digits, tmp_path / "out", column="image")


@pytest.mark.parametrize("name", ["image", "id"])
def test_columns_of_one_name_are_an_error_of_one_sentence(
    name: str, bodies: list[bytes], tmp_path: Path
) -> None:
    arrays = [pa.array(bodies), pa.array(range(4)), pa.array(bodies)]
    table = pa.table(arrays, names=["image", "id", name])
    pq.write_table(table, tmp_path / "a.parquet")
    done = limelight("a.parquet", "--model", ARTIFACT, "--out", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert f"a.parquet has 2 columns called '{name}': rename all but one" in done.stderr
    assert "Traceback" not in done.stderr


def test_column_label_and_its_other_name_are_both_kept(bodies: list[bytes], tmp_path: Path) -> None:
    columns = {"image": bodies, "source_label": [1, 2, 3, 4], "label": [5, 6, 7, 8]}
    save(tmp_path / "a.parquet", {**columns, "file": list("wxyz")})
    score(tmp_path / "a.parquet", tmp_path / "out")
    kept = [
        (row["label"], row["source_label"], row["source_source_label"], row["source_file"])
        for row in rows(tmp_path / "out")
    ]
    assert kept == [("0", 1, 5, "w"), ("0", 2, 6, "x"), ("0", 3, 7, "y"), ("1", 4, 8, "z")]
