"""Signatures of DAG definitions: DSSE envelopes over their canonical JSON.

What is signed (the PAE of DSSE) and how each kind of key verifies are securesystemslib's.
What a signature must be of, whose key may verify it, and what is told when it does not
hold are decided here.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Key, Signature

from shared.domain.findings import Findings
from shared.domain.hashing import hash_bytes
from shared.domain.models import DagSpec, JsonObject, TenantId
from shared.errors import Problem, SignatureInvalid, SignatureRequired
from shared.signing_keys import PrivateKey, VerificationKeys

PAYLOAD_TYPE = "application/vnd.orchestrator.dag+json"
_URL_SAFE = str.maketrans("-_", "+/")
_MAX_QUOTED = 128


class SignaturePolicy(StrEnum):
    """What an installation wants of the signature of a definition that is published."""

    OFF = "off"
    """Kept as it is."""
    VERIFY = "verify"
    """It must hold, if there is one."""
    REQUIRE = "require"
    """There must be one, and it must hold."""


@dataclass(frozen=True, slots=True)
class Signatures:
    """The policy of an installation, and the keys that verify."""

    policy: SignaturePolicy = SignaturePolicy.OFF
    keys: VerificationKeys = field(default_factory=VerificationKeys)

    def check(self, tenant: TenantId, document: JsonObject, findings: Findings) -> bytes | None:
        """Note what is wrong with the ``signature`` of ``document``; give the bytes that it signs.

        ``None`` when there is nothing to compare with the definition. Of what is misshapen
        (``null``) nothing more is told.
        """
        if self.policy is SignaturePolicy.OFF:
            return None
        if "signature" not in document:
            if self.policy is SignaturePolicy.REQUIRE:
                findings.add(
                    "signature", "must be given: only signed definitions are taken", SignatureRequired
                )
            return None
        envelope = cast("JsonObject", document["signature"] or {})
        payload, kind = envelope.get("payload"), envelope.get("payloadType")
        signatures = cast("Sequence[JsonObject | None]", envelope.get("signatures") or ())
        if payload is None or kind is None or not all(each and each.get("sig") for each in signatures):
            return None
        if kind != PAYLOAD_TYPE:
            findings.add("signature.payloadType", f"must be {PAYLOAD_TYPE}", SignatureInvalid)
        signed = _decoded(cast(str, payload))
        if signed is None:
            findings.add("signature.payload", "must be Base64", SignatureInvalid)
            return None
        pae = Envelope(signed, cast(str, kind), {}).pae()
        self._verify(tenant, pae, cast("Sequence[JsonObject]", signatures), findings)
        return signed

    def _verify(
        self, tenant: TenantId, pae: bytes, signatures: Sequence[JsonObject], findings: Findings
    ) -> None:
        """Hold each signature by a known key against it. One at least must be by a known key.

        Others are passed over: a definition may be signed for several installations.
        """
        known = 0
        unknown: list[Problem] = []
        for i, each in enumerate(signatures):
            place, key_id = f"signature.signatures[{i}]", cast("str | None", each.get("keyid"))
            keys = self.keys.of(tenant, key_id or "")
            known += bool(keys)
            sig = _decoded(cast(str, each["sig"]))
            if sig is None:
                findings.add(f"{place}.sig", "must be Base64", SignatureInvalid)
            elif key_id is None:
                unknown.append(Problem(f"{place}.keyid", "must name the key"))
            elif not keys:
                unknown.append(Problem(f"{place}.keyid", f"there is no key {key_id[:_MAX_QUOTED]!r}"))
            elif not any(_holds(key, sig, pae) for key in keys):
                findings.add(f"{place}.sig", "does not hold for this payload and key", SignatureInvalid)
        if not known:
            for problem in unknown:
                findings.add(problem.field, problem.message, SignatureInvalid)


def match(signed: bytes | None, spec: DagSpec) -> None:
    """Raise SignatureInvalid if what was signed is not ``spec``, byte for byte."""
    if signed is None or signed == spec.canonical.encode():
        return
    message = (
        f"must be the canonical JSON of this definition: its SHA-256 is {hash_bytes(signed)}, "
        f"that of the definition is {spec.spec_hash}"
    )
    raise SignatureInvalid("the signature is not of this definition", [Problem("signature.payload", message)])


def sign(spec: DagSpec, key: PrivateKey, key_id: str) -> JsonObject:
    """Make the envelope that signs ``spec``."""
    payload = spec.canonical.encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    signature = CryptoSigner(key).sign(envelope.pae())
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {"keyid": key_id, "sig": base64.b64encode(bytes.fromhex(signature.signature)).decode()}
        ],
    }


def _holds(key: Key, sig: bytes, pae: bytes) -> bool:
    try:
        key.verify_signature(Signature(key.keyid, sig.hex()), pae)
    except UnverifiedSignatureError:
        return False
    return True


def _decoded(text: str) -> bytes | None:
    """Decode Base64, of either alphabet, as DSSE wants it; ``None`` if it is something else."""
    try:
        return base64.b64decode(text.translate(_URL_SAFE), validate=True)
    except ValueError:
        return None
