"""List the packages of this interpreter's environment, and the files that each says are its own.

Runs without the environment's own start-up code (``python -S``): what is audited
has no say in its audit. So the folders are worked out here, not taken from ``sys.path``.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import sys
import sysconfig
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import documents
from documents import Environment, Package, RecordedFile, RecordedPackage

PATH = re.compile(r"[^\x00-\x1f\x7f]+")
SIZE = re.compile(r"[0-9]{0,18}")


def environment() -> Environment:
    """Find the environment's folder and where its packages are."""
    # Not resolved: a virtual environment's interpreter is a link to another's.
    folder = Path(sys.executable).parent.parent
    if (folder / "pyvenv.cfg").is_file():
        paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    else:
        paths = sysconfig.get_paths()
    sites = dict.fromkeys(os.path.realpath(paths[kind]) for kind in ("purelib", "platlib"))
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "prefix": os.path.realpath(paths["data"]),
        "sitePackages": list(sites),
    }


def recorded_files(record: Path) -> list[RecordedFile]:
    """Read RECORD; a line that breaks its format raises ValueError."""
    files: list[RecordedFile] = []
    with record.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            match row:
                case [path, digest, size] if PATH.fullmatch(path) and SIZE.fullmatch(size):
                    files.append({"path": path, "hash": digest, "size": int(size or 0)})
                case _:
                    raise ValueError(f"line {number} is not path, hash and size")
    return files


def record_of(info: Path, name: str, version: str) -> RecordedPackage:
    """Read which files a package recorded; a broken RECORD is told, it stops nothing."""
    files: list[RecordedFile] = []
    problem = ""
    try:
        files = recorded_files(info / "RECORD")
    except (FileNotFoundError, NotADirectoryError):
        problem = "has no RECORD"
    except (OSError, ValueError, csv.Error) as error:
        problem = f"RECORD cannot be read: {error}"
    site = str(info.parent)
    return {"name": name, "version": version, "sitePackages": site, "problem": problem, "files": files}


def metadata_of(info: Path) -> Message:
    """Read a package's core metadata; empty where it has none."""
    for name in ("METADATA", "PKG-INFO"):
        path = info / name if info.is_dir() else info
        if path.is_file():
            return HeaderParser().parsestr(path.read_text(encoding="utf-8", errors="replace"))
    return Message()


def editable_url(info: Path) -> str:
    """Tell where the sources of an editable install are, or an empty text."""
    path = info / "direct_url.json"
    if not path.is_file():
        return ""
    try:
        direct = json.loads(path.read_text(encoding="utf-8"))
        return str(direct["url"]) if direct.get("dir_info", {}).get("editable") else ""
    except (ValueError, KeyError, AttributeError):
        return "an unknown place (direct_url.json cannot be read)"


def describe(info: Path) -> tuple[Package, RecordedPackage]:
    """Describe the package that a ``.dist-info`` or ``.egg-info`` stands for."""
    metadata = metadata_of(info)
    named, _, versioned = info.stem.partition("-")
    name, version = str(metadata.get("Name", named)), str(metadata.get("Version", versioned or "0"))
    record = record_of(info, name, version)
    package: Package = {
        "name": name,
        "version": version,
        "licenceExpression": str(metadata.get("License-Expression", "")),
        "licence": str(metadata.get("License", "")),
        "classifiers": [str(value) for value in metadata.get_all("Classifier", [])],
        "requires": [str(value) for value in metadata.get_all("Requires-Dist", [])],
        "editable": editable_url(info),
        "recorded": record["problem"] != "has no RECORD",
        "fileCount": len(record["files"]),
        "bytes": sum(file["size"] for file in record["files"]),
    }
    return package, record


def main() -> None:
    """Write inventory.json and records.json."""
    where = environment()
    infos = sorted(
        info
        for site in where["sitePackages"]
        for pattern in ("*.dist-info", "*.egg-info")
        # A name that begins with "~" is what an interrupted uninstall left behind; pip ignores it too.
        for info in Path(site).glob(pattern)
        if not info.name.startswith("~")
    )
    found = sorted(map(describe, infos), key=lambda pair: (pair[0]["name"].lower(), pair[0]["version"]))
    packages = [package for package, _ in found]
    documents.write("inventory.json", {"environment": where, "packages": packages})
    documents.write("records.json", {"environment": where, "packages": [record for _, record in found]})
    documents.write_outputs(
        prefix=where["prefix"],
        python=where["python"],
        packages=len(packages),
        recordedFiles=sum(package["fileCount"] for package in packages),
        bytes=sum(package["bytes"] for package in packages),
    )


if __name__ == "__main__":
    main()
