"""Points at which a process can be made to die, without a word about them in the code of the product.

Python imports ``sitecustomize`` at its start from wherever PYTHONPATH says: the one in this folder wraps the
functions named here as their modules are loaded, in every process of a stack. A point does nothing until a
file of its name appears; the first process that passes there takes the file, and dies, hangs or raises.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

FUNCTIONS = (
    "shared.store.calls:begin",
    "shared.store.calls:finish",
    "shared.store.runs:start",
    "shared.store.runs:cancel",
    "shared.store.dispatch:pick",
    "shared.messaging.doorbell:send",
    "shared.messaging.doorbell:send_decide",
    "shared.store.work:renew",
    "shared.store.work:settle",
    "shared.store.work:decide",
    "shared.store.recovery:wake",
    "shared.store.recovery:rescue",
    "shared.store.recovery:resend",
    "orchestrator_worker.executor:run_attempt",
    "shared.artifacts:FolderStore._keep",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failpoints:
    """The points of the processes that were started with ``environ``."""

    folder: Path

    def environ(self) -> dict[str, str]:
        """Give the variables with which a process has the points."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "functions.json").write_text(json.dumps(FUNCTIONS))
        here = str(Path(__file__).parent)
        path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        return {"FAILPOINTS": str(self.folder), "PYTHONPATH": path}

    def arm(self, point: str, action: str = "crash") -> None:
        """Have the next process at a point, ``module:function before`` or ``... after``, do that once."""
        function, _, moment = point.partition(" ")
        assert function in FUNCTIONS and moment in ("before", "after"), point
        new = self.folder / ".new"
        new.write_text(action)
        new.rename(self.folder / point)

    def taken(self, point: str) -> bool:
        """Tell whether a process has come by since the point was armed."""
        return not (self.folder / point).exists()

    def disarm(self) -> None:
        """Take back what no process has come by."""
        for point in self.folder.glob("*:*"):
            point.unlink(missing_ok=True)
