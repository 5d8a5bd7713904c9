"""Bulk scoring: the service's labels, none lost and none twice, whatever cuts a run short."""

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from limelight.artifact.store import load_artifact
from limelight.explanations.bounding_box import locate
from limelight.imaging.formats import FORMATS
from limelight.imaging.preprocessing import read_upload
from limelight.runtime.engine import Engine
from pipeline.errors import DataError
from pipeline.runs.folder_lock import locked
from pipeline.scoring import ScoringError
from pipeline.scoring.job import plan_job, run
from pipeline.scoring.output_formats import OUTPUT_FORMATS, FormatName
from pipeline.scoring.scorer import Settings
from pipeline.scoring.shards import Totals
from tests.own_images import HEIC_START, OWN, encoded
from tests.pipeline.scoring.kit import (
    ARTIFACT,
    QUICK,
    ROOT,
    contents,
    limelight,
    rows,
    score,
)

BAD = {
    "bad/broken.jpg": "unsupported_media_type",
    "bad/cut.png": "undecodable_image",
    "bad/gone.gif": "unreadable_file",
    "zero.PNG": "unsupported_media_type",
}


def test_labels_equal_those_of_the_service(digits: Path, tmp_path: Path) -> None:
    assert score(digits, tmp_path / "out") == Totals(scored=100, bad=4)
    scored = rows(tmp_path / "out")
    names = [path.relative_to(digits).as_posix() for path in digits.rglob("[0-9][0-9][0-9].*")]
    assert [row["path"] for row in scored] == sorted(names)
    engine = Engine(load_artifact(ARTIFACT), device="cpu")
    rule, classes = engine.manifest.image, engine.manifest.classes
    for row in scored:
        upload = read_upload((digits / str(row["path"])).read_bytes(), rule, max_pixels=10**6)
        found = engine.run(upload.pixels_hwc[None], ["probabilities"])["probabilities"][0]
        first, second, third = sorted(found, reverse=True)[:3]
        assert row["label"] == classes[found.argmax()]
        assert row["confidence"] == pytest.approx(first, abs=1e-6)
        assert row["top_probabilities"] == pytest.approx([first, second, third], abs=1e-6)
        by_class = dict(zip(classes, found, strict=True))
        assert [by_class[name] for name in row["top_classes"]] == [first, second, third]  # type: ignore[attr-defined]
    right = sum(str(row["path"]).startswith(f"{row['label']}/") for row in scored)
    assert right > 80


def test_bad_files_are_listed_with_the_error_codes_of_the_service(
    digits: Path, tmp_path: Path
) -> None:
    score(digits, tmp_path / "out")
    bad = rows(tmp_path / "out", "bad")
    assert {row["path"]: row["code"] for row in bad} == BAD
    assert all(row["detail"] for row in bad)


def test_shards_have_a_fixed_number_of_good_and_bad_images(digits: Path, tmp_path: Path) -> None:
    score(digits, tmp_path / "out", shard=25)
    sizes = {
        kind: [
            pq.read_metadata(file).num_rows if file.exists() else 0
            for shard in range(5)
            for file in [tmp_path / "out" / f"{kind}-{shard:05}.parquet"]
        ]
        for kind in ("part", "bad")
    }
    assert [a + b for a, b in zip(*sizes.values(), strict=True)] == [25, 25, 25, 25, 4]


def test_shard_of_bad_images_has_an_empty_file_of_labels(digits: Path, tmp_path: Path) -> None:
    totals = score(digits / "bad", tmp_path / "out", settings=Settings(device="cpu", explain=True))
    assert totals == Totals(scored=0, bad=3)
    assert pq.read_schema(tmp_path / "out" / "part-00000.parquet").names == [
        "path", "label", "confidence", "top_classes", "top_probabilities", "box",
    ]  # fmt: skip


def test_explained_label_has_the_box_of_the_service(digits: Path, tmp_path: Path) -> None:
    settings = Settings(device="cpu", threads=1, explain=True)
    score(digits / "7", tmp_path / "out", settings=settings)
    engine = Engine(load_artifact(ARTIFACT), device="cpu")
    for row in rows(tmp_path / "out"):
        body = (digits / "7" / str(row["path"])).read_bytes()
        upload = read_upload(body, engine.manifest.image, max_pixels=10**6)
        found = engine.run(upload.pixels_hwc[None], ["probabilities", "cams"])
        cam = found["cams"][0, found["probabilities"].argmax()]
        box, _ = locate(cam, upload.view, (upload.width, upload.height))
        expected = [box.left, box.top, box.right, box.bottom]
        assert row["box"] == pytest.approx(expected, abs=0.02)


def test_batch_size_changes_no_label(digits: Path, tmp_path: Path) -> None:
    score(digits, tmp_path / "16")
    score(digits, tmp_path / "1", settings=Settings(device="cpu", threads=1, batch_size=1))
    for left, right in zip(rows(tmp_path / "16"), rows(tmp_path / "1"), strict=True):
        assert (left["path"], left["label"]) == (right["path"], right["label"])
        assert left["confidence"] == pytest.approx(right["confidence"], abs=1e-6)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.scoring.job import plan_job, run
from pipeline.scoring.output_formats import OUTPUT_FORMATS, FormatName
from pipeline.scoring.scorer import Settings

source, artifact, out = map(Path, sys.argv[1:4])
left, output = int(sys.argv[4]), sys.argv[5]

def sync(descriptor):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = sync
settings = Settings(device="cpu", threads=1, batch_size=16)
run(plan_job(source, artifact, out, shard_images=30, settings=settings, output=output))
"""


@pytest.mark.parametrize("output", OUTPUT_FORMATS)
@pytest.mark.parametrize("files_written", [1, 2, 3, 5, 6])
def test_killed_run_continues_to_the_same_result(
    files_written: int, output: FormatName, digits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, digits, ARTIFACT, out, files_written, output]
    killed = subprocess.run(
        [str(part) for part in command], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    done = set(out.glob(f"part-?????{OUTPUT_FORMATS[output].suffix}"))
    assert len(done) < 4
    assert list(out.glob("*.tmp"))
    untouched = {file: file.stat().st_mtime_ns for file in done}
    assert score(digits, out, output=output) == Totals(scored=100, bad=4)
    assert {file: file.stat().st_mtime_ns for file in done} == untouched
    score(digits, tmp_path / "whole", output=output)
    assert contents(out) == contents(tmp_path / "whole")


def test_two_processes_do_not_score_into_one_folder(digits: Path, tmp_path: Path) -> None:
    whole, out = score(digits, tmp_path / "whole"), tmp_path / "out"
    out.mkdir()
    with locked(out), pytest.raises(ScoringError, match="another process scores into"):
        score(digits, out)
    assert score(digits, out) == whole


def test_finished_run_is_only_counted_again(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(digits, tmp_path / "out")
    monkeypatch.setattr("pipeline.scoring.job.Scorer", None)
    assert score(digits, tmp_path / "out") == first


def test_stale_bad_images_of_an_interrupted_shard_are_not_counted(
    digits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = plan_job(digits / "1", ARTIFACT, out, shard_images=4, settings=QUICK)
    stale = pa.table(
        {"path": ["x"], "code": ["unreadable_file"], "detail": ["too many open files"]}
    )
    pq.write_table(stale, job.bad(0))
    assert run(job).bad == 0
    assert not job.bad(0).exists()


def test_missing_rows_are_an_error(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(digits, out)
    part = out / "part-00001.parquet"
    pq.write_table(pq.ParquetFile(part).read().slice(1), part)
    with pytest.raises(ScoringError, match=r"part-00001\.parquet: 29 scored and 0 bad are not"):
        score(digits, out)
    part.write_bytes(b"no Parquet")
    with pytest.raises(ScoringError, match=r"part-00001\.parquet cannot be read .*: delete it and"):
        score(digits, out)


def test_output_folder_of_another_plan_is_rejected(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = tmp_path / "source"
    source.mkdir()
    image = (digits / "0" / "000.png").read_bytes()
    (source / "a.png").write_bytes(image)
    score(source, out)
    before = contents(out)
    with pytest.raises(ScoringError, match="begun with another --shard-size: choose another"):
        score(source, out, shard=31)
    with pytest.raises(ScoringError, match="begun with another --explain: choose"):
        score(source, out, settings=Settings(device="cpu", explain=True))
    changed = tmp_path / "models" / "digits" / ARTIFACT.name
    changed.mkdir(parents=True)
    for file in ARTIFACT.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((changed / "manifest.json").read_text())
    (changed / "manifest.json").write_text(json.dumps(manifest | {"description": "another"}))
    with pytest.raises(ScoringError, match="begun with another manifest of the artefact: choose"):
        score(source, out, artifact=changed)
    (source / "a.png").write_bytes(image + b"!")
    with pytest.raises(
        ScoringError, match=r"a SOURCE with other files \(names and sizes\): choose"
    ):
        score(source, out)
    (source / "a.png").write_bytes(image)
    (source / "b.png").write_bytes(image)
    with pytest.raises(ScoringError, match=r"other files .*, a SOURCE of another number of images"):
        score(source, out)
    assert contents(out) == before


def test_labels_below_the_source_are_not_scored(digits: Path, tmp_path: Path) -> None:
    source = shutil.copytree(digits, tmp_path / "source", symlinks=True)
    first = score(source, source / "labels")
    assert score(source, source / "labels") == first == score(digits, tmp_path / "elsewhere")


def test_output_folder_with_other_files_is_rejected(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(ScoringError, match=r"is not an empty folder, and has no plan\.json"):
        score(digits, tmp_path)
    with pytest.raises(ScoringError, match="is SOURCE itself"):
        score(digits, digits)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ScoringError, match=r"plan\.json cannot be read"):
        score(digits, tmp_path)


def test_images_that_systems_left_hidden_are_skipped(digits: Path, tmp_path: Path) -> None:
    image = (digits / "0" / "000.png").read_bytes()
    for name in ("a.png", "._a.png", ".thumbnails/b.png", "@eaDir/c.png", "more/__MACOSX/d.png"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(image)
    assert score(tmp_path / "source", tmp_path / "out") == Totals(scored=1, bad=0)


def test_links_to_folders_are_followed_and_each_folder_is_scored_once(
    digits: Path, tmp_path: Path
) -> None:
    image = (digits / "0" / "000.png").read_bytes()
    for folder in ("source/z", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(image)
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    (tmp_path / "source" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source" / "twice").symlink_to(tmp_path / "source" / "z")
    score(tmp_path / "source", tmp_path / "out")
    assert [row["path"] for row in rows(tmp_path / "out")] == ["a/a.png", "z/a.png"]


@pytest.mark.parametrize("name", OWN)
def test_formats_of_ones_own_files_are_scored_from_folders_and_parquet(
    name: str, digits: Path, tmp_path: Path
) -> None:
    with Image.open(digits / "7" / "007.jpeg") as image:
        body = encoded(image.convert("RGB"), name)
    source = tmp_path / "source"
    source.mkdir()
    (source / f"seven{FORMATS[name].suffixes[0]}").write_bytes(body)
    pq.write_table(pa.table({"image": [body]}), tmp_path / "a.parquet")
    for given in (source, tmp_path / "a.parquet"):
        out = tmp_path / f"out of {given.name}"
        assert score(given, out) == Totals(scored=1, bad=0)
        assert rows(out)[0]["label"] == "7"


def test_missing_decoder_is_named_before_scoring_and_in_the_bad_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(sys.modules, "pillow_heif.HeifImagePlugin", raising=False)
    (tmp_path / "source").mkdir()
    for name in ("a.heic", "b.HEIC"):
        (tmp_path / "source" / name).write_bytes(HEIC_START)
    assert score(tmp_path / "source", tmp_path / "out") == Totals(scored=0, bad=2)
    assert caplog.messages == [
        "a.heic: the decoder of HEIC images is not installed, and 2 of the files need it: "
        "pip install 'limelight[heic]'"
    ]
    detail = "the decoder of HEIC images is not installed: pip install 'limelight[heic]'"
    assert [row["detail"] for row in rows(tmp_path / "out", "bad")] == [detail] * 2


def test_empty_source_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no image .* and no \.parquet file below it"):
        score(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="neither a folder of images nor a Parquet file"):
        score(tmp_path / "nothing", tmp_path / "out")


def test_damaged_artefact_is_rejected(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match=r"manifest\.json is missing: export the run again"):
        score(digits, tmp_path / "out", artifact=tmp_path)


def test_file_names_that_are_not_utf_8_are_escaped(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "source" / name).write_bytes((digits / "0" / "000.png").read_bytes())
    assert score(tmp_path / "source", tmp_path / "out") == Totals(scored=1, bad=0)
    assert rows(tmp_path / "out")[0]["path"] == r"caf\xe9.png"


def test_home_folder_in_the_model_option_is_expanded(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(ARTIFACT.parent)
    done = limelight(digits / "7", "--model", "~/mine", "--out", "out", cwd=tmp_path, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"digits/{ARTIFACT.name}" in (tmp_path / "out" / "plan.json").read_text()


def test_model_may_be_the_name_of_a_shipped_one_and_no_run(digits: Path, tmp_path: Path) -> None:
    done = limelight(digits / "7", "--model", "digits", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "out")) == 10
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.json").touch()
    done = limelight(digits / "7", "--model", "my run", "--out", "more", cwd=tmp_path)
    assert done.returncode == 1
    assert "is a run: export it first, by limelight export 'my run'" in done.stderr


def test_command_prints_the_folder_and_the_counts(digits: Path, tmp_path: Path) -> None:
    options = ("--model", ARTIFACT, "--out", "scores", "--threads", "1", "--shard-size", "30")
    done = limelight(digits, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "scores\n"
    assert (
        "104 images: 100 labelled, 4 bad (bad-*.parquet says why); 104 of them now" in done.stderr
    )
    rejected = limelight(digits, *options, "--explain", cwd=tmp_path)
    assert rejected.returncode == 1
    assert "was begun with another --explain" in rejected.stderr
    assert "Traceback" not in rejected.stderr


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: limelight[ray]")
def test_ray_usage_statistics_are_off() -> None:
    script = (
        "import pipeline.scoring.cluster; "
        "from ray._common.usage.usage_lib import usage_stats_enabled; "
        "print(usage_stats_enabled())"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("package", "words"),
    [("pyarrow", "pip install 'limelight[score]'"), ("ray", "pip install 'limelight[ray]'")],
)
def test_missing_package_is_named_with_its_extra(
    package: str, words: str, digits: Path, tmp_path: Path
) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None; from pathlib import Path; "
        "from pipeline.cli.commands.score import score; "
        f"score(Path({str(digits)!r}), Path({str(ARTIFACT)!r}), Path('out'), engine='ray')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("pipeline.scoring.ScoringError: ")
    assert words in done.stderr
