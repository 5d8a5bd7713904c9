"""A user's own labelled images: a folder of them, or a CSV file of paths and labels."""

from pathlib import Path

from pipeline.data.dataset import Dataset
from pipeline.data.decoding.image_reader import ImageReader
from pipeline.data.image_rules import photo_rule
from pipeline.data.labelled_files import TEST, TRAIN, VALIDATION, LabelledFiles
from pipeline.data.own_images.csv_table import list_table
from pipeline.data.own_images.image_folder import list_folder
from pipeline.data.own_images.image_size import suitable_side
from pipeline.data.reading_options import Reading
from pipeline.data.splits import hold_out


def load_own_images(
    path: Path, image_size: int | tuple[int, int] | None, reading: Reading, *, largest: int
) -> Dataset | None:
    """Read the images at `path`, resized to `image_size`; None if it is no folder or CSV file.

    They stay in a file, so that there may be more of them than the memory holds. If `image_size` is
    None, it follows the images, up to `largest`.

    Raises:
        DataError: there are too few classes or images, or none of a class can be read.

    """
    if path.is_dir():
        files = list_folder(path)
    elif path.is_file() and path.suffix.lower() == ".csv":
        files = list_table(path)
    else:
        return None
    if image_size is None:
        image_size = suitable_side(files.paths, largest)
    return _read(path, files, image_size, reading)


def _read(
    path: Path, files: LabelledFiles, image_size: int | tuple[int, int], reading: Reading
) -> Dataset:
    rule = photo_rule(image_size)
    reader = ImageReader(path, files, rule, reading)
    train = reader.read(files.train, part=TRAIN)
    validation, test = (
        None if listed is None else reader.read(listed, part=part)
        for part, listed in ((VALIDATION, files.validation), (TEST, files.test))
    )
    reader.report()
    if test is None:
        train, test = hold_out("test images", train, share=0.2, seed=0, classes=files.classes)
    return Dataset(
        name=path.resolve().stem if path.is_file() else path.resolve().name,
        classes=files.classes,
        image=rule,
        train=train,
        validation=validation,
        test=test,
        licence="the owner's",
        source=files.described,
        skipped=tuple(reader.skipped),
        unread=files.unread,
        decoded=reading.decode,
    )
