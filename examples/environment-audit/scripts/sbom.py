"""Write the environment's bill of materials as CycloneDX 1.6 JSON.

Plain JSON, so that any interpreter can be audited with nothing installed into it.
It carries no time of making, and its serial number follows from what is in it:
an unchanged environment gives the same document.
"""

from __future__ import annotations

import json
import re
from typing import cast
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

import documents
from documents import Inventory, Package, PackageLicence

ENVIRONMENT = "environment"


def normal(name: str) -> str:
    """Normalise a package's name as the packaging standard does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def purl(package: Package) -> str:
    """Form the package URL, which also serves as the reference within the document."""
    return f"pkg:pypi/{quote(normal(package['name']))}@{quote(package['version'], safe='.-_~')}"


def component(package: Package, licence: PackageLicence) -> dict[str, object]:
    """Describe a package."""
    described: dict[str, object] = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
    }
    if licence["spdx"]:
        described["licenses"] = [{"expression": licence["licence"]}]
    elif licence["source"] != "nowhere":
        described["licenses"] = [{"license": {"name": licence["licence"]}}]
    return described


def required_names(package: Package) -> set[str]:
    """List what a package requires, leaving out what only its extras require."""
    wanted = [req for req in package["requires"] if not re.search(r";.*\bextra\b", req)]
    matches = [re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", req) for req in wanted]
    return {normal(match[0]) for match in matches if match}


def dependencies(packages: dict[str, Package]) -> list[dict[str, object]]:
    """Link each package to those of its requirements that are installed."""
    refs: dict[str, list[str]] = {}
    for ref, package in packages.items():
        refs.setdefault(normal(package["name"]), []).append(ref)
    links: list[dict[str, object]] = [{"ref": ENVIRONMENT, "dependsOn": sorted(packages)}]
    for ref, package in packages.items():
        needed = {target for name in required_names(package) for target in refs.get(name, [])}
        links.append({"ref": ref, "dependsOn": sorted(needed)})
    return links


def bill(inventory: Inventory, licences: list[PackageLicence]) -> dict[str, object]:
    """Put the document together."""
    # A package that is installed twice in the same version is one component.
    pairs = {
        purl(package): (package, licence)
        for package, licence in zip(inventory["packages"], licences, strict=True)
    }
    where = inventory["environment"]
    content: dict[str, object] = {
        "metadata": {
            "component": {
                "type": "platform",
                "bom-ref": ENVIRONMENT,
                "name": where["implementation"],
                "version": where["python"],
            }
        },
        "components": [component(*pair) for pair in pairs.values()],
        "dependencies": dependencies({ref: package for ref, (package, _) in pairs.items()}),
    }
    serial = uuid5(NAMESPACE_URL, json.dumps(content, sort_keys=True))
    head = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return {**head, **content}


def main() -> None:
    """Read inventory.json and licences.json, write sbom.cdx.json."""
    inventory = cast(Inventory, documents.read("inventory.json"))
    licences = cast(dict[str, list[PackageLicence]], documents.read("licences.json"))["packages"]
    document = bill(inventory, licences)
    documents.write("sbom.cdx.json", document, indent=2)
    documents.write_outputs(components=len(cast(list[object], document["components"])))


if __name__ == "__main__":
    main()
