"""`orch dag`: what can be done with a definition before it is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import click

from orchestrator_cli.errors import CommandError
from shared.domain.definition import build
from shared.domain.models import DagSpec, JsonObject
from shared.errors import InvalidDag
from shared.signing import sign
from shared.signing_keys import SigningKeyError, load_private_key


@click.group()
def dag() -> None:
    """Work on DAG definitions."""


@dag.command("sign")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="The private key, in PEM: Ed25519, ECDSA on P-256 or RSA.",
)
@click.option("--key-id", help="The name of the key; that of its file, without the suffix, when not given.")
def sign_file(file: Path, key_file: Path, key_id: str | None) -> None:
    """Print the definition in FILE with a signature over its canonical form.

    A signature that it has already is replaced. Whether plugins and pools exist is for the
    installation to say, to which it is published.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        key = load_private_key(key_file)
        spec = _spec(document)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CommandError(f"{file} is no JSON: {error}") from error
    except SigningKeyError as error:
        raise CommandError(str(error)) from error
    except InvalidDag as error:
        places = [f"\n  {problem.field}: {problem.message}" for problem in error.problems]
        raise CommandError(f"{file} is no sound definition:{''.join(places)}") from error
    signed = {**document, "signature": sign(spec, key, key_id or key_file.stem)}
    click.echo(json.dumps(signed, indent=2, ensure_ascii=False))


def _spec(document: object) -> DagSpec:
    """Put a definition into its normal form, which depends on no installation."""
    if not isinstance(document, dict):
        raise CommandError("the definition must be an object")
    unsigned = {name: member for name, member in document.items() if name != "signature"}
    try:
        pools = {step.get("pool", "default") for step in unsigned.get("steps", ())}
        return build(cast(JsonObject, unsigned), check_uses=lambda _uses, _params: [], pools=pools)
    except (AttributeError, TypeError) as error:
        # Shapes are the server's to judge: what is none trips over the first use of it.
        raise CommandError(
            "the definition has a member of a wrong type; publish it unsigned to be told which"
        ) from error
