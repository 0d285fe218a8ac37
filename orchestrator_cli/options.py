"""What `orch up` was told, on its way from the launcher to the supervisor."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """The options of a stack; ``data_dir`` is absolute."""

    data_dir: str
    host: str
    port: int
    workers: int
    concurrency: int

    def to_text(self) -> str:
        """Write them as one argument of a command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_text(text: str) -> UpOptions:
        """Read them back."""
        return UpOptions(**json.loads(text))
