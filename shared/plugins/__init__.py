"""What a plugin is: the words that plugins, the worker and the API share.

A plugin turns a step's ``with`` into ``outputs``. It is a class with a name, a
version, a JSON Schema and ``run``, found through the entry point group
``orchestrator.plugins``; see ``docs/plugins.md``.
"""

from shared.plugins.catalog import Catalog, CatalogError, PluginInfo, load_catalog
from shared.plugins.contract import (
    Limits,
    LogSink,
    Plugin,
    PluginFailed,
    PluginResult,
    PluginStopped,
    PluginSucceeded,
    StepContext,
)
from shared.plugins.stop import Stop, StopReason

__all__ = [
    "Catalog",
    "CatalogError",
    "Limits",
    "LogSink",
    "Plugin",
    "PluginFailed",
    "PluginInfo",
    "PluginResult",
    "PluginStopped",
    "PluginSucceeded",
    "StepContext",
    "Stop",
    "StopReason",
    "load_catalog",
]
