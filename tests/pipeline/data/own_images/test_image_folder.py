"""Images of one's own: a folder, a CSV file, and what may be wrong with either."""

import errno
import logging
import os
import sys
import unicodedata
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limelight.imaging.formats import FORMATS
from pipeline.data.own_images.image_folder import list_folder
from pipeline.data.registry import check_unambiguous, load_dataset
from pipeline.errors import DataError
from pipeline.runs.run_data import split_run_data
from tests.own_images import HEIC_START, OWN, encoded
from tests.pipeline.data.test_registry import COLOURS, make_folder


def make_table(folder: Path, rows: list[str], header: str = "path,label") -> Path:
    """A CSV file beside its images."""
    file = folder / "labels.csv"
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return file


def image_rows(folder: Path, images: int = 10) -> list[str]:
    """Rows of the images that `make_folder` makes, labelled by their sub-folders."""
    make_folder(folder, images)
    return [f"{name}/{number}.png,{name}" for name in COLOURS for number in range(images)]


def test_csv_file_gives_the_same_data_as_its_folder(tmp_path: Path) -> None:
    table = make_table(tmp_path, image_rows(tmp_path))
    by_table, by_folder = (load_dataset(str(path), image_size=16) for path in (table, tmp_path))
    assert by_table.sha256 == by_folder.sha256
    assert by_table.classes == by_folder.classes == ("blue", "red")
    assert (by_table.name, by_folder.name) == ("labels", tmp_path.name)


def test_byte_order_mark_crlf_and_other_columns_are_ignored(
    tmp_path: Path,
) -> None:
    rows = image_rows(tmp_path)
    plain = load_dataset(str(make_table(tmp_path, rows)))
    decorated = [f'{row},"said ""{n}"", twice"' for n, row in enumerate(rows)]
    text = "\r\n".join(["path, label, note", *decorated, "", ""])
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_dataset(str(tmp_path / "labels.csv")).sha256 == plain.sha256


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["Path,Label", "FILENAME,class", "image_path,category"])
def test_delimiters_and_headers_that_people_use_are_understood(
    delimiter: str, header: str, tmp_path: Path
) -> None:
    rows = image_rows(tmp_path)
    plain = load_dataset(str(make_table(tmp_path, rows)))
    written = [row.replace(",", delimiter) for row in rows]
    other = make_table(tmp_path, written, header.replace(",", delimiter))
    assert load_dataset(str(other)).sha256 == plain.sha256


def test_split_column_selects_test_images(tmp_path: Path) -> None:
    rows = [
        f"{row},{'test' if number % 5 == 0 else 'train'}"
        for number, row in enumerate(image_rows(tmp_path))
    ]
    dataset = load_dataset(str(make_table(tmp_path, rows, "path,label,split")), image_size=(40, 48))
    assert (len(dataset.train), dataset.test.labels.tolist()) == (16, [0, 0, 1, 1])
    # The files have the size of the rule already, so their pixels are unchanged.
    np.testing.assert_array_equal(
        dataset.test.images[:][1], np.asarray(Image.open(tmp_path / "blue" / "5.png"))
    )


def test_paths_are_absolute_or_relative_to_the_csv_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [str(tmp_path / row) for row in image_rows(tmp_path)]
    (tmp_path / "tables").mkdir()
    monkeypatch.chdir(tmp_path / "tables")
    assert load_dataset(str(make_table(tmp_path / "tables", rows))).skipped == ()
    assert load_dataset(str(make_table(tmp_path, rows[:10] + image_names("red")))).skipped == ()


@pytest.mark.parametrize("given", ["labels.csv", "../data/labels.csv", "link/labels.csv", ""])
def test_image_that_is_named_by_two_paths_is_rejected(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, link = tmp_path / "data", tmp_path / "data" / "link"
    rows = image_rows(data)
    link.symlink_to(data)
    monkeypatch.chdir(data)
    for again in (data / "red" / "3.png", link / "red" / "3.png", Path("link/red/3.png")):
        table = make_table(data, [*rows, f"{again},blue"])
        with pytest.raises(DataError, match=f"lines 15 and 22: both name {again}: keep one"):
            load_dataset(given or str(table))


def test_files_of_a_table_have_the_same_names_from_every_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    rows = image_rows(tmp_path / "data")
    absolute = [f"{tmp_path / 'link' / row}" for row in rows[:10]]
    table = make_table(tmp_path / "data", absolute + rows[10:])
    expected = load_dataset(str(tmp_path / "link" / table.name)).train.files
    monkeypatch.chdir(tmp_path)
    assert load_dataset(f"link/{table.name}").train.files == expected


def image_names(colour: str) -> list[str]:
    return [f"./{colour}/../{colour}/{number}.png,{colour}" for number in range(10)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column path and no column label, but nothing: begin it with"),
        ("where,label\na.png,x\n", "has no column path, but where, label: begin it with the line"),
        ("path|label\na.png|x\n", "no column path and no column label, but path.label: begin"),
        ("Path,file,label\na.png,a.png,x\n", "the columns Path and file both mean path: keep one"),
        ("path,label\n", "has no rows"),
        ("path,label\n\n\n", "has no rows"),
        ("path,label\na.png\n", "line 2: no label"),
        ("path,label\n,x\n", "line 2: no path"),
        (
            "path,label,split\na.png,x,extra\n",
            "line 2: split is 'extra', and must be train, val or",
        ),
        ("path,label,split\na.png,x,\n", "line 2: no split"),
        ("path,label\na.png,x\n../b.png,y\n", "line 3: ../b.png is outside the folder"),
        ("path,label\nc/../../b.png,y\n", "line 2: c/../../b.png is outside the folder"),
        ("path,label\na.png,x\nb\0.png,y\n", "line 3: the path has a NUL byte"),
        ("path,label\na.png,x\nb.png,y\n./a.png,y\n", "lines 2 and 4: both name ./a.png"),
        ("path,label\na.png,x\n", "needs rows for each of at least two classes, found 1"),
        ("path,label\n\xe4.png,x\n", "is not UTF-8"),
        ("path,label\n" + "a" * 200_000 + ",x\n", "is not CSV"),
    ],
)
def test_error_in_a_csv_file_names_line_and_reason(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words):
        load_dataset(str(tmp_path / "labels.csv"))


def test_at_most_ten_unreadable_files_are_named_and_all_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = image_rows(tmp_path) + [f"missing/{number}.png,red" for number in range(12)]
    (tmp_path / "red" / "3.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(str(make_table(tmp_path, rows)))
    assert len(dataset.train) + len(dataset.test) == 19
    messages = [record.message for record in caplog.records]
    assert len(messages) == 11
    assert messages[0].startswith(f"skipped {tmp_path / 'red' / '3.png'}: the file is not")
    assert messages[1] == f"skipped {tmp_path / 'missing' / '0.png'}: No such file or directory"
    assert messages[-1] == "and 3 more (13 files in all)"
    assert len(dataset.skipped) == 13
    assert dataset.skipped[-1].startswith(str(tmp_path / "missing" / "11.png"))


def test_unreadable_training_and_test_files_are_reported_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "test"):
        folder = make_folder(tmp_path / part, size=(48, 40 + len(part)))
        (folder / "red" / "broken.png").touch()
    dataset = load_dataset(str(tmp_path))
    assert len(caplog.records) == len(dataset.skipped) == 2


@pytest.mark.parametrize("image_size", [16, (16, 24), (30, 7)])
def test_images_are_resized_to_any_size(image_size: int | tuple[int, int], tmp_path: Path) -> None:
    dataset = load_dataset(str(make_folder(tmp_path)), image_size=image_size)
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    assert dataset.train.images.shape == (16, height, width, 3)
    assert (dataset.image.height, dataset.image.width) == (height, width)


@pytest.mark.parametrize("image_size", [0, (16, -1), 5000])
def test_invalid_image_size_is_rejected(image_size: int | tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="each side must be 1 to 4096 pixels"):
        load_dataset(str(make_folder(tmp_path)), image_size=image_size)


def test_a_fifth_is_held_out_if_there_is_train_and_no_test(tmp_path: Path) -> None:
    make_folder(tmp_path / "train")
    (tmp_path / "train" / ".cache").mkdir()
    dataset = load_dataset(str(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (16, 4)
    assert dataset.classes == ("blue", "red")


def test_class_can_be_called_train(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "red").rename(tmp_path / "train")
    assert load_dataset(str(tmp_path)).classes == ("blue", "train")


def test_folder_beside_the_parts_is_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "extra")
    with pytest.raises(DataError, match="there is extra, which is no name of a part: call it val"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),  # ImageNet, ultralytics
        ("train", "valid", "test"),  # Roboflow
        ("Training", "Validation", "Testing"),  # Kaggle
        ("TRAIN", "Dev", "Test"),
        ("Train", None, "Test"),
        ("train", "val", None),
    ],
)
@pytest.mark.parametrize("around", ["", "archive/pictures"])
def test_parts_have_the_names_that_people_use(
    train: str, validation: str | None, test: str | None, around: str, tmp_path: Path
) -> None:
    parts = {train: 12, validation: 4, test: 3}
    for part, images in parts.items():
        if part is not None:
            make_folder(tmp_path / around / part, images)
    dataset = load_dataset(str(tmp_path))
    data = split_run_data(dataset, validation=0.25, seed=0)
    assert dataset.classes == ("blue", "red")
    fitted = 24
    if test is None:
        fitted -= 5
    if validation is None:
        fitted -= 6
    assert len(data.fit) == fitted
    assert len(data.validation) == (8 if validation else 6)
    assert len(dataset.test) == (6 if test else 5)


def test_validation_images_of_their_own_belong_to_the_identity_of_the_data(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        make_folder(tmp_path / part, 5)
    before = load_dataset(str(tmp_path)).sha256
    (tmp_path / "val" / "red" / "0.png").unlink()
    assert load_dataset(str(tmp_path)).sha256 != before


def test_split_column_takes_the_same_names_as_folders(tmp_path: Path) -> None:
    parts = ["Training"] * 6 + ["val"] * 2 + ["TEST"] * 2
    rows = [f"{row},{parts[number % 10]}" for number, row in enumerate(image_rows(tmp_path))]
    dataset = load_dataset(str(make_table(tmp_path, rows, "path,label,split")))
    assert dataset.validation is not None
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (12, 4, 4)


def test_two_names_for_one_part_are_rejected(tmp_path: Path) -> None:
    for part in ("train", "val", "valid"):
        make_folder(tmp_path / part)
    with pytest.raises(DataError, match="val and valid both mean validation: keep one"):
        load_dataset(str(tmp_path))


def test_parts_without_folders_of_classes_are_not_taken_for_classes(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "red").rename(tmp_path / "Training")
    (tmp_path / "blue").rename(tmp_path / "Testing")
    with pytest.raises(DataError, match="Testing, Training are names of parts, not of classes"):
        load_dataset(str(tmp_path))


def test_parts_need_the_same_classes(tmp_path: Path) -> None:
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "val")
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "green")
    with pytest.raises(DataError, match="train has the classes blue, red, and validation blue, gr"):
        load_dataset(str(tmp_path))


def test_what_systems_leave_behind_is_no_image(tmp_path: Path) -> None:
    make_folder(tmp_path)
    image = (tmp_path / "red" / "0.png").read_bytes()
    for junk in (".thumbnails/a.png", "@eaDir/b.png", "__MACOSX/c.png", "red/._0.png"):
        (tmp_path / junk).parent.mkdir(exist_ok=True)
        (tmp_path / junk).write_bytes(image)
    (tmp_path / "red" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "red" / "@eaDir").mkdir()
    (tmp_path / "red" / "@eaDir" / "d.png").write_bytes(image)
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ("blue", "red")
    assert len(dataset.train) + len(dataset.test) == 20
    assert not dataset.unread


def test_hidden_image_beside_the_folder_of_the_data_is_no_image(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    (tmp_path / ".cover.jpg").write_bytes(b"x")
    assert list_folder(tmp_path).classes == ("blue", "red")


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    (tmp_path / "data" / "red").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "red").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "more").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    files = list_folder(tmp_path / "data")
    assert len(files.train["blue"]) == 10
    # Its own ten, and those of blue by the link to the whole.
    assert len(files.train["red"]) == 20


@pytest.mark.parametrize("place", ["", "red", "red/more"])
def test_folder_that_cannot_be_listed_is_rejected(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path)
    (tmp_path / "red" / "more").mkdir()
    listed = {name: getattr(os, name) for name in ("scandir", "listdir")}

    # Root may list every folder.
    def reject(name: str, path: str) -> object:
        if Path(path) == tmp_path / place:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed[name](path)

    for name in listed:
        monkeypatch.setattr(os, name, partial(reject, name))
    with pytest.raises(DataError, match=f"{tmp_path / place} cannot be listed: Permission denied"):
        list_folder(tmp_path)


def test_files_of_other_kinds_are_counted_by_their_suffix(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for number in range(3):
        (tmp_path / "red" / f"{number}.PSD").write_bytes(b"8BPS")
    (tmp_path / "blue" / "one.mov").write_bytes(b"x")
    (tmp_path / "blue" / "notes").write_text("x")
    unread = load_dataset(str(tmp_path)).unread
    assert unread == {".psd": 3, ".mov": 1, "without a suffix": 1}


def test_images_outside_the_folders_of_the_classes_are_counted(tmp_path: Path) -> None:
    for part in ("train", "test"):
        make_folder(tmp_path / part)
    for place in (tmp_path, tmp_path / "test"):
        (place / "cover.jpg").write_bytes(b"x")
        (place / ".cover.jpg").write_bytes(b"x")
        (place / "README.txt").write_text("x")
    assert load_dataset(str(tmp_path)).unread == {"outside the folders of the classes": 2}


def test_broken_link_to_an_image_is_named_as_unreadable(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "red" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    dataset = load_dataset(str(tmp_path))
    assert dataset.skipped == (f"{tmp_path / 'red' / 'gone.jpg'}: No such file or directory",)
    assert not dataset.unread


@pytest.mark.parametrize("name", OWN)
def test_folder_may_mix_png_and_formats_of_cameras_and_scanners(name: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    plain = load_dataset(str(tmp_path))
    for number in range(0, 10, 2):
        file = tmp_path / "red" / f"{number}.png"
        with Image.open(file) as image:
            body = encoded(image, name)
        file.unlink()
        file.with_suffix(FORMATS[name].suffixes[-1].upper()).write_bytes(body)
    mixed = load_dataset(str(tmp_path))
    assert not mixed.skipped
    assert not mixed.unread
    for one, other in ((mixed.train, plain.train), (mixed.test, plain.test)):
        assert np.array_equal(one.labels, other.labels)
        loss = np.abs(one.images[:].astype(int) - other.images[:]).mean()
        assert loss < (12 if name != "TIFF" else 1e-9)


def test_file_without_a_decoder_is_named_with_the_command_that_helps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path)
    (tmp_path / "red" / "photo.heic").write_bytes(HEIC_START)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(sys.modules, "pillow_heif.HeifImagePlugin", raising=False)
    dataset = load_dataset(str(tmp_path))
    assert caplog.messages == [
        f"skipped {tmp_path / 'red' / 'photo.heic'}: the decoder of HEIC images is not installed: "
        "pip install 'limelight[heic]'"
    ]
    assert len(dataset.skipped) == 1
    assert not dataset.unread


def test_copies_are_named_with_their_classes_and_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "test"):
        make_folder(tmp_path / part)
        for name in COLOURS:
            for number in range(10):
                file = tmp_path / part / name / f"{number}.png"
                noise = np.random.default_rng([number, len(part), len(name)])
                Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    copies = {
        "train/red/0.png": "train/blue/0.png",
        "train/red/1.png": "test/red/1.png",
        "train/red/2.png": "train/red/3.png",
    }
    for one, other in copies.items():
        (tmp_path / other).write_bytes((tmp_path / one).read_bytes())
    load_dataset(str(tmp_path))
    warned = caplog.messages
    assert any("1 image is in two classes" in text and "red/0.png" in text for text in warned)
    assert any("in train and in test" in text and "test/red/1.png" in text for text in warned)
    assert any("there twice" in text and "train/red/3.png" in text for text in warned)
    assert len(warned) == 3


def test_data_set_named_like_a_folder_of_images_is_ambiguous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits8").mkdir()
    check_unambiguous("digits8")  # the folder of a run
    make_folder(tmp_path / "digits8")
    with pytest.raises(DataError, match=r"also a folder here: write \./digits8 for the folder"):
        check_unambiguous("digits8")
    check_unambiguous("./digits8")


def test_classes_with_a_single_image_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for number in range(1, 10):
        (tmp_path / "red" / f"{number}.png").unlink()
    with pytest.raises(
        DataError, match="hold out test images: the class 'red' has only one image, and each"
    ):
        load_dataset(str(tmp_path))


def test_error_about_too_few_images_says_how_many_are_needed(tmp_path: Path) -> None:
    # Two images are held out as test images, and two cannot be split again.
    make_folder(tmp_path, images=2)
    dataset = load_dataset(str(tmp_path))
    with pytest.raises(
        DataError, match="cannot hold out validation images: the classes 'blue', 'red' have only"
    ):
        split_run_data(dataset, validation=0.15, seed=0)


def test_class_names_compare_in_any_unicode_form(tmp_path: Path) -> None:
    """macOS writes an umlaut in file names as two characters."""
    make_folder(tmp_path, 10)
    composed, decomposed = (unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))
    (tmp_path / "red").rename(tmp_path / decomposed)
    (tmp_path / composed).mkdir()
    (tmp_path / decomposed / "9.png").rename(tmp_path / composed / "9.png")
    by_folder = load_dataset(str(tmp_path), image_size=16)
    assert by_folder.classes == (composed, "blue")
    rows = [f"{decomposed}/{n}.png,{(composed, decomposed)[n % 2]}" for n in range(9)]
    rows += [f"{composed}/9.png,{decomposed}", *(f"blue/{n}.png,blue" for n in range(10))]
    by_table = load_dataset(str(make_table(tmp_path, rows)), image_size=16)
    assert by_table.classes == by_folder.classes
