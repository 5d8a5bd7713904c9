"""Digits to score, as files and as Parquet, and a short way to score them."""

import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from limelight.artifact.store import newest_version
from pipeline.scoring.job import EngineName, plan_job, run
from pipeline.scoring.output_formats import FormatName
from pipeline.scoring.scorer import Settings
from pipeline.scoring.shards import Totals
from tests.pipeline.cli.running import limelight_process

ROOT = Path(__file__).parents[3]
ARTIFACT = newest_version(ROOT / "zoo" / "digits")
QUICK = Settings(device="cpu", threads=1, batch_size=16)


def write_digits(folder: Path) -> Path:
    """Write a hundred digits as PNG and JPEG of all sizes, a folder a class, and four bad files."""
    source = load_digits()
    for number, (pixels, label) in enumerate(zip(source.images[:100], source.target, strict=False)):
        image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        image = image.resize((8 + number, 8 + number), Image.Resampling.BICUBIC)
        (folder / str(label)).mkdir(exist_ok=True, parents=True)
        image.save(folder / str(label) / f"{number:03}.{('png', 'jpeg')[number % 2]}")
    (folder / "bad").mkdir()
    (folder / "bad" / "broken.jpg").write_bytes(b"no image")
    whole = (folder / "0" / "000.png").read_bytes()
    (folder / "bad" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bad" / "gone.gif").symlink_to(folder / "nowhere")
    (folder / "zero.PNG").touch()
    (folder / "notes.txt").write_text("not an image, and not meant to be")
    return folder


def score(
    source: Path,
    out: Path,
    *,
    shard: int = 30,
    artifact: Path = ARTIFACT,
    settings: Settings = QUICK,
    engine: EngineName = "local",
    column: str | None = None,
    output: FormatName = "parquet",
) -> Totals:
    job = plan_job(
        source, artifact, out, shard_images=shard, settings=settings, column=column, output=output
    )
    return run(job, engine)


def rows(out: Path, kind: str = "part") -> list[dict[str, object]]:
    files = sorted(out.glob(f"{kind}-*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def contents(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir()}


def write_parquet(digits: Path, folder: Path, *, struct: bool) -> list[str]:
    """The digits in two files of row groups of 7, one image missing; the paths in their order."""
    paths = sorted(path for path in digits.rglob("*") if path.suffix in (".png", ".jpeg"))
    names = [path.relative_to(digits).as_posix() for path in paths]
    bodies = [path.read_bytes() for path in paths]
    images = [
        {"bytes": None if number == 50 else body, "path": name}
        for number, (body, name) in enumerate(zip(bodies, names, strict=True))
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array(images, kind) if struct else pa.array([row["bytes"] for row in images])
    table = pa.table({"image": column, "label": range(len(paths)), "id": names})
    table = table.replace_schema_metadata({"huggingface": "{}"})
    folder.mkdir()
    pq.write_table(table.slice(0, 61), folder / "a.parquet", row_group_size=7)
    pq.write_table(table.slice(61), folder / "b.parquet", row_group_size=7)
    return names


def limelight(
    *arguments: str | Path, cwd: Path, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `limelight score` in a process of its own."""
    home_folder = {} if home is None else {"HOME": str(home)}
    return limelight_process("score", *map(str, arguments), cwd=cwd, **home_folder)
