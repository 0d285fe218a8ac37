from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator_cli.main import main
from shared.domain.definition import build
from shared.domain.findings import Findings
from shared.domain.models import TenantId
from shared.signing import SignaturePolicy, Signatures, match
from shared.signing_keys import load_verification_keys
from tests.support.signing import ed25519

DAG: dict[str, Any] = {
    "dagId": "d",
    "version": "1.0.0",
    "steps": [{"id": "b", "uses": "nobody-has-it@1.0.0", "pool": "theirs"}, {"id": "a", "uses": "noop"}],
    "edges": [{"from": "a", "to": "b"}],
    "metadata": {"owner": "Zo\u00eb"},
}


def signed(folder: Path, document: object, *options: str) -> Result:
    (folder / "dag.json").write_text(json.dumps(document))
    signer = ed25519()
    (folder / "deploy.pem").write_bytes(signer.private_pem())
    signer.save_public(folder / "keys" / "deploy.pem")
    arguments = ["dag", "sign", str(folder / "dag.json"), "--key", str(folder / "deploy.pem"), *options]
    return CliRunner().invoke(main, arguments)


def test_a_signed_definition_holds_where_its_plugins_and_pools_are(tmp_path: Path) -> None:
    result = signed(tmp_path, {**DAG, "signature": {"of": "yesterday"}})
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    assert {**document, "signature": None} == {**DAG, "signature": None}
    findings = Findings()
    verifier = Signatures(SignaturePolicy.REQUIRE, load_verification_keys(tmp_path / "keys"))
    signed_bytes = verifier.check(TenantId("acme"), document, findings)
    spec = build(DAG, check_uses=lambda _uses, _params: [], pools={"theirs", "default"}, findings=findings)
    match(signed_bytes, spec)


def test_the_key_may_be_known_by_another_name(tmp_path: Path) -> None:
    result = signed(tmp_path, DAG, "--key-id", "k7")
    assert json.loads(result.output)["signature"]["signatures"][0]["keyid"] == "k7"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "must be an object"),
        ({}, "dagId: must be given"),
        ({**DAG, "steps": [{"id": "a"}]}, "steps[0].uses: must be given"),
        ({**DAG, "steps": 1}, "wrong type"),
        ({**DAG, "steps": [1]}, "wrong type"),
        ({**DAG, "steps": [{"id": ["a"], "uses": "noop"}]}, "wrong type"),
        ({**DAG, "steps": [None], "edges": []}, "wrong type"),
        ({**DAG, "version": "1"}, "version: must be"),
        ({**DAG, "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "a"}]}, "cycle: a -> b -> a"),
    ],
)
def test_what_is_no_definition_is_not_signed(tmp_path: Path, document: object, told: str) -> None:
    result = signed(tmp_path, document)
    assert result.exit_code == 1
    assert told in result.output
    assert "signatures" not in result.output
