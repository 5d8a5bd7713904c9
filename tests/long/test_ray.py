"""Bulk scoring by Ray: the rows are those of the local engine.

`make test-ray` runs this. Ray starts many processes, so it is not among the tests of CI.
"""

from pathlib import Path

import pytest

from tests.pipeline.scoring.kit import (
    ARTIFACT,
    contents,
    limelight,
    score,
    write_digits,
    write_parquet,
)

pytest.importorskip("ray", reason="Ray is not installed: limelight[ray]")


def test_ray_gives_the_same_rows_as_the_local_engine(tmp_path: Path) -> None:
    write_parquet(write_digits(tmp_path / "digits"), tmp_path / "source", struct=True)
    score(tmp_path / "source", tmp_path / "local", shard=40)
    options = ("--batch-size", "16", "--shard-size", "40", "--device", "cpu", "--threads", "1")
    where = ("--model", ARTIFACT, "--out", "ray", "--engine", "ray")
    done = limelight("source", *where, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "101 images: 99 labelled, 2 bad" in done.stderr
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
