"""Signed definitions at the door, under each policy of an installation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator_api.app import create_app
from shared.domain.definition import build
from shared.signing import SignaturePolicy, Signatures
from shared.signing_keys import load_verification_keys
from tests.integration.api.conftest import Api
from tests.support.signing import DagSigner, ed25519, p256

DAG: dict[str, object] = {"dagId": "d", "version": "1.0.0", "steps": [{"id": "a", "uses": "noop"}]}


def payload(**changes: object) -> bytes:
    unsigned = {**DAG, **changes}
    return build(unsigned, check_uses=lambda _uses, _params: [], pools={"default"}).canonical.encode()  # type: ignore[arg-type]


@pytest.fixture
def key(tmp_path: Path) -> DagSigner:
    """A key of tenant acme."""
    signer = ed25519()
    signer.save_public(tmp_path / "keys" / "acme" / "k1.pem")
    return signer


def under(api: Api, folder: Path, policy: SignaturePolicy) -> Api:
    """Give the same API with another policy."""
    parts = replace(api.parts, signatures=Signatures(policy, load_verification_keys(folder / "keys")))
    return replace(api, app=create_app(parts), parts=parts)


def code(response: object) -> tuple[int, str | None]:
    status, body = response.status_code, response.get_json()  # type: ignore[attr-defined]
    return status, body["error"]["code"] if "error" in body else None


@pytest.mark.parametrize(
    ("policy", "unsigned", "signed", "forged"),
    [
        (SignaturePolicy.OFF, (201, None), (201, None), (201, None)),
        (SignaturePolicy.VERIFY, (201, None), (201, None), (422, "SIGNATURE_INVALID")),
        (SignaturePolicy.REQUIRE, (422, "SIGNATURE_REQUIRED"), (201, None), (422, "SIGNATURE_INVALID")),
    ],
)
def test_each_policy(
    api: Api,
    tmp_path: Path,
    key: DagSigner,
    policy: SignaturePolicy,
    unsigned: tuple[int, str | None],
    signed: tuple[int, str | None],
    forged: tuple[int, str | None],
) -> None:
    wanted = under(api, tmp_path, policy)
    for version, signer, expected in (
        ("1.0.0", None, unsigned),
        ("2.0.0", key, signed),
        ("3.0.0", p256(), forged),
    ):
        definition = {**DAG, "version": version}
        if signer is not None:
            definition["signature"] = signer.envelope(payload(version=version))
        assert code(wanted.post("/dags", definition)) == expected
    versions = {item["version"] for item in wanted.get("/dags").get_json()["items"]}
    assert versions == {
        version
        for version, (status, _) in zip(("1.0.0", "2.0.0", "3.0.0"), (unsigned, signed, forged), strict=True)
        if status == 201
    }


def test_the_key_of_a_tenant_signs_for_no_other(api: Api, tmp_path: Path, key: DagSigner) -> None:
    wanted = under(api, tmp_path, SignaturePolicy.REQUIRE)
    definition = {**DAG, "signature": key.envelope(payload())}
    refused = wanted.as_("globex").post("/dags", definition)
    assert code(refused) == (422, "SIGNATURE_INVALID")
    assert [place["field"] for place in refused.get_json()["error"]["details"]] == [
        "signature.signatures[0].keyid"
    ]
    assert code(wanted.post("/dags", definition)) == (201, None)


def test_another_definition_than_the_signed_one_is_told_by_its_hash(
    api: Api, tmp_path: Path, key: DagSigner
) -> None:
    wanted = under(api, tmp_path, SignaturePolicy.VERIFY)
    altered = {**DAG, "metadata": {"owner": "mallory"}, "signature": key.envelope(payload())}
    refused = wanted.post("/dags", altered)
    assert code(refused) == (422, "SIGNATURE_INVALID")
    assert refused.get_json()["error"]["details"][0]["field"] == "signature.payload"


def test_the_same_definition_again_keeps_the_signature_that_it_has(
    api: Api, tmp_path: Path, key: DagSigner
) -> None:
    wanted = under(api, tmp_path, SignaturePolicy.VERIFY)
    envelope = key.envelope(payload())
    assert wanted.post("/dags", {**DAG, "signature": envelope}).status_code == 201
    first = wanted.get("/dags/d/1.0.0").get_json()
    assert first["signature"] == envelope
    assert wanted.post("/dags", DAG).status_code == 200
    other = {**envelope, "payload": f"{envelope['payload']}".replace("+", "-")}
    assert wanted.post("/dags", {**DAG, "signature": other}).status_code == 200
    forged = p256().envelope(payload())
    assert code(wanted.post("/dags", {**DAG, "signature": forged})) == (422, "SIGNATURE_INVALID")
    assert wanted.get("/dags/d/1.0.0").get_json() == first


def test_all_that_is_wrong_with_a_definition_and_its_signature_is_told_at_once(
    api: Api, tmp_path: Path, key: DagSigner
) -> None:
    wanted = under(api, tmp_path, SignaturePolicy.REQUIRE)
    wrong = {**DAG, "version": "1", "signature": {**key.envelope(payload()), "payload": "?"}}
    refused = wanted.post("/dags", wrong)
    assert code(refused) == (422, "VALIDATION_FAILED")
    assert [place["field"] for place in refused.get_json()["error"]["details"]] == [
        "signature.payload",
        "version",
    ]
    unsigned = wanted.post("/dags", {**DAG, "version": "1"})
    assert code(unsigned) == (422, "VALIDATION_FAILED")
    assert [place["field"] for place in unsigned.get_json()["error"]["details"]] == ["signature", "version"]
    misshapen = wanted.post("/dags", {**DAG, "signature": {"payload": 1}})
    assert [place["field"] for place in misshapen.get_json()["error"]["details"]] == [
        "signature.payload",
        "signature.payloadType",
        "signature.signatures",
    ]
