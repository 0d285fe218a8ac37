"""Write the audit's report for a person, in Markdown.

A shard that could not be compared is handed in as it was planned; its packages
are then named as not checked.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import documents
from documents import Checked, Finding, Inventory, Package, PackageLicence, Records, Strays

Row = tuple[object, ...]
SHOWN = 200


def cell(text: object) -> str:
    """Make a text safe for a cell of a table: what is audited must not write the report."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\|`\[])", r"\\\1", flat).replace("<", "&lt;")


def table(header: tuple[str, ...], rows: list[Row]) -> list[str]:
    """Lay out rows, and say how many were left out; none is a sentence."""
    if not rows:
        return ["None.", ""]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows[:SHOWN]]
    return [*lines, "", *([f"And {len(rows) - SHOWN} more.", ""] if len(rows) > SHOWN else [])]


def uncovered(packages: list[Package], unchecked: list[str]) -> list[Row]:
    """List what the comparison says nothing about, and why."""
    rows: list[Row] = [(name, "its shard was not compared") for name in unchecked]
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if not package["recorded"]:
            rows.append((name, "has no RECORD"))
        if package["editable"]:
            rows.append((name, f"editable: its sources at {package['editable']} are recorded nowhere"))
    return rows


def package_rows(packages: list[Package], licences: list[PackageLicence]) -> list[Row]:
    """List the packages with what is known of each."""
    known = {(licence["name"], licence["version"]): licence["licence"] for licence in licences}
    return [
        (p["name"], p["version"], known[p["name"], p["version"]], p["fileCount"], f"{p['bytes']:,}")
        for p in packages
    ]


def licence_rows(licences: list[PackageLicence]) -> list[Row]:
    """Count the packages by licence, the commonest first."""
    names: dict[str, list[str]] = {}
    for licence in licences:
        names.setdefault(licence["licence"], []).append(licence["name"])
    ordered = sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(licence, len(packages), ", ".join(packages)) for licence, packages in ordered]


def counted(count: int, noun: str) -> str:
    return f"{count} {noun} is" if count == 1 else f"{count} {noun}s are"


def verdict(findings: list[Finding], unchecked: list[str]) -> str:
    """Say in a sentence what the audit came to."""
    parts = [f"{counted(len(findings), 'recorded file')} not as recorded"] if findings else []
    parts += [f"{counted(len(unchecked), 'package')} not checked"] if unchecked else []
    return " and ".join(parts) or "every file that was recorded with a hash is unchanged"


def opening(inventory: Inventory, checked: list[Checked], strays: Strays) -> list[str]:
    """Say what was looked at, in figures."""
    where = inventory["environment"]
    matching, unhashed = (sum(shard[key] for shard in checked) for key in ("matching", "unhashed"))
    return [
        f"{where['implementation']} {where['python']}, {len(inventory['packages'])} packages.",
        f"{matching} files match the hash in their package's RECORD; {unhashed} are recorded without one.",
        f"Beside the packages lie {len(strays['paths'])} files that no package recorded,",
        f"and {strays['compiled']} compiled ones.",
        "",
    ]


def read_shards() -> tuple[list[Checked], list[str]]:
    """Read the shards that were compared, and name the packages of those that were not."""
    checked: list[Checked] = []
    unchecked: list[str] = []
    for path in sorted(Path().glob("shard-*.json")):
        shard = cast(Checked | Records, documents.read(path.name))
        if "findings" in shard:
            checked.append(cast(Checked, shard))
        else:
            unchecked += [f"{p['name']} {p['version']}" for p in shard["packages"]]
    return checked, unchecked


def main() -> None:
    """Join the other steps' documents into report.md."""
    inventory = cast(Inventory, documents.read("inventory.json"))
    licences = cast(dict[str, list[PackageLicence]], documents.read("licences.json"))["packages"]
    strays = cast(Strays, documents.read("strays.json"))
    checked, unchecked = read_shards()
    findings = [finding for shard in checked for finding in shard["findings"]]
    packages, result = inventory["packages"], verdict(findings, unchecked)
    found: list[Row] = [(f"{f['package']} {f['version']}", f["path"], f["message"]) for f in findings]
    sections = {
        "Files that are not as recorded": table(("package", "file", "what"), found),
        "Not covered": table(("package", "why"), uncovered(packages, unchecked)),
        "Files that no package recorded": table(("file",), [(path,) for path in strays["paths"]]),
        "Licences": table(("licence", "packages", "which"), licence_rows(licences)),
        "Packages": table(
            ("package", "version", "licence", "files", "bytes"), package_rows(packages, licences)
        ),
    }
    lines = [f"# Audit of {inventory['environment']['prefix']}", "", f"**{result.capitalize()}.**", ""]
    lines += opening(inventory, checked, strays)
    for title, rows in sections.items():
        lines += [f"## {title}", "", *rows]
    documents.write_text("report.md", "\n".join(lines))
    documents.write_outputs(verdict=result, findings=len(findings), unchecked=unchecked)


if __name__ == "__main__":
    main()
