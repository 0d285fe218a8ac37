"""Keys are made once and privately; tokens say what they were asked to say."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result

from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.keys import ALGORITHM, AUDIENCE, ISSUER, make_keys
from orchestrator_cli.main import main

READ, WRITE = "orchestrator:read", "orchestrator:write"


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(path=tmp_path)
    make_keys(folder.keys)
    return folder


def _mint(folder: DataFolder, *options: str) -> Result:
    return CliRunner().invoke(main, ["token", "mint", "--data-dir", str(folder.path), *options])


def _claims(folder: DataFolder, *options: str) -> dict[str, object]:
    result = _mint(folder, *options)
    assert result.exit_code == 0, result.output
    token = result.output.strip()
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_json(folder.keys.jwks.read_text()).keys}
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, object] = jwt.decode(
        token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER
    )
    return claims


def test_a_token_holds_with_the_public_key_and_names_the_tenant(folder: DataFolder) -> None:
    claims = _claims(folder, "--tenant", "acme", "--scope", READ, "--scope", WRITE)
    assert claims["tenant"] == "acme"
    assert "tenants" not in claims
    assert claims["scope"] == f"{READ} {WRITE}"
    assert claims["sub"] == "local"
    assert claims["jti"] != _claims(folder, "--tenant", "acme", "--scope", READ)["jti"]


def test_an_operator_is_good_for_all_tenants(folder: DataFolder) -> None:
    assert _claims(folder, "--operator", "--scope", "orchestrator:admin")["tenants"] == ["*"]


def test_several_tenants_are_a_list(folder: DataFolder) -> None:
    options = ("--tenant", "acme", "--tenant", "globex", "--scope", READ)
    assert _claims(folder, *options)["tenants"] == ["acme", "globex"]


@pytest.mark.parametrize(("ttl", "seconds"), [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("7d", 604_800)])
def test_it_expires_when_asked_to(folder: DataFolder, ttl: str, seconds: int) -> None:
    claims = _claims(folder, "--tenant", "acme", "--scope", READ, "--ttl", ttl)
    issued, expires = int(str(claims["iat"])), int(str(claims["exp"]))
    assert expires - issued == seconds
    assert abs(issued - time.time()) < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tenant", "Acme!", "--scope", READ), "'Acme!' must match"),
        (("--tenant", "acme", "--scope", "root"), "'root' is not one of"),
        (("--tenant", "acme"), "Missing option '--scope'"),
        (("--scope", READ), "give either --tenant or --operator"),
        (
            ("--operator", "--tenant", "acme", "--scope", READ),
            "give either --tenant or --operator",
        ),
        (("--tenant", "acme", "--scope", READ, "--ttl", "soon"), "no duration like"),
    ],
)
def test_what_makes_no_token_is_refused(folder: DataFolder, options: tuple[str, ...], message: str) -> None:
    result = _mint(folder, *options)
    assert result.exit_code == 2
    assert message in result.output


def test_a_folder_without_keys_is_named(tmp_path: Path) -> None:
    result = _mint(DataFolder(path=tmp_path), "--tenant", "acme", "--scope", READ)
    assert result.exit_code == 1
    assert "signing.json does not exist: the first `orch up`" in result.output


def test_keys_are_private_and_stay_what_they_are(folder: DataFolder) -> None:
    files = (folder.keys.signing, folder.keys.jwks, folder.keys.secret)
    before = [file.read_bytes() for file in files]
    make_keys(folder.keys)
    assert [file.read_bytes() for file in files] == before
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    (public,) = json.loads(folder.keys.jwks.read_text())["keys"]
    assert "d" not in public
