"""The keys that sign and verify definitions: PEM files, the public ones in a folder of the installation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.signer import Key, SSlibKey

from shared.domain.models import TenantId

MIN_RSA_BITS = 2_048
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SUFFIX = ".pem"
_RSA_SCHEMES = ("rsassa-pss-sha256", "rsa-pkcs1v15-sha256")
"""The key does not tell which padding its owner signs with."""


class SigningKeyError(ValueError):
    """A file that should hold a key cannot be used; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class VerificationKeys:
    """Public keys by tenant and id; those of the tenant ``None`` verify for all."""

    by_owner: Mapping[tuple[TenantId | None, str], tuple[Key, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def of(self, tenant: TenantId, key_id: str) -> tuple[Key, ...]:
        """Give the key with that id which verifies for the tenant, once for each scheme of its kind."""
        return self.by_owner.get((tenant, key_id)) or self.by_owner.get((None, key_id), ())


def load_verification_keys(folder: Path) -> VerificationKeys:
    """Read ``<key id>.pem``, for all tenants, and ``<tenant>/<key id>.pem``, for one.

    Names that begin with a dot are passed over, and files of another suffix. Raises
    SigningKeyError at a key that cannot be used, at one that is for all tenants and for
    one of them, too, and when there is none at all.
    """
    keys: dict[tuple[TenantId | None, str], tuple[Key, ...]] = {}
    try:
        for owner, path in _files(folder):
            if _KEY_ID.fullmatch(path.stem) is None:
                raise SigningKeyError(f"{path}: the name of a key must match {_KEY_ID.pattern}")
            keys[owner, path.stem] = _public(path)
    except OSError as error:
        raise SigningKeyError(f"{folder} cannot be read: {error}") from error
    for owner, key_id in keys:
        if owner is not None and (None, key_id) in keys:
            raise SigningKeyError(f"{folder}: {key_id} is a key of {owner}, and one for all tenants")
    if not keys:
        raise SigningKeyError(f"{folder} holds no key: put <key id>{_SUFFIX} into it")
    return VerificationKeys(MappingProxyType(keys))


def load_private_key(path: Path) -> PrivateKey:
    """Read a key to sign with; raises SigningKeyError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path} holds no private key in PEM without a pass phrase") from error
    if not isinstance(key, PrivateKey) or not _is_strong(key.public_key()):
        raise SigningKeyError(f"{path}: {_KINDS}")
    return key


_KINDS = f"a key must be Ed25519, ECDSA on P-256, or RSA of at least {MIN_RSA_BITS} bits"


def _files(folder: Path) -> Iterator[tuple[TenantId | None, Path]]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            if path.suffix == _SUFFIX:
                yield None, path
            continue
        if _TENANT.fullmatch(path.name) is None:
            raise SigningKeyError(f"{path}: a folder of keys must have the name of a tenant")
        for inner in sorted(path.iterdir()):
            if inner.suffix == _SUFFIX and not inner.name.startswith("."):
                yield TenantId(path.name), inner


def _public(path: Path) -> tuple[Key, ...]:
    content = path.read_bytes()
    if b"PRIVATE KEY" in content:
        raise SigningKeyError(f"{path} holds a private key; it must hold the public one")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path} holds no public key in PEM") from error
    if not _is_strong(key):
        raise SigningKeyError(f"{path}: {_KINDS}")
    schemes = _RSA_SCHEMES if isinstance(key, RSAPublicKey) else (None,)
    return tuple(SSlibKey.from_crypto(key, keyid=path.stem, scheme=scheme) for scheme in schemes)


def _is_strong(key: object) -> bool:
    if isinstance(key, RSAPublicKey):
        return key.key_size >= MIN_RSA_BITS
    if isinstance(key, EllipticCurvePublicKey):
        return isinstance(key.curve, SECP256R1)
    return isinstance(key, Ed25519PublicKey)
