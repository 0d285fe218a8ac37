"""The keys of a data folder: made at the first start, and the tokens that they sign."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_encode

from orchestrator_cli.errors import CommandError

ALGORITHM = "EdDSA"
AUDIENCE = "orchestrator"
ISSUER = "orchestrator-local"
SECRET_BYTES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFiles:
    """Where a data folder keeps its keys."""

    folder: Path

    @property
    def signing(self) -> Path:
        """The private key, a JWK; whoever can read it can be anyone."""
        return self.folder / "signing.json"

    @property
    def jwks(self) -> Path:
        """The public key, as the web processes read it."""
        return self.folder / "jwks.json"

    @property
    def secret(self) -> Path:
        """Random bytes that key the page tokens."""
        return self.folder / "secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token is to allow, and for how long."""

    subject: str
    tenants: Sequence[str]
    operator: bool
    scopes: Sequence[str]
    ttl_s: int


def make_keys(files: KeyFiles) -> None:
    """Make the keys that are missing, readable by nobody else; those that are there stay."""
    files.folder.mkdir(mode=0o700, exist_ok=True)
    if not files.signing.exists():
        _write_private(files.signing, json.dumps(_new_jwk()).encode())
    if not files.secret.exists():
        _write_private(files.secret, secrets.token_bytes(SECRET_BYTES))
    if not files.jwks.exists():
        public = {name: value for name, value in _signing_jwk(files).items() if name != "d"}
        _write_private(files.jwks, json.dumps({"keys": [public]}).encode())


def mint(files: KeyFiles, grant: Grant) -> str:
    """Sign a token with the folder's key."""
    jwk = _signing_jwk(files)
    now = int(time.time())
    claims: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": grant.subject,
        "iat": now,
        "exp": now + grant.ttl_s,
        "jti": str(uuid.uuid4()),
        "scope": " ".join(grant.scopes),
    }
    if grant.operator:
        claims["tenants"] = ["*"]
    elif len(grant.tenants) == 1:
        claims["tenant"] = grant.tenants[0]
    else:
        claims["tenants"] = list(grant.tenants)
    return jwt.encode(claims, jwt.PyJWK(jwk).key, algorithm=ALGORITHM, headers={"kid": jwk["kid"]})


def _new_jwk() -> dict[str, str]:
    jwk: dict[str, str] = OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate(), as_dict=True)
    # RFC 7638: the key's id is the hash of its public members, in this order.
    members = json.dumps({name: jwk[name] for name in ("crv", "kty", "x")}, separators=(",", ":"))
    thumbprint = base64url_encode(hashlib.sha256(members.encode()).digest()).decode()
    return {**jwk, "kid": thumbprint, "use": "sig", "alg": ALGORITHM}


def _signing_jwk(files: KeyFiles) -> dict[str, str]:
    try:
        jwk: dict[str, str] = json.loads(files.signing.read_bytes())
    except FileNotFoundError:
        raise CommandError(
            f"{files.signing} does not exist: the first `orch up` on a folder makes it"
        ) from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{files.signing} cannot be read: {error}") from error
    return jwk


def _write_private(path: Path, content: bytes) -> None:
    """Write the whole file or none of it: a crash must not leave half a key."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
