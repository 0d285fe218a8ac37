"""Write what went wrong as a few lines of Markdown, one for each argument."""

from __future__ import annotations

import sys

import documents


def main() -> None:
    """Write failure.md."""
    lines = ["# The audit failed", "", *(f"- {' '.join(argument.split())}" for argument in sys.argv[1:]), ""]
    documents.write_text("failure.md", "\n".join(lines))
    documents.write_outputs(lines=len(lines) - 3)


if __name__ == "__main__":
    main()
