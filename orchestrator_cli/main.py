"""The entry of `orch`: one group, each command in a module that is loaded when it is called."""

from __future__ import annotations

from importlib import import_module

import click

_COMMANDS = {
    "up": "orchestrator_cli.up:up",
    "demo": "orchestrator_cli.demo:demo",
    "token": "orchestrator_cli.token:token",
    "run": "orchestrator_cli.run:run",
    "dag": "orchestrator_cli.dag:dag",
    "db": "orchestrator_cli.db:db",
    "ledger": "orchestrator_cli.ledger:ledger",
}


class _LazyGroup(click.Group):
    """Loads a command's module when the command is asked for: `orch token` needs no PostgreSQL driver."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="orchestrator", prog_name="orch")
def main() -> None:
    """Run and use the orchestrator."""


if __name__ == "__main__":
    main()
