"""A data set as a file that is small enough to be carried: lossless, and read with Pillow alone.

Colour images lie in mosaics of lossless WebP, which takes 1.7 of their 3 bytes a pixel; the rest is
LZMA.
"""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Of one mosaic. Larger ones compress worse: their statistics are of more different images.
_IMAGES, _COLUMNS = 250, 10

Pixels = NDArray[np.uint8]


def write_archive(arrays: dict[str, Pixels], file: Path) -> None:
    """Write arrays by their names: colour images (N, H, W, 3), or anything else of uint8."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive, ThreadPoolExecutor() as pool:
        for name, array in arrays.items():
            if array.ndim == 4 and array.shape[3] == 3:
                blocks = [array[at : at + _IMAGES] for at in range(0, len(array), _IMAGES)]
                for number, encoded in enumerate(pool.map(_encode, blocks)):
                    entry = f"{name}/{number:04}_{len(blocks[number])}.webp"
                    archive.writestr(entry, encoded, zipfile.ZIP_STORED)
            else:
                stream = io.BytesIO()
                np.save(stream, array, allow_pickle=False)
                archive.writestr(f"{name}.npy", stream.getvalue())


def read_archive(file: Path) -> dict[str, Pixels]:
    """Read what `write_archive` wrote."""
    arrays: dict[str, Pixels] = {}
    blocks: dict[str, list[tuple[bytes, int]]] = {}
    with zipfile.ZipFile(file) as archive:
        for entry in sorted(archive.namelist()):
            folder, _, number = entry.removesuffix(".webp").partition("/")
            if number:
                count = int(number.partition("_")[2])
                blocks.setdefault(folder, []).append((archive.read(entry), count))
            else:
                content = io.BytesIO(archive.read(entry))
                arrays[entry.removesuffix(".npy")] = np.load(content, allow_pickle=False)
    with ThreadPoolExecutor() as pool:
        for name, pieces in blocks.items():
            arrays[name] = np.concatenate(list(pool.map(_decode, pieces)))
    return arrays


def _encode(images_nhwc: Pixels) -> bytes:
    count, height, width, channels = images_nhwc.shape
    rows = -(-count // _COLUMNS)
    full = np.zeros((rows * _COLUMNS, height, width, channels), np.uint8)
    full[:count] = images_nhwc
    mosaic = full.reshape(rows, _COLUMNS, height, width, channels).swapaxes(1, 2)
    stream = io.BytesIO()
    Image.fromarray(mosaic.reshape(rows * height, _COLUMNS * width, channels)).save(
        stream, "WEBP", lossless=True, quality=90, method=5
    )
    return stream.getvalue()


def _decode(block: tuple[bytes, int]) -> Pixels:
    content, count = block
    with Image.open(io.BytesIO(content)) as image:
        mosaic = np.asarray(image.convert("RGB"))
    rows = -(-count // _COLUMNS)
    height, width = mosaic.shape[0] // rows, mosaic.shape[1] // _COLUMNS
    tiles = mosaic.reshape(rows, height, _COLUMNS, width, 3).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(-1, height, width, 3)[:count])
