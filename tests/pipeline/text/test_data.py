"""Texts: reading, fetching, splitting, and batches."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from pipeline.data import text_files
from pipeline.data.text_files import TEXTS, fetch_text, text_sha256
from pipeline.errors import DataError
from pipeline.text.batches import TextBatch, as_streams, stream_batches, window_batches
from pipeline.text.corpus import UNKNOWN, entropy, read_corpus, vocabulary_of
from tests.pipeline.cli.running import limelight

SENTENCE = "Supposing that Truth is a woman--what then?\n"


def write(folder: Path, text: str | bytes) -> str:
    file = folder / "text.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_text_is_lower_cased_and_rare_characters_are_unknown(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path, "AaAbBbZz" + "ab" * 50 + "äÄä"))
    assert corpus.vocabulary.characters == UNKNOWN + "ab"
    decoded = corpus.vocabulary.decode(corpus.training.tolist() + corpus.validation.tolist())
    assert decoded == "aaabbb" + UNKNOWN * 2 + "ab" * 50 + UNKNOWN * 3


def test_character_seen_three_times_is_known() -> None:
    assert vocabulary_of("aaabb").characters == UNKNOWN + "a"


def test_end_of_the_text_validates_and_is_not_counted(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path, "ab" * 40 + "c" * 20))
    assert corpus.vocabulary.characters == UNKNOWN + "ab"
    assert len(corpus.training) == 80
    assert corpus.validation.tolist() == [0] * 20


def test_byte_order_mark_and_line_ends_make_no_difference(tmp_path: Path) -> None:
    plain = read_corpus(write(tmp_path, SENTENCE * 9))
    windows = read_corpus(
        write(
            tmp_path,
            b"\xef\xbb\xbf" + (SENTENCE * 9).replace("\n", "\r\n").encode(),
        )
    )
    assert windows.sha256 == plain.sha256
    assert windows.training.tolist() == plain.training.tolist()


def test_unreadable_text_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .*; choose a UTF-8 text"):
        read_corpus(write(tmp_path, b"\xff\xfe latin"))
    with pytest.raises(DataError, match="too short to be split"):
        read_corpus(write(tmp_path, "a"))
    with pytest.raises(DataError, match="neither a text file nor one of nietzsche"):
        read_corpus(str(tmp_path / "nothing.txt"))


def test_entropy_is_that_of_the_frequencies() -> None:
    assert entropy(torch.tensor([0, 0, 1, 1]).numpy()) == pytest.approx(0.6931, abs=1e-4)


def test_streams_are_consecutive_parts_of_the_text() -> None:
    streams = as_streams(torch.arange(23), 4)
    assert streams.t().tolist() == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14],
        [15, 16, 17, 18, 19],
    ]
    with pytest.raises(DataError, match="too few for 12 streams"):
        as_streams(torch.arange(23), 12)


def joined(batches: Iterator[TextBatch]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    found = list(batches)
    return (
        torch.cat([each.characters for each in found]),
        torch.cat([each.targets for each in found]),
        [len(each.characters) for each in found],
    )


def test_every_character_is_a_target_once_and_the_last_batch_is_shorter() -> None:
    streams = as_streams(torch.arange(4 * 22), 4)
    characters, targets, lengths = joined(stream_batches(streams, 8))
    assert lengths == [8, 8, 5]
    assert torch.equal(characters, streams[:-1])
    assert torch.equal(targets, streams[1:])
    assert [each.done for each in stream_batches(streams, 8)] == [8 / 21, 16 / 21, 1]


def test_jitter_cuts_elsewhere_in_each_epoch_and_loses_nothing() -> None:
    streams, rng = as_streams(torch.arange(4 * 5001), 4), torch.Generator().manual_seed(0)
    first, second = (joined(stream_batches(streams, 8, jitter=rng)) for _ in range(2))
    assert torch.equal(first[0], streams[:-1])
    assert torch.equal(first[1], streams[1:])
    assert first[2] != second[2]
    assert min(first[2][:-1]) == 5
    mean = sum(first[2]) / len(first[2])
    # A normal distribution around 8 with a deviation of 5, cut off below 5.
    assert 8 < mean < 9.5


def test_windows_have_every_character_behind_the_first_as_a_target() -> None:
    codes = torch.arange(20)
    characters, targets, _ = joined(window_batches(codes, 3, 5000))
    assert characters[:, 4].tolist() == [4, 5, 6]
    assert targets.tolist() == [list(range(3, 20))]
    rng = torch.Generator().manual_seed(0)
    batches = list(window_batches(codes, 3, 5, order=rng))
    assert [each.characters.shape[1] for each in batches] == [5, 5, 5, 2]
    shuffled = torch.cat([each.targets for each in batches], 1)[0]
    assert shuffled.tolist() != targets[0].tolist()
    assert sorted(shuffled.tolist()) == targets[0].tolist()
    with pytest.raises(DataError, match="too few for windows of 20"):
        list(window_batches(codes, 20, 5))


class Bucket(BaseHTTPRequestHandler):
    content = (SENTENCE * 9).encode()

    def do_GET(self) -> None:
        content = self.content
        self.send_response(200 if self.path == "/there.txt" else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/there.txt":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/there.txt"
    sha256 = text_sha256((SENTENCE * 9).encode())
    entry = replace(TEXTS["nietzsche"], url=url, sha256=sha256)
    monkeypatch.setattr(text_files, "TEXTS", {"nietzsche": entry})
    yield url
    server.shutdown()
    server.server_close()


def test_text_is_downloaded_once(
    cache: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch_text("nietzsche")
    assert path == cache / "nietzsche.txt"
    assert path.read_text() == SENTENCE * 9
    assert not caplog.records
    assert [each.name for each in (cache / "downloads").iterdir()] == []
    gone = replace(text_files.TEXTS["nietzsche"], url=bucket.replace("there", "gone"))
    monkeypatch.setattr(text_files, "TEXTS", {"nietzsche": gone})
    assert fetch_text("nietzsche") == path
    path.unlink()
    with pytest.raises(DataError, match="404"):
        fetch_text("nietzsche")


def test_download_that_is_no_text_is_not_kept(
    cache: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "content", b"\xff\xfe latin")
        with pytest.raises(DataError, match="cannot be read"):
            fetch_text("nietzsche")
    assert fetch_text("nietzsche").read_text() == SENTENCE * 9


def test_another_text_is_a_warning(
    cache: Path, bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(b"\xef\xbb\xbf" + (SENTENCE * 9).replace("\n", "\r\n").encode())
    assert fetch_text("nietzsche", file).read_text() == SENTENCE * 9
    assert not caplog.records
    file.write_text("another text")
    assert fetch_text("nietzsche", file).read_text() == "another text"
    assert "is not the text that the lessons use" in caplog.text


def test_command_takes_the_text_from_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, SENTENCE * 9)
    done = limelight("data", "fetch", "nietzsche", "--file", file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_text() == SENTENCE * 9
    assert "losses differ" in caplog.text
    listed = limelight("data", "list", cwd=tmp_path).stdout
    assert any("nietzsche" in line and "in the cache" in line for line in listed.splitlines())
    refused = limelight("data", "fetch", "mnist", "--file", file, cwd=tmp_path)
    assert "--file is for a text (nietzsche)" in refused.stderr


def test_published_text_that_was_not_fetched_says_how(tmp_path: Path) -> None:
    done = limelight("text", "train", "char-gru", "nietzsche", cwd=tmp_path)
    assert done.returncode == 1
    assert "run `limelight data fetch nietzsche`" in done.stderr


def test_text_without_a_frequent_character_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(map(chr, range(0x4E00, 0x4F00))))
    with pytest.raises(DataError, match="has no character 3 times"):
        read_corpus(str(tmp_path / "text.txt"))
