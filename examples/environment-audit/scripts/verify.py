"""Fail when a shard has a file that is not what its package's RECORD says."""

from __future__ import annotations

import sys
from typing import cast

import documents
from documents import Checked

SHOWN = 3
"""The last lines of the error stream, a thousand characters, become the step's error message."""


def main() -> int:
    """Name the findings in checked.json on the error stream; 1 if there are any."""
    checked = cast(Checked, documents.read("checked.json"))
    findings = checked["findings"]
    if not findings:
        documents.write_outputs(verified=checked["matching"])
        return 0
    count = len(findings)
    lines = [f"{count} of the recorded files {'is' if count == 1 else 'are'} not as recorded:"]
    lines += [f"{f['path']} of {f['package']} {f['version']} {f['message']}" for f in findings[:SHOWN]]
    lines += [f"and {count - SHOWN} more, all in the report"] if count > SHOWN else []
    sys.stderr.write("\n".join(lines) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
