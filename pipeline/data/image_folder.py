"""Folders of labelled images: one sub-folder for each class (torchvision's ImageFolder layout)."""

from pathlib import Path

from limelight.labels import normalized
from pipeline.data.labelled_files import FilesByClass, LabelledFiles, checked, is_image
from pipeline.errors import DataError


def list_folder(folder: Path) -> LabelledFiles:
    """List FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE.

    Without FOLDER/test, test images must be held out. Hidden folders are skipped.

    Raises:
        DataError: there are fewer than two classes, or another folder beside train and test.

    """
    train, test = folder / "train", None
    if _sub_folders(train):
        # A class can be called train; then it contains images and no folders.
        parts = {path.name for path in _sub_folders(folder)}
        if parts - {"train", "test"}:
            raise DataError(
                f"{folder}: beside train there is {', '.join(sorted(parts - {'train', 'test'}))}, "
                "and only test is allowed: merge it into train, from which validation images are "
                "held out, or name it test"
            )
        if "test" in parts:
            test = _by_class(folder / "test")
    else:
        train = folder
    files = LabelledFiles(_by_class(train), test, "a folder of labelled images")
    return checked(files, folder, "a sub-folder of images")


def _by_class(folder: Path) -> FilesByClass:
    files: FilesByClass = {}
    for path in _sub_folders(folder):
        images = [file for file in sorted(path.rglob("*")) if is_image(file)]
        files.setdefault(normalized(path.name), []).extend(images)
    return files


def _sub_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
