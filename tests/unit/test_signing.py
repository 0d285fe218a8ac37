from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.domain.definition import build
from shared.domain.findings import Findings
from shared.domain.models import DagSpec, TenantId
from shared.errors import InvalidDag, SignatureInvalid, SignatureRequired
from shared.signing import SignaturePolicy, Signatures, match, sign
from shared.signing_keys import SigningKeyError, load_private_key, load_verification_keys
from tests.support import signing
from tests.support.signing import KINDS, DagSigner

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
DAG: dict[str, Any] = {"dagId": "d", "version": "1.0.0", "steps": [{"id": "a", "uses": "noop"}]}
Envelope = dict[str, Any]


def spec_of(**changes: object) -> DagSpec:
    return build({**DAG, **changes}, check_uses=lambda _uses, _params: [], pools={"default"})  # type: ignore[dict-item]


PAYLOAD = spec_of().canonical.encode()


@pytest.fixture(scope="module", params=list(KINDS.values()), ids=list(KINDS))
def signer(request: pytest.FixtureRequest) -> DagSigner:
    made: DagSigner = request.param()
    return made


@pytest.fixture(scope="module")
def ed25519() -> DagSigner:
    return signing.ed25519()


def verifier(folder: Path, policy: SignaturePolicy = SignaturePolicy.VERIFY) -> Signatures:
    return Signatures(policy, load_verification_keys(folder))


def check(signatures: Signatures, envelope: object, *, tenant: TenantId = ACME) -> None:
    """Do with a signature what publishing does."""
    findings = Findings()
    signed = signatures.check(tenant, {**DAG, "signature": envelope}, findings)  # type: ignore[dict-item]
    findings.raise_any()
    match(signed, spec_of())


def fields_refused(signatures: Signatures, envelope: object, *, tenant: TenantId = ACME) -> list[str]:
    with pytest.raises(SignatureInvalid) as refused:
        check(signatures, envelope, tenant=tenant)
    assert not any("BEGIN" in problem.message for problem in refused.value.problems)
    return [problem.field for problem in refused.value.problems]


def test_a_signature_of_each_kind_of_key_holds(tmp_path: Path, signer: DagSigner) -> None:
    signer.save_public(tmp_path / "k1.pem")
    check(verifier(tmp_path), signer.envelope(PAYLOAD))


def test_what_we_sign_holds_by_the_same_rules(tmp_path: Path, signer: DagSigner) -> None:
    (tmp_path / "private").write_bytes(signer.private_pem())
    signer.save_public(tmp_path / "k1.pem")
    check(verifier(tmp_path), sign(spec_of(), load_private_key(tmp_path / "private"), "k1"))


def flip(text: str, index: int) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[index % len(raw)] ^= 1
    return base64.b64encode(raw).decode()


def first(envelope: Envelope) -> dict[str, Any]:
    signature: dict[str, Any] = envelope["signatures"][0]
    return signature


CORRUPTIONS: dict[str, tuple[Callable[[Envelope], object], list[str]]] = {
    "payload": (
        lambda e: e.update(payload=flip(e["payload"], 20)),
        ["signature.signatures[0].sig"],
    ),
    "payload that is no Base64": (lambda e: e.update(payload="e30"), ["signature.payload"]),
    "payload with a blank": (lambda e: e.update(payload=" " + e["payload"]), ["signature.payload"]),
    "type": (
        lambda e: e.update(payloadType="application/json"),
        ["signature.payloadType", "signature.signatures[0].sig"],
    ),
    "start of the signature": (
        lambda e: first(e).update(sig=flip(first(e)["sig"], 0)),
        ["signature.signatures[0].sig"],
    ),
    "end of the signature": (
        lambda e: first(e).update(sig=flip(first(e)["sig"], -1)),
        ["signature.signatures[0].sig"],
    ),
    "signature cut": (lambda e: first(e).update(sig=first(e)["sig"][:-8]), ["signature.signatures[0].sig"]),
    "signature that is none": (lambda e: first(e).update(sig="AA=="), ["signature.signatures[0].sig"]),
    "signature that is no Base64": (
        lambda e: first(e).update(sig="\u00e9"),
        ["signature.signatures[0].sig"],
    ),
    "key id": (lambda e: first(e).update(keyid="k2"), ["signature.signatures[0].keyid"]),
    "key id that is a path": (lambda e: first(e).update(keyid="../k1"), ["signature.signatures[0].keyid"]),
    "key id left out": (lambda e: first(e).pop("keyid"), ["signature.signatures[0].keyid"]),
}


@pytest.mark.parametrize(("corrupt", "fields"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_a_signature_corrupted_in_any_part_does_not_hold(
    tmp_path: Path, signer: DagSigner, corrupt: Callable[[Envelope], object], fields: list[str]
) -> None:
    signer.save_public(tmp_path / "k1.pem")
    envelope = copy.deepcopy(signer.envelope(PAYLOAD))
    corrupt(envelope)
    assert fields_refused(verifier(tmp_path), envelope) == fields


def test_a_sound_signature_of_another_payload_type_does_not_hold(tmp_path: Path, ed25519: DagSigner) -> None:
    ed25519.save_public(tmp_path / "k1.pem")
    envelope = ed25519.envelope(PAYLOAD, kind="application/vnd.in-toto+json")
    assert fields_refused(verifier(tmp_path), envelope) == ["signature.payloadType"]


@pytest.mark.parametrize(
    "payload",
    [
        spec_of(version="1.0.1").canonical.encode(),
        PAYLOAD + b"\n",
        PAYLOAD.replace(b",", b", ", 1),
        b'{"dagId":"d","version":"1.0.0","steps":[{"id":"a","uses":"noop"}]}',
        b"",
    ],
)
def test_a_sound_signature_of_other_bytes_does_not_hold(
    tmp_path: Path, ed25519: DagSigner, payload: bytes
) -> None:
    ed25519.save_public(tmp_path / "k1.pem")
    with pytest.raises(SignatureInvalid) as refused:
        check(verifier(tmp_path), ed25519.envelope(payload))
    assert [problem.field for problem in refused.value.problems] == ["signature.payload"]
    assert spec_of().spec_hash in refused.value.problems[0].message


def test_both_alphabets_of_base64_are_taken(tmp_path: Path, ed25519: DagSigner) -> None:
    ed25519.save_public(tmp_path / "k1.pem")
    envelope = ed25519.envelope(PAYLOAD)
    signature = first(envelope)
    signature["sig"] = signature["sig"].translate(str.maketrans("+/", "-_"))
    check(verifier(tmp_path), envelope)


def test_the_key_of_one_tenant_verifies_for_no_other(tmp_path: Path, ed25519: DagSigner) -> None:
    ed25519.save_public(tmp_path / "acme" / "k1.pem")
    check(verifier(tmp_path), ed25519.envelope(PAYLOAD), tenant=ACME)
    assert fields_refused(verifier(tmp_path), ed25519.envelope(PAYLOAD), tenant=GLOBEX) == [
        "signature.signatures[0].keyid"
    ]


def test_two_tenants_may_call_different_keys_by_one_name(tmp_path: Path, ed25519: DagSigner) -> None:
    other = signing.p256()
    ed25519.save_public(tmp_path / "acme" / "k1.pem")
    other.save_public(tmp_path / "globex" / "k1.pem")
    check(verifier(tmp_path), other.envelope(PAYLOAD), tenant=GLOBEX)
    assert fields_refused(verifier(tmp_path), other.envelope(PAYLOAD), tenant=ACME) == [
        "signature.signatures[0].sig"
    ]


def test_of_several_signatures_those_of_unknown_keys_are_passed_over(
    tmp_path: Path, ed25519: DagSigner
) -> None:
    ed25519.save_public(tmp_path / "k1.pem")
    elsewhere = signing.p256().envelope(PAYLOAD, keyid="elsewhere")
    envelope = ed25519.envelope(PAYLOAD)
    signatures: Any = [*elsewhere["signatures"], *envelope["signatures"]]  # type: ignore[misc]
    check(verifier(tmp_path), {**envelope, "signatures": signatures})
    forged = {**signatures[0], "keyid": "k1"}
    assert fields_refused(verifier(tmp_path), {**envelope, "signatures": [forged, signatures[1]]}) == [
        "signature.signatures[0].sig"
    ]


def test_off_looks_at_no_signature(ed25519: DagSigner) -> None:
    check(Signatures(), {**ed25519.envelope(b"x"), "payload": "!"})


def test_only_require_wants_a_signature(tmp_path: Path, ed25519: DagSigner) -> None:
    ed25519.save_public(tmp_path / "k1.pem")
    findings = Findings()
    assert verifier(tmp_path).check(ACME, DAG, findings) is None
    findings.raise_any()
    verifier(tmp_path, SignaturePolicy.REQUIRE).check(ACME, DAG, findings)
    with pytest.raises(SignatureRequired):
        findings.raise_any()


@pytest.mark.parametrize(
    "envelope", [None, {}, {"payload": None}, {"signatures": [None]}, {"signatures": [{"sig": None}]}]
)
def test_of_a_misshapen_signature_nothing_more_is_told(
    tmp_path: Path, ed25519: DagSigner, envelope: Envelope | None
) -> None:
    ed25519.save_public(tmp_path / "k1.pem")
    findings = Findings()
    whole = None if envelope is None else {**ed25519.envelope(PAYLOAD), **envelope} if envelope else {}
    document: Any = {**DAG, "signature": whole}
    assert verifier(tmp_path, SignaturePolicy.REQUIRE).check(ACME, document, findings) is None
    findings.raise_any()


def test_a_wrong_signature_beside_a_wrong_definition_is_one_of_several(
    tmp_path: Path, ed25519: DagSigner
) -> None:
    ed25519.save_public(tmp_path / "k1.pem")
    findings = Findings()
    findings.add("steps[0].pool", "there is none")
    document: Any = {**DAG, "signature": ed25519.envelope(PAYLOAD, keyid="k2")}
    verifier(tmp_path).check(ACME, document, findings)
    with pytest.raises(InvalidDag) as refused:
        findings.raise_any()
    assert type(refused.value) is InvalidDag


def unfit(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(SigningKeyError) as refused:
        load_verification_keys(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_keys_that_are_unfit_are_refused_at_start(tmp_path: Path, ed25519: DagSigner) -> None:
    spki = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public = ed25519.public_pem()
    for number, (name, content) in enumerate(
        {
            "weak.pem": signing.rsa_pss(1_024).public_pem(),
            "curve.pem": ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*spki),
            "exchange.pem": X25519PrivateKey.generate().public_key().public_bytes(*spki),
            "private.pem": ed25519.private_pem(),
            "empty.pem": b"",
            "text.pem": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "a name.pem": public,
            "Tenant/k1.pem": public,
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        unfit(folder, name, content)


def test_a_folder_without_a_key_and_a_key_with_two_owners_are_refused(
    tmp_path: Path, ed25519: DagSigner
) -> None:
    unfit(tmp_path, "README", b"keys go here")
    ed25519.save_public(tmp_path / "k1.pem")
    load_verification_keys(tmp_path)
    unfit(tmp_path, "acme/k1.pem", ed25519.public_pem())
    with pytest.raises(SigningKeyError):
        load_verification_keys(tmp_path / "nowhere")


def test_a_key_to_sign_with_is_as_strong(tmp_path: Path) -> None:
    for number, content in enumerate(
        (signing.rsa_pss(1_024).private_pem(), b"", signing.p256().public_pem())
    ):
        path = tmp_path / str(number)
        path.write_bytes(content)
        with pytest.raises(SigningKeyError):
            load_private_key(path)
