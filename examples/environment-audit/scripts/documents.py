"""The JSON documents that the steps hand to one another, and the two folders of a step.

A step reads the files that ``inputFiles`` placed into its working folder and
writes to the folder that ``ORCH_OUTPUT_DIR`` names. The documents hold no times
and no random numbers, so that auditing an unchanged environment again gives the
same bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypedDict


class Environment(TypedDict):
    python: str
    implementation: str
    prefix: str
    sitePackages: list[str]


class Package(TypedDict):
    """What a package says of itself. ``editable`` is the URL of its sources, or empty."""

    name: str
    version: str
    licenceExpression: str
    licence: str
    classifiers: list[str]
    requires: list[str]
    editable: str
    recorded: bool
    fileCount: int
    bytes: int


class Inventory(TypedDict):
    environment: Environment
    packages: list[Package]


class RecordedFile(TypedDict):
    """A line of RECORD. ``hash`` (``sha256=...``) is empty for what may change, like bytecode."""

    path: str
    hash: str
    size: int


class RecordedPackage(TypedDict):
    """The files of a package. ``problem`` tells why its RECORD could not be read, or is empty."""

    name: str
    version: str
    sitePackages: str
    problem: str
    files: list[RecordedFile]


class Records(TypedDict):
    """The recorded files of all packages, or of one shard's."""

    environment: Environment
    packages: list[RecordedPackage]


class Finding(TypedDict):
    package: str
    version: str
    path: str
    message: str


class Checked(TypedDict):
    """What became of a shard's files. ``unhashed`` ones have no hash in RECORD to compare with."""

    packages: list[str]
    matching: int
    unhashed: int
    findings: list[Finding]


class PackageLicence(TypedDict):
    """``spdx`` tells whether ``licence`` is an SPDX expression; ``source`` where it was stated."""

    name: str
    version: str
    licence: str
    spdx: bool
    source: str


class Strays(TypedDict):
    paths: list[str]
    compiled: int


def read(name: str) -> object:
    """Read a document from the step's working folder."""
    document: object = json.loads(Path(name).read_text(encoding="utf-8"))
    return document


def write(name: str, document: object, *, indent: int | None = None) -> None:
    """Write a document as an output file of the step."""
    write_text(name, json.dumps(document, indent=indent, sort_keys=True) + "\n")


def write_text(name: str, text: str) -> None:
    """Write an output file of the step."""
    Path(os.environ["ORCH_OUTPUT_DIR"], name).write_text(text, encoding="utf-8")


def write_outputs(**outputs: object) -> None:
    """Write what other steps can read as ``steps.<id>.outputs``."""
    write("outputs.json", outputs)
