"""Keys and tokens for tests."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A private key with its algorithm and id."""

    key: PrivateKey
    algorithm: str
    kid: str

    def public_jwk(self) -> dict[str, object]:
        """Give the public half, as a JWKS lists it."""
        public = self.key.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey):
            text = ECAlgorithm.to_jwk(public)
        elif isinstance(public, rsa.RSAPublicKey):
            text = RSAAlgorithm.to_jwk(public)
        else:
            text = OKPAlgorithm.to_jwk(public)
        return {**json.loads(text), "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def token(
        self, claims: Mapping[str, object] | None = None, *, header: Mapping[str, object] | None = None
    ) -> str:
        """Sign a token for tenant acme with all scopes, valid for an hour, unless ``claims`` say otherwise.

        A claim of ``None`` is left out.
        """
        whole: dict[str, object] = {
            "sub": "ci",
            "iss": "test",
            "aud": "orchestrator",
            "exp": int(time.time()) + 3_600,
            "tenant": "acme",
            "scope": "orchestrator:read orchestrator:write orchestrator:admin",
            **(claims or {}),
        }
        kept = {name: claim for name, claim in whole.items() if claim is not None}
        return jwt.encode(
            kept,
            self.key,
            algorithm=self.algorithm,
            headers={"kid": self.kid, **(header or {})},
        )


def ec_signer(kid: str = "ec") -> Signer:
    """Make a signer for ES256."""
    return Signer(key=ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", kid=kid)


def ed_signer(kid: str = "ed") -> Signer:
    """Make a signer for EdDSA."""
    return Signer(key=ed25519.Ed25519PrivateKey.generate(), algorithm="EdDSA", kid=kid)


def rsa_signer(kid: str = "rsa", bits: int = 2_048) -> Signer:
    """Make a signer for RS256."""
    return Signer(
        key=rsa.generate_private_key(public_exponent=65_537, key_size=bits), algorithm="RS256", kid=kid
    )


def jwks(*signers: Signer) -> str:
    """Give the JWKS file of these signers."""
    return json.dumps({"keys": [signer.public_jwk() for signer in signers]})
