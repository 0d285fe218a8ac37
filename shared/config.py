"""The settings of a process, read once from the environment and checked all together.

Each field of ``Settings`` is one setting; the variable is its name in upper case
after ``ORCH_``. ``docs/settings.md`` lists them, and a test holds the list against
this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import Flag, auto
from pathlib import Path
from typing import Any, TypeVar

from shared import config_values as value

T = TypeVar("T")

PREFIX = "ORCH_"
STEP_NAMES = frozenset({"ORCH_RUN_ID", "ORCH_STEP_ID", "ORCH_ATTEMPT", "ORCH_OUTPUT_DIR"})
"""What a step's own environment carries: an ``orch`` that a step starts must not trip over it."""
CLIENT_NAMES = frozenset({"ORCH_URL", "ORCH_TOKEN", "ORCH_TENANT"})
"""What ``orch run`` takes from the environment, which may be that of a server, too."""


class Need(Flag):
    """What a process uses, so that it demands no setting that it never reads."""

    NOTHING = 0
    DATABASE = auto()
    MIGRATION = auto()
    REDIS = auto()
    WEB = auto()
    """Tokens, page tokens, artifacts."""
    WORKER = auto()
    """Artifacts, the steps' working folders."""


class ConfigError(Exception):
    """The environment holds wrong settings; ``problems`` has a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("wrong settings:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a setting is read, and who cannot do without it."""

    parse: Callable[[str], object]
    needed_by: Need


def _setting(default: T, parse: Callable[[str], T], *, needed_by: Need = Need.NOTHING) -> T:
    declared: T = field(default=default, metadata={"rule": Rule(parse=parse, needed_by=needed_by)})
    return declared


_postgresql = value.url("postgresql", "postgres")
_milliseconds = value.whole_number(10, 86_400_000)
_requests = value.whole_number(1, 1_000_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that an installation may choose.

    An address or file that this process does not need and the environment does
    not name is empty.
    """

    database_url: str = _setting("", _postgresql, needed_by=Need.DATABASE)
    migration_database_url: str = _setting("", _postgresql, needed_by=Need.MIGRATION)
    """The owner of the schema; ``database_url`` when not given."""
    redis_url: str = _setting("", value.url("redis", "rediss", "unix"), needed_by=Need.REDIS)
    jwks_file: Path = _setting(Path(), value.readable_file, needed_by=Need.WEB)
    jwt_issuer: str | None = _setting(None, value.text)
    secret_file: Path = _setting(Path(), value.secret_file, needed_by=Need.WEB)
    artifacts_url: str = _setting("", value.folder_url, needed_by=Need.WEB | Need.WORKER)
    work_dir: Path = _setting(Path(), value.absolute_path, needed_by=Need.WORKER)
    signatures: str = _setting("off", value.one_of("off", "verify", "require"))
    signature_keys_dir: Path | None = _setting(None, value.folder)
    """Needed unless ``signatures`` is ``off``."""
    pools: tuple[str, ...] = _setting(("default",), value.pools)
    worker_pools: tuple[str, ...] = _setting((), value.pools)
    """The pools that this worker serves; all of ``pools`` when not given."""
    worker_concurrency: int = _setting(8, value.whole_number(1, 256))
    lease_ms: int = _setting(15_000, value.whole_number(500, 600_000))
    handoff_ms: int = _setting(100, value.whole_number(0, 60_000))
    grace_ms: int = _setting(20_000, value.whole_number(0, 86_400_000))
    kill_grace_ms: int = _setting(1_500, value.whole_number(0, 600_000))
    heartbeat_ms: int = _setting(3_000, value.whole_number(50, 60_000))
    """How often workers and sweepers tell that they are alive; they may miss it three times."""
    sweep_interval_ms: int = _setting(500, _milliseconds)
    resend_after_ms: int = _setting(4_000, _milliseconds)
    deaf_after_ms: int = _setting(8_000, value.whole_number(100, 600_000))
    http_allow: tuple[str, ...] = _setting((), value.hosts)
    host: str = _setting("127.0.0.1", value.text)
    port: int = _setting(8080, value.whole_number(1, 65_535))
    web_processes: int = _setting(1, value.whole_number(1, 64))
    web_threads: int = _setting(8, value.whole_number(1, 256))
    web_queue_ms: int = _setting(2_000, value.whole_number(100, 60_000))
    streams: int = _setting(4_000, value.whole_number(1, 100_000))
    """Streams that a web process has open at a time."""
    streams_per_tenant: int = _setting(2_500, value.whole_number(1, 100_000))
    stream_heartbeat_ms: int = _setting(15_000, value.whole_number(100, 600_000))
    stream_origins: tuple[str, ...] = _setting((), value.origins)
    """Sites beside its own whose pages may open streams."""
    rate_limit: int = _setting(60_000, _requests)
    """Requests a minute and tenant, in all."""
    rate_limit_reads: int | None = _setting(None, _requests)
    rate_limit_changes: int | None = _setting(None, _requests)
    rate_limit_bulk: int | None = _setting(None, _requests)
    max_outputs_bytes: int = _setting(262_144, value.whole_number(1_024, 16_777_216))
    max_log_bytes: int = _setting(10_485_760, value.whole_number(1_024, 1_073_741_824))
    live_log_bytes: int = _setting(1_048_576, value.whole_number(0, 16_777_216))
    max_artifact_bytes: int = _setting(1_073_741_824, value.whole_number(1_024, 1_099_511_627_776))
    access_log: str = _setting("on", value.one_of("on", "off"))
    otlp_endpoint: str = _setting("", value.http_address)
    log_level: str = _setting("info", value.one_of("debug", "info", "warning", "error"))


def variables() -> Mapping[str, Field[Any]]:
    """Give the field of each variable, in the order of declaration."""
    return {PREFIX + declared.name.upper(): declared for declared in fields(Settings)}


def load_settings(environ: Mapping[str, str], *, need: Need) -> Settings:
    """Read and check every ``ORCH_*`` variable; raise ConfigError with all that is wrong.

    An empty variable counts as one that is not given. An unknown name is refused:
    it is most often a misspelt one, whose setting would silently stay at its default.
    """
    known = variables()
    problems = [
        f"{name}: there is no such setting"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known and name not in STEP_NAMES | CLIENT_NAMES
    ]
    values: dict[str, Any] = {}
    given = {name: text for name in known if (text := environ.get(name, "").strip())}
    for name, text in given.items():
        rule: Rule = known[name].metadata["rule"]
        try:
            values[known[name].name] = rule.parse(text)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if "ORCH_MIGRATION_DATABASE_URL" not in given and "database_url" in values:
        values["migration_database_url"] = values["database_url"]
        given["ORCH_MIGRATION_DATABASE_URL"] = given["ORCH_DATABASE_URL"]
    problems += [f"{name}: is needed and not set" for name in _needed(known, need) if name not in given]
    all_pools = values.get("pools", ("default",))
    problems += _pool_problems(all_pools, values.setdefault("worker_pools", all_pools))
    if values.get("signatures", "off") != "off" and "ORCH_SIGNATURE_KEYS_DIR" not in given:
        problems.append("ORCH_SIGNATURE_KEYS_DIR: is needed with ORCH_SIGNATURES, and not set")
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


def _needed(known: Mapping[str, Field[Any]], need: Need) -> Iterator[str]:
    for name, declared in known.items():
        rule: Rule = declared.metadata["rule"]
        if rule.needed_by & need:
            yield name


def _pool_problems(pools: tuple[str, ...], served: tuple[str, ...]) -> list[str]:
    unknown = sorted(set(served) - set(pools))
    return [f"ORCH_WORKER_POOLS: {name} is not one of ORCH_POOLS" for name in unknown]
