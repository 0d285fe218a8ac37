"""Page sizes and page tokens. A token is the key of the last item, sealed for one tenant, list and filter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from itsdangerous import BadData, URLSafeSerializer

from shared.domain.models import TenantId
from shared.errors import InvalidPageToken

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
MAX_TOKEN_CHARS = 4_096

Key = Sequence[str | int]
"""Where in the order of a list a page ends: strings and integers only."""


class PageTokens:
    """Seals and opens page tokens with an installation's own key.

    A token is not secret but bound: the tenant, the list and the filters go into
    the HMAC, so that a token of another query does not open, whoever sends it.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def seal(self, key: Key, *, tenant: TenantId, of: str, filters: Mapping[str, str]) -> str:
        """Make the token that asks for what comes after ``key``."""
        return str(self._serializer(tenant, of, filters).dumps(list(key)))

    def open(self, token: str, *, tenant: TenantId, of: str, filters: Mapping[str, str]) -> Key:
        """Read a token that ``seal`` made for the same query; else raise InvalidPageToken."""
        if len(token) > MAX_TOKEN_CHARS:
            raise InvalidPageToken("page_token is not one of ours")
        try:
            key: Key = self._serializer(tenant, of, filters).loads(token)
        except BadData as error:
            raise InvalidPageToken("page_token was altered or belongs to another query") from error
        if self.seal(key, tenant=tenant, of=of, filters=filters) != token:
            # Base64 leaves bits of its last character unused: several spellings decode to one signature.
            raise InvalidPageToken("page_token was altered or belongs to another query")
        return key

    def _serializer(self, tenant: TenantId, of: str, filters: Mapping[str, str]) -> URLSafeSerializer:
        query = json.dumps(["page", 1, tenant, of, sorted(filters.items())])
        return URLSafeSerializer(
            self._secret,
            salt=query.encode(),
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
