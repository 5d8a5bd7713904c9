"""`limelight sign` and `limelight verify`."""

import shutil
from pathlib import Path

import pytest

import limelight as library
from tests.pipeline.cli.running import limelight
from tests.serving_kit import write_artifact
from tests.signing_kit import make_chain, make_keys


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_artifact(tmp_path, version="2")
    return write_artifact(tmp_path, version="10").parent


def test_round_trip_with_a_key_prints_the_digest(model: Path, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    signed = limelight("sign", str(model), "--key", str(keys.private), cwd=tmp_path)
    assert signed.returncode == 0, signed.stderr
    verified = limelight("verify", str(model), "--key", str(keys.public), cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout == signed.stdout == f"{library.load(model).digest}  {model / '10'}\n"
    assert "is signed by the key" in verified.stderr
    other = limelight("verify", str(model / "2"), "--key", str(keys.public), cwd=tmp_path)
    assert (other.returncode, "is not signed" in other.stderr) == (1, True)


def test_round_trip_with_a_certificate(model: Path, tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    options = ["--certificate", str(chain.certificate), "--chain", str(chain.intermediate)]
    signed = limelight("sign", str(model), "--key", str(chain.private), *options, cwd=tmp_path)
    assert signed.returncode == 0, signed.stderr
    verified = limelight("verify", str(model), "--chain", str(chain.root), cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    assert "is signed by the certificate" in verified.stderr


def test_mistakes_are_sentences(model: Path, tmp_path: Path) -> None:
    keys, chain = make_keys(tmp_path), make_chain(tmp_path)
    encrypted, text = tmp_path / "encrypted.pem", tmp_path / "text.pem"
    text.write_text("no key")
    shutil.copy(keys.public, encrypted)
    key = str(keys.private)
    cases = {
        ("sign", str(model), "--key", str(text)): "cannot sign",
        ("sign", str(model), "--key", str(keys.public)): "give a private key on the curve",
        ("sign", str(model), "--key", str(tmp_path / "nowhere")): "cannot sign",
        ("sign", str(tmp_path / "nowhere"), "--key", key): "manifest.json is missing",
        ("sign", str(model), "--key", key, "--certificate", key): "go together",
        ("sign", str(model), "--key", key, "--certificate", str(chain.certificate), "--chain",
         str(chain.intermediate)): "does not match",
        ("verify", str(model)): "give --key or --chain",
    }  # fmt: skip
    for command, sentence in cases.items():
        done = limelight(*command, cwd=tmp_path)
        assert (done.returncode, sentence in done.stderr) == (1, True), done.stderr
        assert "Nobody foresaw" not in done.stderr
    assert not (model / "10" / "model.sig").exists()
