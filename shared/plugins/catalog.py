"""The plugins of this installation, found through entry points and checked once."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import cast

from jsonschema_rs import Draft202012Validator, ValidationError

from shared.domain.json_schema import compile_schema
from shared.domain.models import Json, JsonObject, Sha256
from shared.errors import OrchestratorError, Problem
from shared.plugins.contract import Plugin

GROUP = "orchestrator.plugins"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")

SHAPE_KEYWORDS = frozenset(
    {
        "additionalProperties",
        "dependentRequired",
        "maxItems",
        "maxProperties",
        "minItems",
        "minProperties",
        "propertyNames",
        "required",
        "type",
    }
)
"""What holds for an object or array whatever its expressions will become. A combination such
as ``anyOf`` or ``uniqueItems`` can only be judged once every value in it is known."""

MAX_PROBLEMS = 20
MAX_MESSAGE = 300


class CatalogError(OrchestratorError):
    """An installed plugin cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """What is told about a plugin. ``digest`` is the SHA-256 of its module's source."""

    name: str
    version: str
    digest: Sha256
    schema: JsonObject
    needs_network: bool
    retryable: str
    pure: bool
    """Whether nobody can tell if a step was run once or twice: see ``docs/plugins.md``."""


class Catalog:
    """The plugins by name, each in one version. Read-only after construction, so safe to share."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._plugins: dict[str, Plugin] = {}
        self._infos: dict[str, PluginInfo] = {}
        self._validators: dict[str, Draft202012Validator] = {}
        for plugin in plugins:
            self._add(plugin)

    def find(self, uses: str) -> PluginInfo | None:
        """Return the plugin that ``uses`` (``name`` or ``name@version``) names."""
        return self._infos.get(uses)

    def plugin(self, uses: str) -> Plugin | None:
        """Return the instance that runs for ``uses``."""
        return self._plugins.get(uses)

    def infos(self) -> list[PluginInfo]:
        """Return every plugin, by name."""
        return [self._infos[name] for name in sorted(self._infos) if "@" not in name]

    def pure(self) -> frozenset[str]:
        """Return what ``uses`` can say to name a plugin that is pure."""
        return frozenset(uses for uses, info in self._infos.items() if info.pure)

    def check_params(self, uses: str, params: JsonObject) -> list[Problem]:
        """Check ``with`` as published: a string with an expression in it passes for anything.

        Fields are paths within ``with`` (``argv[0]``; empty for the whole). At most
        ``MAX_PROBLEMS`` are told. The plugin must exist.
        """
        validator = self._validators[uses]
        if validator.is_valid(params):
            return []
        return _problems(e for e in validator.iter_errors(params) if not _hangs_on_expression(e))

    def check_rendered(self, uses: str, params: JsonObject) -> list[Problem]:
        """Check ``with`` after rendering, when a string is a string whatever stands in it."""
        return _problems(self._validators[uses].iter_errors(params))

    def _add(self, plugin: Plugin) -> None:
        name, version = plugin.name, plugin.version
        if NAME.fullmatch(name) is None:
            raise CatalogError(f"plugin {name!r}: the name must match {NAME.pattern}")
        if name in self._infos:
            raise CatalogError(f"plugin {name!r}: two installed packages offer it")
        try:
            validator = compile_schema(plugin.schema, trusted=True)
        except (ValidationError, ValueError) as error:
            raise CatalogError(f"plugin {name!r}: its schema is no JSON Schema: {error}") from error
        info = PluginInfo(
            name=name,
            version=version,
            digest=_source_digest(plugin),
            schema=plugin.schema,
            needs_network=plugin.needs_network,
            retryable=plugin.retryable,
            pure=getattr(plugin, "pure", False) is True,
        )
        for uses in (name, f"{name}@{version}"):
            self._plugins[uses] = plugin
            self._infos[uses] = info
            self._validators[uses] = validator


def load_catalog() -> Catalog:
    """Load every plugin that an installed package declares; raises CatalogError if one cannot be loaded."""
    # An editable install can show the same declaration twice, once beside the sources.
    found = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    plugins: list[Plugin] = []
    for name, value in sorted(found):
        try:
            plugin: Plugin = found[name, value].load()()
        except Exception as error:
            raise CatalogError(f"plugin {name!r} ({value}) cannot be loaded: {error}") from error
        if getattr(plugin, "name", None) != name:
            raise CatalogError(f"plugin {name!r} ({value}) calls itself {getattr(plugin, 'name', None)!r}")
        plugins.append(plugin)
    return Catalog(plugins)


def _source_digest(plugin: Plugin) -> Sha256:
    module = sys.modules[type(plugin).__module__]
    if module.__file__ is None:
        raise CatalogError(f"plugin {plugin.name!r}: its module has no source file to take the digest of")
    return Sha256(hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest())


def _problems(errors: Iterator[ValidationError]) -> list[Problem]:
    return sorted(Problem(_path(e.instance_path), _message(e)) for e in islice(errors, MAX_PROBLEMS))


def _path(parts: Iterable[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _message(error: ValidationError) -> str:
    """Say what is wrong without repeating a long value, which could also be a secret."""
    if len(error.message) <= MAX_MESSAGE:
        return error.message
    return f"the value breaks the rule {_keyword(error)!r} of the plugin's schema"


def _keyword(error: ValidationError) -> str:
    return str(error.schema_path[-1])


def _hangs_on_expression(error: ValidationError) -> bool:
    """Tell whether the value that the error complains of is not known before rendering."""
    value = cast(Json, error.instance)
    if isinstance(value, str):
        return "${{" in value
    return _keyword(error) not in SHAPE_KEYWORDS and _has_expression(value)


def _has_expression(value: Json) -> bool:
    open_values: list[Json] = [value]
    while open_values:
        current = open_values.pop()
        if isinstance(current, str):
            if "${{" in current:
                return True
        elif isinstance(current, Mapping):
            open_values.extend(current.values())
        elif isinstance(current, list | tuple):
            open_values.extend(current)
    return False
