"""Tokens that must not be taken, each for one reason, and tokens that hold but allow too little."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping

import jwt
from cryptography.hazmat.primitives import serialization

from tests.support.tokens import Signer, ec_signer, ed_signer, rsa_signer

EC, ED, RSA = ec_signer(), ed_signer(), rsa_signer()
"""The installation's keys."""
STRANGER = ec_signer("ec")

GOOD: Mapping[str, object] = {
    "sub": "ci",
    "iss": "test",
    "aud": "orchestrator",
    "exp": 4_000_000_000,
    "tenant": "acme",
    "scope": "orchestrator:read",
}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def segment(value: object) -> str:
    return encoded(json.dumps(value).encode())


def signed_bytes(header: bytes, claims: bytes, signer: Signer = EC) -> str:
    """Sign what no library would write: duplicate names, bare words, other encodings."""
    signing_input = f"{encoded(header)}.{encoded(claims)}"
    algorithm = jwt.get_algorithm_by_name(signer.algorithm)
    return f"{signing_input}.{encoded(algorithm.sign(signing_input.encode(), signer.key))}"


def signed_claims(text: str) -> str:
    return signed_bytes(b'{"alg":"ES256","kid":"ec"}', text.encode("utf-8", "surrogatepass"))


def with_claim(name: str, literal: str) -> str:
    """Sign good claims but for one that is written as it stands."""
    others = {key: value for key, value in GOOD.items() if key != name}
    return signed_claims(json.dumps(others)[:-1] + f', "{name}": {literal}}}')


def with_hmac(algorithm: str, secret: bytes) -> str:
    """Sign with what everybody knows, in the hope that it is taken for a shared secret."""
    signing_input = f"{segment({'alg': algorithm, 'kid': 'ec'})}.{segment(GOOD)}"
    digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}[algorithm]
    return f"{signing_input}.{encoded(hmac.new(secret, signing_input.encode(), digest).digest())}"


def public_bytes(encoding: serialization.Encoding) -> bytes:
    return EC.key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def parts() -> list[str]:
    return EC.token().split(".")


def respelled(token: str) -> str:
    """Change the bits that Base64 does not use: a lax decoder sees the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def soon(seconds: int) -> int:
    return int(time.time()) + seconds


REFUSED: dict[str, Callable[[], str]] = {
    # Not a token.
    "nothing": lambda: "",
    "a word": lambda: "abc",
    "two parts": lambda: ".".join(parts()[:2]),
    "four parts": lambda: EC.token() + ".x",
    "five parts, as an encrypted token has": lambda: EC.token() + ".x.y",
    "empty parts": lambda: "..",
    "no base64": lambda: "a.b.c",
    "padded base64": lambda: EC.token() + "==",
    "base64 of the other alphabet": lambda: EC.token().replace("-", "+").replace("_", "/") + "+",
    "white space within": lambda: EC.token().replace(".", ". ", 1),
    "too large": lambda: EC.token({"note": "x" * 9_000}),
    "header nested deep": lambda: encoded(b"[" * 3_000) + ".e30.e30",
    "header that is a list": lambda: signed_bytes(b"[]", json.dumps(GOOD).encode()),
    "header in UTF-16": lambda: signed_bytes('{"alg":"ES256"}'.encode("utf-16"), json.dumps(GOOD).encode()),
    "claims that are a list": lambda: signed_claims("[]"),
    "claims that are no JSON": lambda: signed_claims("{"),
    "claims nested deep": lambda: signed_claims('{"a":' + "[" * 2_000 + "]" * 2_000 + "}"),
    # Signatures.
    "unsigned": lambda: f"{segment({'alg': 'none', 'kid': 'ec'})}.{segment(GOOD)}.",
    "unsigned in capitals": lambda: f"{segment({'alg': 'NONE', 'kid': 'ec'})}.{segment(GOOD)}.AA",
    "signature left out": lambda: ".".join(parts()[:2]) + ".",
    "signature of zeros": lambda: ".".join([*parts()[:2], encoded(bytes(64))]),
    "signature cut short": lambda: EC.token()[:-10],
    "respelled signature": lambda: respelled(EC.token()),
    "claims changed": lambda: ".".join([parts()[0], segment({**GOOD, "tenant": "globex"}), parts()[2]]),
    "signed by a stranger": STRANGER.token,
    "signed with another of our keys": lambda: EC.token(header={"kid": "ed"}),
    "HMAC with the public key as PEM": lambda: with_hmac("HS256", public_bytes(serialization.Encoding.PEM)),
    "HMAC with the public key as DER": lambda: with_hmac("HS256", public_bytes(serialization.Encoding.DER)),
    "HMAC with the public key as JWK": lambda: with_hmac("HS512", json.dumps(EC.public_jwk()).encode()),
    "HMAC with nothing": lambda: with_hmac("HS256", b""),
    "algorithm of another key": lambda: signed_bytes(
        b'{"alg":"RS256","kid":"ec"}', json.dumps(GOOD).encode(), RSA
    ),
    "algorithm in small letters": lambda: signed_bytes(
        b'{"alg":"es256","kid":"ec"}', json.dumps(GOOD).encode()
    ),
    "algorithm that is a list": lambda: signed_bytes(
        b'{"alg":["ES256"],"kid":"ec"}', json.dumps(GOOD).encode()
    ),
    "no algorithm": lambda: signed_bytes(b'{"kid":"ec"}', json.dumps(GOOD).encode()),
    "RSA with padding of another kind": lambda: jwt.encode(
        dict(GOOD), RSA.key, algorithm="PS256", headers={"kid": "rsa"}
    ),
    # Keys.
    "kid that is a path": lambda: EC.token(header={"kid": "../../etc/passwd"}),
    "kid that is an address": lambda: EC.token(header={"kid": "http://127.0.0.1/jwks"}),
    "kid of nobody": lambda: EC.token(header={"kid": "EC"}),
    "kid that is a list": lambda: signed_bytes(b'{"alg":"ES256","kid":["ec"]}', json.dumps(GOOD).encode()),
    "no kid among several keys": lambda: jwt.encode(dict(GOOD), EC.key, algorithm="ES256"),
    "its own key in jwk": lambda: STRANGER.token(header={"jwk": STRANGER.public_jwk()}),
    "its own key behind jku": lambda: STRANGER.token(header={"jku": "http://127.0.0.1:1/jwks"}),
    "its own key behind x5u": lambda: STRANGER.token(header={"x5u": "http://127.0.0.1:1/cert"}),
    "unknown critical extension": lambda: EC.token(header={"crit": ["x"], "x": 1}),
    "payload that is not encoded": lambda: EC.token(header={"crit": ["b64"], "b64": False}),
    "kid twice": lambda: signed_bytes(b'{"alg":"ES256","kid":"ed","kid":"ec"}', json.dumps(GOOD).encode()),
    # Who.
    "no sub": lambda: EC.token({"sub": None}),
    "empty sub": lambda: EC.token({"sub": ""}),
    "long sub": lambda: EC.token({"sub": "x" * 256}),
    "number as sub": lambda: with_claim("sub", "7"),
    "sub with a NUL": lambda: EC.token({"sub": "a\x00"}),
    "sub with half a pair": lambda: with_claim("sub", '"a\\ud800"'),
    # When.
    "no exp": lambda: EC.token({"exp": None}),
    "null as exp": lambda: with_claim("exp", "null"),
    "text as exp": lambda: EC.token({"exp": str(soon(60))}),
    "truth as exp": lambda: EC.token({"exp": True}),
    "list as exp": lambda: with_claim("exp", "[4000000000]"),
    "exp that is no number": lambda: with_claim("exp", "NaN"),
    "exp without an end": lambda: with_claim("exp", "Infinity"),
    "exp that overflows": lambda: with_claim("exp", "1e400"),
    "exp beyond all years": lambda: with_claim("exp", "1e30"),
    "negative exp": lambda: EC.token({"exp": -1}),
    "expired a second ago": lambda: EC.token({"exp": soon(-1)}),
    "expired for longer than the skew": lambda: EC.token({"exp": soon(-31)}),
    "not yet": lambda: EC.token({"nbf": soon(300)}),
    "text as nbf": lambda: with_claim("nbf", '"0"'),
    "truth as nbf": lambda: with_claim("nbf", "true"),
    "issued in the future": lambda: EC.token({"iat": soon(300)}),
    "infinite iat": lambda: with_claim("iat", "Infinity"),
    "text as iat": lambda: with_claim("iat", '"0"'),
    # For whom and by whom.
    "no aud": lambda: EC.token({"aud": None}),
    "another aud": lambda: EC.token({"aud": "orchestrator2"}),
    "aud without ours": lambda: EC.token({"aud": ["billing", "orchestrator2"]}),
    "empty aud": lambda: EC.token({"aud": []}),
    "aud with a number": lambda: EC.token({"aud": ["orchestrator", 1]}),
    "aud that is an object": lambda: with_claim("aud", '{"orchestrator": 1}'),
    "no iss": lambda: EC.token({"iss": None}),
    "another iss": lambda: EC.token({"iss": "tester"}),
    "part of the iss": lambda: EC.token({"iss": "tes"}),
    "iss that is a list": lambda: with_claim("iss", '["test"]'),
    # For what.
    "scope as a list": lambda: EC.token({"scope": ["orchestrator:read"]}),
    "null as scope": lambda: with_claim("scope", "null"),
    "tenant as a list": lambda: EC.token({"tenant": ["acme"]}),
    "tenants as a text": lambda: EC.token({"tenant": None, "tenants": "acme"}),
    "tenants with a number": lambda: EC.token({"tenant": None, "tenants": [1]}),
    "tenant *": lambda: EC.token({"tenant": "*"}),
    "* among others": lambda: EC.token({"tenant": None, "tenants": ["*", "acme"]}),
    "tenant in capitals": lambda: EC.token({"tenant": "Acme"}),
    "tenant in another script": lambda: EC.token({"tenant": "\u0430cme"}),
    "tenant with a line feed": lambda: EC.token({"tenant": "acme\n"}),
    "sub twice": lambda: signed_claims(json.dumps(GOOD)[:-1] + ', "sub": "root"}'),
    "tenant twice": lambda: signed_claims(json.dumps(GOOD)[:-1] + ', "tenant": "globex"}'),
}

FORBIDDEN: dict[str, tuple[Callable[[], str], str]] = {
    "no tenant at all": (lambda: EC.token({"tenant": None}), "TENANT_FORBIDDEN"),
    "no tenants": (lambda: EC.token({"tenant": None, "tenants": []}), "TENANT_FORBIDDEN"),
    "another tenant": (lambda: EC.token({"tenant": "globex"}), "TENANT_FORBIDDEN"),
    "a tenant that begins alike": (lambda: EC.token({"tenant": "acme-2"}), "TENANT_FORBIDDEN"),
    "no scope": (lambda: EC.token({"scope": None}), "INSUFFICIENT_SCOPE"),
    "empty scope": (lambda: EC.token({"scope": ""}), "INSUFFICIENT_SCOPE"),
    "every scope by a star": (lambda: EC.token({"scope": "orchestrator:*"}), "INSUFFICIENT_SCOPE"),
    "scope in capitals": (lambda: EC.token({"scope": "ORCHESTRATOR:READ"}), "INSUFFICIENT_SCOPE"),
    "scopes with commas": (
        lambda: EC.token({"scope": "orchestrator:read,orchestrator:write"}),
        "INSUFFICIENT_SCOPE",
    ),
    "operator without scope": (
        lambda: EC.token({"tenant": None, "tenants": ["*"], "scope": "orchestrator:write"}),
        "INSUFFICIENT_SCOPE",
    ),
}

HOLDS: dict[str, Callable[[], str]] = {
    "EC": EC.token,
    "ED": ED.token,
    "RSA": RSA.token,
    "one second left": lambda: EC.token({"exp": soon(2)}),
    "fraction of a second in exp": lambda: EC.token({"exp": soon(60) + 0.5}),
    "clock that is ahead": lambda: EC.token({"nbf": soon(25), "iat": soon(25)}),
    "aud in a list": lambda: EC.token({"aud": ["billing", "orchestrator"]}),
    "unknown claims and headers": lambda: EC.token({"x": {"y": 1}}, header={"typ": "at+jwt", "x5t": "a"}),
    "sub in any script": lambda: EC.token({"sub": "名前 <a@b>\u2028"}),
    "tenant among several": lambda: EC.token({"tenant": None, "tenants": ["globex", "acme"]}),
    "operator": lambda: EC.token({"tenant": None, "tenants": ["*"]}),
}
