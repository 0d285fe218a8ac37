"""Settings are read strictly, all problems at once, and the docs list every one of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.options import UpOptions
from orchestrator_cli.stack import own_settings
from shared.config import CLIENT_NAMES, STEP_NAMES, ConfigError, Need, load_settings, variables

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
ROW = re.compile(
    r"\| `(?P<name>ORCH_\w+)`(?P<own> \*)? \|(?: `(?P<default>[^`]*)`)? \| ?(?P<needed>[\w, ]*)\| \S.* \|"
)
URLS = {"ORCH_DATABASE_URL": "postgresql://db/orch", "ORCH_REDIS_URL": "redis://queue"}
PROCESSES = {
    "web": Need.DATABASE | Need.REDIS | Need.WEB,
    "worker": Need.DATABASE | Need.REDIS | Need.WORKER,
    "sweeper": Need.DATABASE | Need.REDIS,
    "migrations": Need.MIGRATION,
}


def _problems(environ: dict[str, str], need: Need = Need.NOTHING) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load_settings(environ, need=need)
    return raised.value.problems


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load_settings({"PATH": "/bin"}, need=Need.NOTHING)
    assert (settings.port, settings.pools, settings.worker_pools) == (8080, ("default",), ("default",))


def test_what_a_process_needs_is_demanded_by_name() -> None:
    assert _problems({}, Need.DATABASE | Need.REDIS) == (
        "ORCH_DATABASE_URL: is needed and not set",
        "ORCH_REDIS_URL: is needed and not set",
    )
    assert load_settings(URLS, need=Need.DATABASE | Need.REDIS).redis_url == "redis://queue"


def test_an_empty_variable_is_one_that_is_not_given() -> None:
    assert load_settings({"ORCH_PORT": " ", "ORCH_HTTP_ALLOW": ""}, need=Need.NOTHING).port == 8080


def test_migrations_use_the_database_of_the_processes_unless_told_otherwise() -> None:
    assert load_settings(URLS, need=Need.MIGRATION).migration_database_url == "postgresql://db/orch"
    owner = {**URLS, "ORCH_MIGRATION_DATABASE_URL": "postgresql://owner@db/orch"}
    assert load_settings(owner, need=Need.MIGRATION).migration_database_url == "postgresql://owner@db/orch"


def test_all_problems_are_told_at_once() -> None:
    environ = {"ORCH_PORT": "0", "ORCH_LOG_LEVEL": "loud", "ORCH_PROT": "80", "ORCH_REDIS_URL": "http://x"}
    assert len(_problems(environ, Need.DATABASE)) == 5


def test_what_a_step_finds_in_its_environment_is_tolerated() -> None:
    assert load_settings(dict.fromkeys(STEP_NAMES | CLIENT_NAMES, "x"), need=Need.NOTHING) == load_settings(
        {}, need=Need.NOTHING
    )


def test_a_worker_serves_only_pools_of_the_installation() -> None:
    environ = {"ORCH_POOLS": "default, big", "ORCH_WORKER_POOLS": "big,huge"}
    assert _problems(environ) == ("ORCH_WORKER_POOLS: huge is not one of ORCH_POOLS",)


def test_a_policy_of_signatures_needs_keys(tmp_path: Path) -> None:
    assert _problems({"ORCH_SIGNATURES": "require"}) == (
        "ORCH_SIGNATURE_KEYS_DIR: is needed with ORCH_SIGNATURES, and not set",
    )
    given = {"ORCH_SIGNATURES": "verify", "ORCH_SIGNATURE_KEYS_DIR": str(tmp_path)}
    assert load_settings(given, need=Need.NOTHING).signature_keys_dir == tmp_path
    assert load_settings({"ORCH_SIGNATURES": "off"}, need=Need.NOTHING).signature_keys_dir is None


def test_a_problem_does_not_repeat_the_value() -> None:
    assert "hunter2" not in str(_problems({"ORCH_DATABASE_URL": "mysql://root:hunter2@db/orch"}))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ORCH_PORT", "65536"),
        ("ORCH_PORT", "8_080"),
        ("ORCH_PORT", "٨٠"),
        ("ORCH_LEASE_MS", "15s"),
        ("ORCH_POOLS", "default,,big"),
        ("ORCH_POOLS", "big,big"),
        ("ORCH_POOLS", "Big"),
        ("ORCH_HTTP_ALLOW", "10.0.0.1/8"),
        ("ORCH_HTTP_ALLOW", "10.0.0.999"),
        ("ORCH_HTTP_ALLOW", "*.example.com"),
        ("ORCH_ARTIFACTS_URL", "file://artifacts"),
        ("ORCH_ARTIFACTS_URL", "/var/artifacts"),
        ("ORCH_WORK_DIR", "work"),
        ("ORCH_JWKS_FILE", "/nowhere/jwks.json"),
        ("ORCH_SIGNATURES", "on"),
        ("ORCH_SIGNATURE_KEYS_DIR", "/nowhere"),
    ],
)
def test_a_wrong_value_is_refused(name: str, text: str) -> None:
    assert [problem.split(":")[0] for problem in _problems({name: text})] == [name]


def test_networks_and_names_are_read_in_one_spelling() -> None:
    environ = {"ORCH_HTTP_ALLOW": "10.0.0.0/8, ::1, Intranet.Example"}
    assert load_settings(environ, need=Need.NOTHING).http_allow == (
        "10.0.0.0/8",
        "::1/128",
        "intranet.example",
    )


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 31)
    assert "32 random bytes" in _problems({"ORCH_SECRET_FILE": str(secret)})[0]
    secret.write_bytes(b"x" * 32)
    assert load_settings({"ORCH_SECRET_FILE": str(secret)}, need=Need.NOTHING).secret_file == secret


@given(st.dictionaries(st.sampled_from(sorted(variables())), st.text(max_size=20)))
def test_any_text_is_taken_or_refused_by_name(environ: dict[str, str]) -> None:
    problems: tuple[str, ...] = ()
    try:
        load_settings(environ, need=Need.NOTHING)
    except ConfigError as error:
        problems = error.problems
    assert {problem.split(":")[0] for problem in problems} <= {*environ, "ORCH_WORKER_POOLS"}


def _spelled(value: object) -> str | None:
    if isinstance(value, tuple):
        return ",".join(value) or None
    return None if value in (None, "", Path()) else str(value)


def _documented() -> list[dict[str, str]]:
    rows = [ROW.fullmatch(line) for line in DOCS.read_text(encoding="utf-8").splitlines()]
    return [row.groupdict(default="") for row in rows if row]


def test_the_docs_list_every_setting_with_its_default_and_who_needs_it() -> None:
    declared = [
        (
            name,
            _spelled(field.default) or "",
            ", ".join(who for who, need in PROCESSES.items() if field.metadata["rule"].needed_by & need),
        )
        for name, field in variables().items()
    ]
    assert [(row["name"], row["default"], row["needed"].strip()) for row in _documented()] == declared


def test_the_docs_mark_what_orch_up_decides_itself(tmp_path: Path) -> None:
    options = UpOptions(data_dir=str(tmp_path), host="127.0.0.1", port=8080, workers=1, concurrency=8)
    decided = own_settings(options, DataFolder(path=tmp_path), tmp_path)
    assert {row["name"] for row in _documented() if row["own"]} == set(decided)
