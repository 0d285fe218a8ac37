"""Keys of each kind that may sign definitions, and envelopes made without the code under test."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PAYLOAD_TYPE = "application/vnd.orchestrator.dag+json"
Private = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class DagSigner:
    """A key pair and how it signs."""

    private: Private
    sign: Callable[[bytes], bytes]

    def envelope(self, payload: bytes, *, keyid: str = "k1", kind: str = PAYLOAD_TYPE) -> dict[str, object]:
        """Sign by the letter of the DSSE protocol, version 1."""
        head = f"DSSEv1 {len(kind.encode())} {kind} {len(payload)} ".encode()
        sig = self.sign(head + payload)
        return {
            "payloadType": kind,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": keyid, "sig": base64.b64encode(sig).decode()}],
        }

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def private_pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def save_public(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.public_pem())


def ed25519() -> DagSigner:
    key = Ed25519PrivateKey.generate()
    return DagSigner(key, key.sign)


def p256() -> DagSigner:
    key = ec.generate_private_key(ec.SECP256R1())
    return DagSigner(key, lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())))


def rsa_pss(bits: int = 2_048) -> DagSigner:
    key = rsa.generate_private_key(65_537, bits)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    return DagSigner(key, lambda data: key.sign(data, pss, hashes.SHA256()))


def rsa_pkcs1() -> DagSigner:
    key = rsa.generate_private_key(65_537, 2_048)
    return DagSigner(key, lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256()))


KINDS: Mapping[str, Callable[[], DagSigner]] = {
    "Ed25519": ed25519,
    "ECDSA on P-256": p256,
    "RSA-PSS": rsa_pss,
    "RSA PKCS#1 v1.5": rsa_pkcs1,
}
