"""Signed artefacts: what verifies, and the sentence for everything that does not."""

import base64
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from limelight.artifact.signature_file import SIGNATURE_FILE, SignatureError
from limelight.artifact.signatures import Signature, verify_signature
from limelight.artifact.store import Artifact, ArtifactError, load_artifact
from limelight.artifact.trusted_keys import TrustedKeysError, read_trusted_keys
from pipeline.errors import PipelineError
from pipeline.exporting.signing import sign
from tests.serving_kit import write_artifact
from tests.signing_kit import KeyPair, make_chain, make_keys, sign_folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, keys: KeyPair) -> Path:
    folder = write_artifact(tmp_path_factory.mktemp("zoo"), golden=True)
    (folder / "README.md").write_text("A card.")
    return sign_folder(folder, keys.private)


@pytest.fixture
def signed(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "colours" / "1"))


def verify(folder: Path, *trusted: Path) -> Signature:
    return verify_signature(load_artifact(folder), *trusted)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def edit_bundle(folder: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    bundle = json.loads((folder / SIGNATURE_FILE).read_text())
    change(bundle)
    (folder / SIGNATURE_FILE).write_text(json.dumps(bundle))


def test_signed_artefact_verifies_and_only_the_signature_was_added(
    signed: Path, keys: KeyPair, tmp_path: Path
) -> None:
    digest = hashlib.sha256(keys.public.read_bytes()).hexdigest()
    assert verify(signed, keys.public) == Signature("key", digest)
    files = {file.name: file.read_bytes() for file in signed.iterdir()}
    sign(load_artifact(signed), make_keys(tmp_path, "other").private)
    changed = {file.name for file in signed.iterdir() if file.read_bytes() != files.get(file.name)}
    assert changed == {SIGNATURE_FILE}


def test_certificate_is_verified_up_to_a_trusted_root(signed: Path, tmp_path: Path) -> None:
    chain, other = make_chain(tmp_path / "chain"), make_chain(tmp_path / "other")
    sign(
        load_artifact(signed),
        chain.private,
        certificate=chain.certificate,
        chain=[chain.intermediate],
    )
    signature = verify(signed, chain.root)
    assert (signature.method, len(signature.key)) == ("certificate", 64)
    with pytest.raises(SignatureError, match=r"does not verify \(certificate signature failure\)"):
        verify(signed, other.root)
    with pytest.raises(SignatureError, match="no certificate is trusted"):
        verify(signed, make_keys(tmp_path).public)
    flip(signed / "README.md", 0)
    with pytest.raises(SignatureError, match=r"README\.md is not what was signed"):
        verify(signed, chain.root)


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")  # the library's log
def test_certificate_that_may_not_sign_is_refused(signed: Path, tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "chain", may_sign=False)
    sign(
        load_artifact(signed),
        chain.private,
        certificate=chain.certificate,
        chain=[chain.intermediate],
    )
    with pytest.raises(SignatureError, match="cannot be used for signing"):
        verify(signed, chain.root)


@pytest.mark.parametrize(
    ("file", "at", "sentence"),
    [
        ("model.onnx", 100, r"model\.onnx has SHA-256 .* its manifest says"),
        ("golden.npz", 100, r"golden\.npz has SHA-256"),
        ("README.md", 0, r"does not verify \(README\.md is not what was signed\)"),
    ],
)
def test_flipped_byte_of_a_file_is_refused(
    signed: Path, keys: KeyPair, file: str, at: int, sentence: str
) -> None:
    flip(signed / file, at)
    with pytest.raises(ArtifactError, match=sentence):
        verify(signed, keys.public)


def test_changed_manifest_is_refused_though_its_own_digests_are_right(
    signed: Path, keys: KeyPair
) -> None:
    text = (signed / "manifest.json").read_text()
    (signed / "manifest.json").write_text(text.replace('"accuracy": 1.0', '"accuracy": 0.9', 1))
    with pytest.raises(
        SignatureError, match=r"manifest\.json is not the one that model\.sig was made for"
    ):
        verify(signed, keys.public)


def test_manifest_that_was_loaded_is_the_one_that_is_verified(signed: Path, keys: KeyPair) -> None:
    """The folder may change between: what counts is what was loaded."""
    file = signed / "manifest.json"
    text = file.read_text()
    file.write_text(text.replace('"accuracy": 1.0', '"accuracy": 0.9', 1))
    artifact = load_artifact(signed)
    file.write_text(text)
    with pytest.raises(SignatureError, match=r"manifest\.json is not the one"):
        verify_signature(artifact, keys.public)


def test_flipped_byte_anywhere_in_the_signature_is_refused(signed: Path, keys: KeyPair) -> None:
    content = (signed / SIGNATURE_FILE).read_bytes()
    for at in range(0, len(content), 97):
        flip(signed / SIGNATURE_FILE, at)
        with pytest.raises(SignatureError, match=r"model\.sig"):
            verify(signed, keys.public)
        (signed / SIGNATURE_FILE).write_bytes(content)
    verify(signed, keys.public)


def test_forged_statement_is_refused(signed: Path, keys: KeyPair) -> None:
    """Whoever changes the manifest can write its digest into the statement, but not sign that."""
    before = load_artifact(signed).digest
    text = (signed / "manifest.json").read_text()
    (signed / "manifest.json").write_text(text.replace('"accuracy": 1.0', '"accuracy": 0.9', 1))

    def forge(bundle: dict[str, dict[str, object]]) -> None:
        payload = base64.b64decode(str(bundle["dsseEnvelope"]["payload"]))
        payload = payload.replace(before.encode(), load_artifact(signed).digest.encode())
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()

    edit_bundle(signed, forge)
    with pytest.raises(SignatureError, match="is not that of its key"):
        verify(signed, keys.public)


@pytest.mark.parametrize("trailing", ["payload", "dsse_envelope"])
def test_second_reading_of_a_bundle_is_refused(signed: Path, keys: KeyPair, trailing: str) -> None:
    """The library reads more spellings: what it verifies must be what was checked."""

    def change(bundle: dict[str, dict[str, object]]) -> None:
        if trailing == "payload":
            bundle["dsseEnvelope"]["payload"] = f"{bundle['dsseEnvelope']['payload']}\n"
        else:
            bundle["dsse_envelope"] = bundle["dsseEnvelope"]

    edit_bundle(signed, change)
    with pytest.raises(SignatureError, match="is not a signature"):
        verify(signed, keys.public)


def test_unsigned_version_and_another_key_are_refused(
    signed: Path, keys: KeyPair, tmp_path: Path
) -> None:
    with pytest.raises(SignatureError, match=r"made with the key [0-9a-f]{16}, which is not trust"):
        verify(signed, make_keys(tmp_path, "other").public)
    (signed / SIGNATURE_FILE).unlink()
    with pytest.raises(SignatureError, match=r"is not signed \(model\.sig is missing\)"):
        verify(signed, keys.public)


@pytest.mark.parametrize("name", ["more.bin", ".gitignore", "sub/more.bin"])
def test_added_file_is_refused(signed: Path, keys: KeyPair, name: str) -> None:
    (signed / name).parent.mkdir(exist_ok=True)
    (signed / name).write_text("more")
    with pytest.raises(SignatureError, match=r"is not signed by model\.sig: remove it"):
        verify(signed, keys.public)


def test_name_of_an_added_file_can_be_logged_if_it_is_not_utf_8(
    signed: Path, keys: KeyPair
) -> None:
    (signed / os.fsdecode(b"\xff.bin")).write_text("more")
    with pytest.raises(SignatureError, match=r"\\xff\.bin is not signed by") as refused:
        verify(signed, keys.public)
    assert str(refused.value).encode()


def test_file_that_a_manifest_lists_must_be_signed(signed: Path, keys: KeyPair) -> None:
    other = signed.parent / "2"
    shutil.copytree(signed, other)
    (other / "golden.npz").unlink()
    artifact = load_artifact(signed)
    sign(Artifact(other, artifact.manifest, artifact.digest), keys.private)
    shutil.copy(other / SIGNATURE_FILE, signed / SIGNATURE_FILE)
    with pytest.raises(SignatureError, match=r"golden\.npz is not signed"):
        verify(signed, keys.public)


def test_every_file_is_signed_though_git_would_ignore_it(signed: Path, keys: KeyPair) -> None:
    (signed / ".gitignore").write_text("*")
    sign_folder(signed, keys.private)
    assert verify(signed, keys.public).method == "key"
    flip(signed / ".gitignore", 0)
    with pytest.raises(SignatureError, match=r"\.gitignore is not what was signed"):
        verify(signed, keys.public)


def test_removed_file_is_refused(signed: Path, keys: KeyPair) -> None:
    (signed / "README.md").unlink()
    with pytest.raises(SignatureError, match=r"Missing files .*README\.md"):
        verify(signed, keys.public)


def test_links_are_neither_signed_nor_followed(signed: Path, keys: KeyPair, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("A card.")
    (signed / "README.md").unlink()
    (signed / "README.md").symlink_to(tmp_path / "card.md")
    with pytest.raises(SignatureError, match=r"README\.md is a link"):
        verify(signed, keys.public)
    with pytest.raises(PipelineError, match="symlink"):
        sign(load_artifact(signed), keys.private)


def test_folder_that_is_reached_through_a_link_verifies(
    signed: Path, keys: KeyPair, tmp_path: Path
) -> None:
    """Volumes of Kubernetes and git-sync switch versions by a link."""
    (tmp_path / "current").symlink_to(tmp_path / "colours" / "1")
    artifact = load_artifact(tmp_path / "current", in_place=False)
    assert verify_signature(artifact, keys.public).method == "key"


def spoil(file: Path, kind: str) -> None:
    if kind == "huge":
        os.truncate(file, 1 << 34)
        return
    file.unlink()
    if kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a folder":
        file.mkdir()
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        contents = {"empty": b"", "deep": b"[" * 900_000, "binary": b"\xff", "wrong": b'{"a": 1}'}
        file.write_bytes(contents[kind])


@pytest.mark.parametrize(
    "kind", ["empty", "deep", "binary", "wrong", "huge", "a pipe", "a folder", "endless"]
)
def test_malformed_signature_is_refused_quickly(signed: Path, keys: KeyPair, kind: str) -> None:
    spoil(signed / SIGNATURE_FILE, kind)
    artifact, started = load_artifact(signed), time.perf_counter()
    with pytest.raises(SignatureError, match=r"model\.sig is not a"):
        verify_signature(artifact, keys.public)
    assert time.perf_counter() - started < 2


def test_huge_file_beside_those_of_the_manifest_is_not_hashed(signed: Path, keys: KeyPair) -> None:
    os.truncate(signed / "README.md", 1 << 40)
    started = time.perf_counter()
    with pytest.raises(SignatureError, match="at most 64,000,000 are verified"):
        verify(signed, keys.public)
    assert time.perf_counter() - started < 5


def test_full_disk_is_a_sentence(
    signed: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(SignatureError, match=r"cannot be verified .*No such file"):
        verify(signed, keys.public)


def test_folder_of_trusted_keys_may_hold_keys_and_certificates(
    signed: Path, keys: KeyPair, tmp_path: Path
) -> None:
    chain = make_chain(tmp_path / "chain")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    for number, file in enumerate((keys.public, chain.root, make_keys(tmp_path, "other").public)):
        shutil.copy(file, trusted / f"{number}.pem")
    (trusted / ".DS_Store").write_text("no key")
    found = read_trusted_keys(trusted)
    assert (len(found.keys), found.certificates) == (2, [trusted / "1.pem"])
    assert verify(signed, trusted).method == "key"


def test_what_is_no_trusted_key_is_named(signed: Path, keys: KeyPair, tmp_path: Path) -> None:
    empty, two = tmp_path / "empty", tmp_path / "two.pem"
    empty.mkdir()
    two.write_bytes(keys.public.read_bytes() * 2)
    for path, sentence in {
        keys.private: "one public key, or certificates, are expected",
        two: "one public key, or certificates, are expected",
        empty: "has 0 files",
        tmp_path / "nowhere": "No such file",
        Path("/dev/zero"): "is not a file",
    }.items():
        with pytest.raises(TrustedKeysError, match=sentence):
            read_trusted_keys(path)
        with pytest.raises(SignatureError, match=sentence):
            verify(signed, path)
