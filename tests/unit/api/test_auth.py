from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from orchestrator_api.auth import (
    Access,
    KeyFileError,
    Principal,
    Scope,
    TokenVerifier,
    authorize,
    load_keys,
)
from shared.errors import (
    InsufficientScope,
    InvalidArgument,
    TenantForbidden,
    TenantRequired,
    Unauthenticated,
)
from tests.support.token_corpus import EC, ED, REFUSED, RSA
from tests.support.tokens import Signer, jwks, rsa_signer

READ = Access(scope=Scope.READ)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_text(jwks(EC, ED, RSA))
    return path


@pytest.fixture
def verifier(key_file: Path) -> TokenVerifier:
    return TokenVerifier(load_keys(key_file), issuer="test")


def bearer(verifier: TokenVerifier, token: str) -> Principal:
    return verifier.principal(f"Bearer {token}")


@pytest.mark.parametrize("signer", [EC, ED, RSA], ids=lambda signer: signer.algorithm)
def test_a_token_of_each_algorithm_holds(verifier: TokenVerifier, signer: Signer) -> None:
    principal = bearer(verifier, signer.token())
    assert (principal.subject, principal.tenants, principal.operator) == ("ci", frozenset({"acme"}), False)
    assert Scope.READ in principal.scopes


def test_the_audience_may_be_one_of_several(verifier: TokenVerifier) -> None:
    assert bearer(verifier, EC.token({"aud": ["billing", "orchestrator"]})).subject == "ci"


def test_the_scheme_is_read_in_any_case(verifier: TokenVerifier) -> None:
    assert verifier.principal(f"bearer {EC.token()}").subject == "ci"


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_a_token_that_does_not_hold_is_refused(verifier: TokenVerifier, make: Callable[[], str]) -> None:
    with pytest.raises(Unauthenticated):
        bearer(verifier, make())


@pytest.mark.parametrize("header", ["", "Bearer", "Basic dXNlcjpwYXNz", "Bearer a b.c.d", "Bearer ä.ö.ü"])
def test_a_header_without_a_token_is_refused(verifier: TokenVerifier, header: str) -> None:
    with pytest.raises(Unauthenticated):
        verifier.principal(header)


def test_a_remembered_token_expires(key_file: Path) -> None:
    now = time.time()
    clock = [now]
    verifier = TokenVerifier(load_keys(key_file), issuer=None, now=lambda: clock[0])
    token = EC.token({"exp": int(now) + 60})
    assert bearer(verifier, token) is bearer(verifier, token)
    clock[0] = now + 61
    with pytest.raises(Unauthenticated):
        bearer(verifier, token)


def test_without_an_issuer_setting_any_issuer_is_taken(key_file: Path) -> None:
    assert bearer(TokenVerifier(load_keys(key_file), issuer=None), EC.token({"iss": "x"})).subject == "ci"


def principal(
    *tenants: str, operator: bool = False, scopes: tuple[str, ...] = ("orchestrator:read",)
) -> Principal:
    return Principal(
        subject="ci",
        tenants=frozenset(tenants),  # type: ignore[arg-type]
        operator=operator,
        scopes=frozenset(scopes),
        expires_at=0,
    )


def test_a_caller_acts_for_the_tenant_in_the_header() -> None:
    assert authorize(principal("acme", "globex"), "globex", READ).tenant == "globex"
    assert authorize(principal(operator=True), "anyone", READ).tenant == "anyone"


def test_a_tenant_is_required_well_formed_and_held() -> None:
    with pytest.raises(TenantRequired):
        authorize(principal("acme"), None, READ)
    for malformed in ("", "Acme", "-a", "a" * 64, "acme,globex", "*", "a\n"):
        with pytest.raises(InvalidArgument):
            authorize(principal("acme"), malformed, READ)
    with pytest.raises(TenantForbidden):
        authorize(principal("acme"), "globex", READ)
    with pytest.raises(TenantForbidden):
        authorize(principal(), "acme", READ)


def test_all_tenants_are_for_operators_on_routes_that_allow_it() -> None:
    everyone = Access(scope=Scope.READ, all_tenants=True)
    assert authorize(principal(operator=True), "*", everyone).tenant is None
    with pytest.raises(TenantForbidden):
        authorize(principal("acme"), "*", everyone)
    with pytest.raises(InvalidArgument):
        authorize(principal(operator=True), "*", READ)


@pytest.mark.parametrize("needed", list(Scope))
def test_no_scope_implies_another(needed: Scope) -> None:
    others = tuple(scope for scope in Scope if scope is not needed)
    with pytest.raises(InsufficientScope) as refused:
        authorize(principal("acme", scopes=(*others, "orchestrator", "*")), "acme", Access(scope=needed))
    assert refused.value.scope == needed
    assert authorize(principal("acme", scopes=(needed,)), "acme", Access(scope=needed)).tenant == "acme"


def test_keys_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    others = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "hmac"},
        {"kty": "AKP", "alg": "ML-DSA-65", "kid": "new"},
        {**RSA.public_jwk(), "use": "enc", "kid": "enc"},
        {**RSA.public_jwk(), "alg": "PS256", "kid": "pss"},
    ]
    path.write_text(json.dumps({"keys": [*others, EC.public_jwk()]}))
    assert list(load_keys(path)) == ["ec"]


def private_jwk() -> dict[str, object]:
    assert isinstance(EC.key, ec.EllipticCurvePrivateKey)
    return {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC.key)), "kid": "ec"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": {"a": 1}}',
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "hmac"}]}),
        json.dumps({"keys": [private_jwk()]}),
        json.dumps({"keys": [EC.public_jwk(), EC.public_jwk()]}),
        json.dumps({"keys": [rsa_signer(bits=1_024).public_jwk()]}),
    ],
)
def test_a_key_file_that_cannot_serve_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(text)
    with pytest.raises(KeyFileError):
        load_keys(path)


def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        load_keys(tmp_path / "jwks.json")


def test_a_token_without_kid_holds_where_there_is_one_key(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(EC))
    claims = jwt.decode(EC.token(), options={"verify_signature": False})
    token = jwt.encode(claims, EC.key, algorithm="ES256")
    assert bearer(TokenVerifier(load_keys(path), issuer=None), token).subject == "ci"
