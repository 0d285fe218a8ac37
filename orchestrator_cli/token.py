"""`orch token`: tokens signed with the key of a data folder."""

from __future__ import annotations

import re
from pathlib import Path

import click

from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.keys import Grant, mint

SCOPES = ("orchestrator:read", "orchestrator:write", "orchestrator:admin")
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", value)
        if match is None:
            self.fail(f"{value!r} is no duration like 90s, 30m, 1h or 7d", param, ctx)
        return int(match[1]) * _UNITS_S[match[2]]


def _check_tenants(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _TENANT.fullmatch(name):
            raise click.BadParameter(f"{name!r} must match {_TENANT.pattern}")
    return names


@click.group()
def token() -> None:
    """Make tokens."""


@token.command("mint")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path(".orch"), help="Whose key signs it."
)
@click.option("--tenant", "tenants", multiple=True, callback=_check_tenants, help="A tenant it is good for.")
@click.option("--operator", is_flag=True, help="Good for all tenants.")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="What it allows."
)
@click.option("--ttl", "ttl_s", type=_Duration(), default="1h", help="How long it is good for.")
@click.option("--subject", default="local", help="Who will be recorded as the caller.")
def mint_command(
    *,
    data_dir: Path,
    tenants: tuple[str, ...],
    operator: bool,
    scopes: tuple[str, ...],
    ttl_s: int,
    subject: str,
) -> None:
    """Print a JWT signed with the data folder's key."""
    if operator == bool(tenants):
        raise click.UsageError("give either --tenant or --operator")
    grant = Grant(subject=subject, tenants=tenants, operator=operator, scopes=scopes, ttl_s=ttl_s)
    click.echo(mint(DataFolder(path=data_dir).keys, grant))
