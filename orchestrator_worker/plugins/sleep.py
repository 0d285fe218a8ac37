"""The plugin ``sleep``: let time pass."""

from __future__ import annotations

from typing import ClassVar

from shared.domain.models import JsonObject
from shared.plugins import PluginResult, PluginStopped, PluginSucceeded, StepContext


class SleepPlugin:
    """Wait for ``ms`` milliseconds; a stop ends the wait at once."""

    name: ClassVar[str] = "sleep"
    version: ClassVar[str] = "1.0.0"
    schema: ClassVar[JsonObject] = {
        "type": "object",
        "properties": {"ms": {"type": "integer", "minimum": 0, "maximum": 86_400_000}},
        "required": ["ms"],
        "additionalProperties": False,
    }
    needs_network: ClassVar[bool] = False
    retryable: ClassVar[str] = "It has no failures of its own."

    def run(self, params: JsonObject, context: StepContext) -> PluginResult:
        milliseconds = params["ms"]
        assert isinstance(milliseconds, int | float)
        return PluginStopped() if context.stop.wait(milliseconds / 1000) else PluginSucceeded(outputs={})
