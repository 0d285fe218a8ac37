"""The plugin ``noop``: no work, only values."""

from __future__ import annotations

from typing import ClassVar

from shared.domain.models import JsonObject
from shared.plugins import PluginResult, PluginSucceeded, StepContext


class NoopPlugin:
    """Succeed at once; ``outputs`` is ``with`` after rendering, so that it can name and compute values."""

    name: ClassVar[str] = "noop"
    version: ClassVar[str] = "1.0.0"
    schema: ClassVar[JsonObject] = {"type": "object"}
    needs_network: ClassVar[bool] = False
    pure: ClassVar[bool] = True
    retryable: ClassVar[str] = "It has no failures of its own."

    def run(self, params: JsonObject, context: StepContext) -> PluginResult:  # The contract's signature.
        return PluginSucceeded(outputs=params)
