"""Keys, certificates and signed artefacts for tests."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from limelight.artifact.store import load_artifact
from pipeline.exporting.signing import sign

# The days of a chain's certificates: long ago, since a signature outlives them.
FROM, TO = datetime.datetime(2020, 1, 1), datetime.datetime(2020, 3, 1)


@dataclass(frozen=True)
class KeyPair:
    private: Path
    public: Path


def make_keys(folder: Path, name: str = "key") -> KeyPair:
    """Write a private key and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.pub")
    folder.mkdir(parents=True, exist_ok=True)
    pair.private.write_bytes(_private(key))
    pair.public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return pair


@dataclass(frozen=True)
class Chain:
    private: Path
    certificate: Path
    intermediate: Path
    root: Path


def make_chain(folder: Path, *, may_sign: bool = True) -> Chain:
    """Write a root, a certificate authority below it, and a certificate that signs models."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "middle", "leaf")}
    found = {
        "root": _certificate("root", "root", keys, ca=True),
        "middle": _certificate("middle", "root", keys, ca=True),
        "leaf": _certificate("leaf", "middle", keys, ca=False, may_sign=may_sign),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, certificate in found.items():
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "leaf.pem").write_bytes(_private(keys["leaf"]))
    names = ("leaf.pem", "leaf.crt", "middle.crt", "root.crt")
    return Chain(*(folder / name for name in names))


def sign_folder(folder: Path, private: Path) -> Path:
    """Sign the artefact in `folder`, and return the folder."""
    sign(load_artifact(folder, in_place=False), private)
    return folder


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certificate(
    subject: str,
    issuer: str,
    keys: dict[str, ec.EllipticCurvePrivateKey],
    *,
    ca: bool,
    may_sign: bool = True,
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=may_sign and not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not may_sign,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(keys[subject].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(FROM)
        .not_valid_after(TO)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(keys[issuer], hashes.SHA256())
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
