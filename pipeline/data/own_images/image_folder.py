"""Folders of labelled images: one sub-folder for each class (torchvision's ImageFolder layout)."""

from collections import Counter
from pathlib import Path

from limelight.labels import normalized
from pipeline.data.labelled_files import (
    TEST,
    TRAIN,
    VALIDATION,
    FilesByClass,
    LabelledFiles,
    checked,
    is_image,
    part_called,
)
from pipeline.data.own_images.file_walk import list_entries, walk_files
from pipeline.errors import DataError

# Folders around the data, as in an unpacked archive.
_MOST_WRAPPINGS = 3


def list_folder(folder: Path) -> LabelledFiles:
    """List FOLDER/CLASS/IMAGE, or FOLDER/PART/CLASS/IMAGE for the parts train, val and test.

    The parts may have the other names of `part_called`. Parts without a folder must be held out.
    Links to folders are followed. Hidden files and folders are skipped, and so are the folders
    around the data: those that contain a single folder and nothing else.

    Raises:
        DataError: `checked` says why, a folder cannot be listed, or the folders of the parts are
            not clear.

    """
    root = _unwrapped(folder)
    unread: Counter[str] = Counter()
    parts = _parts(root)
    listed = {part: _by_class(path, unread) for part, path in parts.items()}
    if outside := sum(map(_count_images, {root, *parts.values()})):
        unread["outside the folders of the classes"] = outside
    files = LabelledFiles(
        train=listed[TRAIN],
        validation=listed.get(VALIDATION),
        test=listed.get(TEST),
        described="a folder of labelled images",
        unread=dict(sorted(unread.items(), key=lambda kind: (-kind[1], kind[0]))),
    )
    return checked(files, folder, "a sub-folder of images")


def _parts(root: Path) -> dict[str, Path]:
    """Find the folder of each part; without parts, `root` is the folder of the training images."""
    children = _sub_folders(root)
    named = [(part_called(path.name), path) for path in children]
    # A class can be called train; then it contains images and no folders.
    if not any(part == TRAIN and _sub_folders(path) for part, path in named):
        if len(children) > 1 and all(part for part, _ in named):
            names = ", ".join(path.name for path in children)
            raise DataError(
                f"{root}: {names} are names of parts, not of classes, and hold no folder for each "
                "class: sort the images of each part into such folders"
            )
        return {TRAIN: root}
    others = [path.name for part, path in named if part is None]
    if others:
        raise DataError(
            f"{root}: beside the folder of the training images there is {', '.join(others)}, which "
            "is no name of a part: call it val or test, or move it away"
        )
    parts: dict[str, Path] = {}
    for part, path in named:
        if part is not None and part in parts:
            raise DataError(
                f"{root}: {parts[part].name} and {path.name} both mean {part}: keep one, or merge "
                "them"
            )
        parts[str(part)] = path
    return parts


def _unwrapped(folder: Path) -> Path:
    for _ in range(_MOST_WRAPPINGS):
        children = _sub_folders(folder)
        if len(children) != 1 or part_called(children[0].name) or not _sub_folders(children[0]):
            break
        if _count_images(folder):
            break
        folder = children[0]
    return folder


def _by_class(folder: Path, unread: Counter[str]) -> FilesByClass:
    files: FilesByClass = {}
    for path in _sub_folders(folder):
        files.setdefault(normalized(path.name), []).extend(_images(path, unread))
    return files


def _images(folder: Path, unread: Counter[str]) -> list[Path]:
    """List the images in `folder` and below, sorted; count the other files by suffix."""
    images: list[Path] = []
    for path in walk_files(folder):
        if is_image(path):
            images.append(path)
        else:
            unread[path.suffix.lower() or "without a suffix"] += 1
    return sorted(images)


def _count_images(folder: Path) -> int:
    """Count the images in `folder`, without those in its sub-folders."""
    return sum(map(is_image, list_entries(folder)))


def _sub_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in list_entries(folder) if path.is_dir())
