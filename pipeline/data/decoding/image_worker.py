"""Process that decodes images for `worker_processes`: lines of JSON on its input and output.

It is started as a file, and not by `multiprocessing`, which would run the user's own program again.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from limelight.errors import LimelightError
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import read_upload
from pipeline.data.decoding.image_cache import Record
from pipeline.data.labelled_files import MAX_PIXELS


def read_image(path: Path, row: int, rule: ImageRule, pixels: int) -> Record:
    """Decode a file with the code that reads uploads, and write it to its row of `pixels`.

    `pixels` is the descriptor of a file whose row r is the image r, uint8 (H, W, C).

    Raises:
        OSError: the row cannot be written. A file that cannot be read is a record with a problem.

    """
    size, mtime_ns, digest, problem = 0, 0, "", None
    try:
        status = path.stat()
        size, mtime_ns = status.st_size, status.st_mtime_ns
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        image_hwc = read_upload(content, rule, max_pixels=MAX_PIXELS, own_file=True).pixels_hwc
    except LimelightError as error:
        problem = error.detail
    except (OSError, MemoryError) as error:
        problem = getattr(error, "strerror", None) or "there is not enough memory for it"
    else:
        _write_all(pixels, image_hwc.tobytes(), row * image_hwc.nbytes)
    return Record(str(path), size, mtime_ns, row, digest, problem)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    """Write the whole content at `offset`: at the limit of a disk, one call writes a part of it."""
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], offset + written)


def main() -> None:
    """Read lines `[[row, path], ...]` until the end of the input, and answer each.

    The answer is a line with the fields of the records. If a row cannot be written, it is a line
    with the reason, and the process ends.
    """
    rule, file = ImageRule.model_validate_json(sys.argv[1]), sys.argv[2]
    pixels = os.open(file, os.O_WRONLY)
    for line in sys.stdin:
        try:
            records = [read_image(Path(path), row, rule, pixels) for row, path in json.loads(line)]
        except OSError as error:
            print(json.dumps(error.strerror or str(error)), flush=True)
            return
        fields = [
            [each.path, each.size, each.mtime_ns, each.row, each.sha256, each.problem]
            for each in records
        ]
        print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
