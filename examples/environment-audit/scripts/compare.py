"""Compare the files of one shard with the hashes in their packages' RECORD.

What it finds is a result, not a failure: a failed step has no outputs, and the
report needs them. ``verify.py`` judges.
"""

from __future__ import annotations

# Ten thousand times a Path would cost more than the hashing.
# ruff: noqa: PTH116, PTH118, PTH123
import hashlib
import os
import stat
from base64 import urlsafe_b64encode
from typing import cast

import documents
from documents import Checked, Finding, RecordedFile, RecordedPackage, Records

ALGORITHMS = frozenset({"sha256", "sha384", "sha512"})
"""The format asks for SHA-256 or better, and names these as guaranteed to be there."""
SHOWN = 5


def digest(path: str, algorithm: str) -> str:
    """Hash a file as RECORD writes it: URL-safe base64 without padding."""
    with open(path, "rb", buffering=0) as file:
        raw = hashlib.file_digest(file, algorithm).digest()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def problem(path: str, recorded: RecordedFile) -> str:
    """Tell what is wrong with the file at ``path``; nothing is an empty text."""
    algorithm, _, expected = recorded["hash"].partition("=")
    if algorithm not in ALGORITHMS:
        return f"RECORD has a hash that cannot be trusted ({algorithm})"
    try:
        # A pipe or a device in a file's place would be read for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "is not a regular file"
        found = digest(path, algorithm)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if found == expected else f"was changed: {algorithm} is {found}, RECORD says {expected}"


def locate(package: RecordedPackage, roots: tuple[str, ...], path: str) -> str:
    """Resolve a recorded path; empty when it leads out of the environment.

    ``../../../bin/tool`` is how a script is recorded, so the environment is the
    bound and not the folder of the packages.
    """
    located = os.path.normpath(os.path.join(package["sitePackages"], path))
    return located if located.startswith(roots) else ""


def check(package: RecordedPackage, roots: tuple[str, ...], checked: Checked) -> None:
    """Add what became of the package's files to ``checked``."""

    def report(path: str, message: str) -> None:
        finding: Finding = {
            "package": package["name"],
            "version": package["version"],
            "path": path,
            "message": message,
        }
        checked["findings"].append(finding)

    if package["problem"].startswith("RECORD"):
        report("RECORD", package["problem"])
    for file in package["files"]:
        path = locate(package, roots, file["path"])
        if not path:
            report(file["path"], "leads out of the environment; it was not read")
        elif not file["hash"]:
            checked["unhashed"] += 1
        elif message := problem(path, file):
            report(file["path"], message)
        else:
            checked["matching"] += 1


def summarise(checked: Checked) -> str:
    """Say in a sentence how the shard's files compare."""
    findings = checked["findings"]
    if not findings:
        return f"{checked['matching']} files match their RECORD"
    named = [f"{finding['path']} of {finding['package']} {finding['message']}" for finding in findings]
    more = [f"and {len(named) - SHOWN} more"] if len(named) > SHOWN else []
    return "; ".join(named[:SHOWN] + more)


def main() -> None:
    """Read shard.json, write checked.json."""
    shard = cast(Records, documents.read("shard.json"))
    places = [shard["environment"]["prefix"], *shard["environment"]["sitePackages"]]
    roots = tuple(os.path.join(place, "") for place in places)
    checked: Checked = {
        "packages": [f"{package['name']} {package['version']}" for package in shard["packages"]],
        "matching": 0,
        "unhashed": 0,
        "findings": [],
    }
    for package in shard["packages"]:
        check(package, roots, checked)
    documents.write("checked.json", checked)
    documents.write_outputs(
        matching=checked["matching"],
        unhashed=checked["unhashed"],
        findings=len(checked["findings"]),
        summary=summarise(checked),
    )


if __name__ == "__main__":
    main()
