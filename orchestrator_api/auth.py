"""Who calls, for which tenant, and whether they may: tokens, scopes, the tenant header."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeGuard

import jwt

from orchestrator_api.token_text import has_one_reading
from shared.domain.models import TenantId
from shared.errors import (
    InsufficientScope,
    InvalidArgument,
    OperatorOnly,
    Problem,
    TenantForbidden,
    TenantRequired,
    Unauthenticated,
)

AUDIENCE: Final = "orchestrator"
TENANT_HEADER: Final = "X-Stella-Tenant"
ALL_TENANTS: Final = "*"
ALGORITHMS: Final = frozenset({"ES256", "EdDSA", "RS256"})
CLOCK_SKEW_SECONDS: Final = 30
"""How far the issuer's clock may be ahead of ours. Nothing is added to the end of a token."""
_MAX_TOKEN_CHARS = 8_192
_MAX_SUBJECT_CHARS = 255
_MIN_RSA_BITS = 2_048
_REMEMBERED_TOKENS = 1_024

_BEARER = re.compile(r"bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)", re.IGNORECASE)
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
_LAST_TIME = 253_402_300_799
"""The end of the year 9999: what lies behind is no time."""
TENANT_PATTERN: Final = "[a-z0-9][a-z0-9-]{0,62}"
_TENANT = re.compile(TENANT_PATTERN)


class Scope(StrEnum):
    """What a token allows. Flat: none implies another."""

    READ = "orchestrator:read"
    WRITE = "orchestrator:write"
    ADMIN = "orchestrator:admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may call a route.

    ``public``: also without a token, and the handler then tells less.
    ``all_tenants``: an operator may send ``*`` in place of a tenant.
    ``operator``: nobody else may call it, for whichever tenant.
    ``tenant_optional``: a caller who names no tenant means the one of the token; an operator means all.
    """

    scope: Scope
    public: bool = False
    all_tenants: bool = False
    operator: bool = False
    tenant_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """What a verified token says. An operator may act for every tenant."""

    subject: str
    tenants: frozenset[TenantId]
    operator: bool
    scopes: frozenset[str]
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a request, and for which tenant; ``None`` is all of them."""

    subject: str
    tenant: TenantId | None


class KeyFileError(ValueError):
    """The JWKS file cannot be used; the process must not start."""


class TokenVerifier:
    """Verifies bearer tokens against the public keys of one local file.

    A token that held is remembered until it expires, since a signature check costs
    more than everything else that the API does with a small request.
    """

    def __init__(
        self,
        keys: Mapping[str, jwt.PyJWK],
        *,
        issuer: str | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = dict(keys)
        self._issuer = issuer
        self._now = now
        self._principal_of = lru_cache(maxsize=_REMEMBERED_TOKENS)(self._verify)

    def principal(self, authorization: str) -> Principal:
        """Read the ``Authorization`` header; raise Unauthenticated unless its token holds now."""
        match = _BEARER.fullmatch(authorization.strip()) if len(authorization) <= _MAX_TOKEN_CHARS else None
        if match is None:
            raise Unauthenticated("send Authorization: Bearer <JWT>")
        principal = self._principal_of(match.group(1))
        if principal.expires_at <= self._now():
            raise Unauthenticated("the token has expired")
        return principal

    def _verify(self, token: str) -> Principal:
        """Check signature and claims, once for each token; ``principal`` checks the expiry each time."""
        if not has_one_reading(token):
            raise Unauthenticated("the token does not hold")
        try:
            key = self._key_for(jwt.get_unverified_header(token))
            claims: Mapping[str, object] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": ["sub", "iss", "aud", "exp"], "verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # PyJWT lets some malformed claims out as plain Python errors (an infinite iat, for one).
            raise Unauthenticated("the token does not hold") from error
        return _principal(claims)

    def _key_for(self, header: Mapping[str, object]) -> jwt.PyJWK:
        """Pick the key that the token names; jku, x5u and jwk in its header are never looked at."""
        kid = header.get("kid")
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if not isinstance(kid, str) or kid not in self._keys:
            raise Unauthenticated("the token is signed with a key that this installation does not know")
        return self._keys[kid]


def _principal(claims: Mapping[str, object]) -> Principal:
    """Read the claims of a token whose signature held, strictly: a token of odd types is no token."""
    subject, expires_at, scope = claims["sub"], claims["exp"], claims.get("scope", "")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT_CHARS:
        raise Unauthenticated("the claim sub must be a short text")
    if _UNWRITABLE.search(subject):
        raise Unauthenticated("the claim sub holds what no text may hold")
    if not _is_time(expires_at):
        raise Unauthenticated("the claim exp must be a time")
    if not all(_is_time(claims[name]) for name in ("nbf", "iat") if name in claims):
        raise Unauthenticated("the claims nbf and iat must be times")
    if not isinstance(claims["iss"], str) or not isinstance(scope, str):
        raise Unauthenticated("the claims iss and scope must be texts")
    tenant, tenants = claims.get("tenant"), claims.get("tenants", [])
    if not isinstance(tenants, list) or not isinstance(tenant, str | None):
        raise Unauthenticated("the claim tenant must be a text, the claim tenants a list")
    operator = tenants == [ALL_TENANTS]
    names = ([] if operator else tenants) + ([] if tenant is None else [tenant])
    if not all(isinstance(name, str) and _TENANT.fullmatch(name) for name in names):
        raise Unauthenticated("the token names a tenant that cannot exist")
    return Principal(
        subject=subject,
        tenants=frozenset(TenantId(name) for name in names),
        operator=operator,
        scopes=frozenset(scope.split()),
        expires_at=expires_at,
    )


def _is_time(value: object) -> TypeGuard[float]:
    """Tell whether a claim is a time. NaN is none: it is never in the past, and so would never expire."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and -_LAST_TIME <= value <= _LAST_TIME
    )


def authorize(principal: Principal, tenant_header: str | None, access: Access) -> Caller:
    """Decide whether ``principal`` may use a route for the tenant in the header.

    Raises TenantRequired, InvalidArgument, TenantForbidden, InsufficientScope or OperatorOnly, in this order.
    """
    if tenant_header is None and access.tenant_optional:
        tenant_header = _implied_tenant(principal)
    if tenant_header is None:
        raise TenantRequired(f"name the tenant in the header {TENANT_HEADER}")
    every = tenant_header == ALL_TENANTS and access.all_tenants
    if not every and _TENANT.fullmatch(tenant_header) is None:
        message = "must match ^[a-z0-9][a-z0-9-]{0,62}$"
        raise InvalidArgument(f"{TENANT_HEADER} {message}", [Problem(TENANT_HEADER, message)])
    if not principal.operator and (every or TenantId(tenant_header) not in principal.tenants):
        raise TenantForbidden("the token does not hold this tenant")
    if access.scope not in principal.scopes:
        raise InsufficientScope(access.scope)
    if access.operator and not principal.operator:
        raise OperatorOnly("this call needs an operator's token")
    return Caller(subject=principal.subject, tenant=None if every else TenantId(tenant_header))


def bucket(principal: Principal, tenant_header: str | None) -> str:
    """Name whose rate limit a request counts towards: the tenant that it may act for, else one of its own."""
    if tenant_header is not None and _TENANT.fullmatch(tenant_header):
        tenant = TenantId(tenant_header)
        if principal.operator or tenant in principal.tenants:
            return tenant
    return min(principal.tenants, default=ALL_TENANTS)


def _implied_tenant(principal: Principal) -> str | None:
    """Say what a caller means who names no tenant; ``None`` where that is not clear."""
    if principal.operator:
        return ALL_TENANTS
    return next(iter(principal.tenants)) if len(principal.tenants) == 1 else None


def load_keys(path: Path) -> dict[str, jwt.PyJWK]:
    """Read the verification keys of a JWKS file, by ``kid``.

    Keys of other kinds (encryption, HMAC, other curves) are passed over, as RFC 7517
    section 5 asks. A private key is refused: the file is for readers.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        listed = document["keys"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path} is not a readable JWKS file") from error
    keys: dict[str, jwt.PyJWK] = {}
    for jwk in listed if isinstance(listed, list) else []:
        key = _verification_key(jwk, path)
        if key is not None:
            if (kid := key.key_id or "") in keys:
                raise KeyFileError(f"{path} holds two keys with the kid {kid!r}")
            keys[kid] = key
    if not keys:
        raise KeyFileError(f"{path} holds no key for {', '.join(sorted(ALGORITHMS))}")
    return keys


def _verification_key(jwk: object, path: Path) -> jwt.PyJWK | None:
    """Turn a member of a JWKS into a key, or into nothing when it is not for our algorithms."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or jwk.get("kty") == "oct":
        return None
    if "d" in jwk:
        raise KeyFileError(f"{path} holds a private key; it must hold public keys only")
    try:
        key = jwt.PyJWK(jwk)
    except jwt.PyJWTError:
        return None
    if key.algorithm_name not in ALGORITHMS:
        return None
    if key.algorithm_name == "RS256" and key.key.key_size < _MIN_RSA_BITS:
        raise KeyFileError(f"{path} holds an RSA key of less than {_MIN_RSA_BITS} bits")
    return key
