"""Find the files beside the packages that no package recorded.

Some are harmless leavings; a ``.pth`` that nobody owns runs at every start of the
interpreter, so a person should look at what is listed here.
"""

from __future__ import annotations

# A Path for each of ten thousand files would take longer than the walk.
# ruff: noqa: PTH114, PTH118, PTH119
import os
from typing import cast

import documents
from documents import Records, Strays


def owned_paths(records: Records) -> frozenset[str]:
    """Collect where the recorded files are."""
    return frozenset(
        os.path.normpath(os.path.join(package["sitePackages"], file["path"]))
        for package in records["packages"]
        for file in package["files"]
    )


def printable(path: str) -> str:
    """Spell a path so that it can be written as UTF-8, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find(site: str, owned: frozenset[str]) -> Strays:
    """Walk a folder of packages; links are listed, not followed."""
    strays: Strays = {"paths": [], "compiled": 0}
    for folder, subfolders, names in os.walk(site):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            path = os.path.join(folder, name)
            if path in owned:
                continue
            if os.path.basename(folder) == "__pycache__":
                strays["compiled"] += 1
            else:
                strays["paths"].append(printable(os.path.relpath(path, site)))
    strays["paths"].sort()
    return strays


def main() -> None:
    """Read records.json, write strays.json."""
    records = cast(Records, documents.read("records.json"))
    owned = owned_paths(records)
    found = [find(site, owned) for site in records["environment"]["sitePackages"]]
    strays: Strays = {
        "paths": [path for part in found for path in part["paths"]],
        "compiled": sum(part["compiled"] for part in found),
    }
    documents.write("strays.json", strays)
    documents.write_outputs(
        count=len(strays["paths"]),
        compiled=strays["compiled"],
        startUpHooks=[path for path in strays["paths"] if path.endswith(".pth") and os.sep not in path],
    )


if __name__ == "__main__":
    main()
