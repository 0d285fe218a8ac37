"""Tell each package's licence, as an SPDX expression where the package states one."""

from __future__ import annotations

from collections import Counter
from typing import cast

import documents
from documents import Inventory, Package, PackageLicence

SPDX = {
    "0bsd": "0BSD",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "gnu lesser general public license v3 or later (lgplv3+)": "LGPL-3.0-or-later",
    "isc": "ISC",
    "isc license (iscl)": "ISC",
    "mit": "MIT",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl-2.0": "MPL-2.0",
    "psf-2.0": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
"""What packages write, in lower case. "BSD License" is missing: it names no one licence."""
UNSTATED = "unstated"


def licence_of(package: Package) -> PackageLicence:
    """Read the licence from where it is stated most exactly."""
    classified = [
        classifier.rpartition(" :: ")[2]
        for classifier in package["classifiers"]
        if classifier.startswith("License :: ") and not classifier.endswith(":: OSI Approved")
    ]
    # Old packages put the whole text of the licence into the field.
    field = package["licence"].strip().partition("\n")[0].strip()[:100]
    licence, spdx, source = UNSTATED, False, "nowhere"
    if package["licenceExpression"]:
        licence, spdx, source = package["licenceExpression"], True, "License-Expression"
    elif field.lower() in SPDX:
        licence, spdx, source = SPDX[field.lower()], True, "License"
    elif len(classified) == 1 and classified[0].lower() in SPDX:
        licence, spdx, source = SPDX[classified[0].lower()], True, "Classifier"
    elif classified:
        licence, source = "; ".join(classified), "Classifier"
    elif field and field.upper() != "UNKNOWN":
        licence, source = field, "License"
    return {
        "name": package["name"],
        "version": package["version"],
        "licence": licence,
        "spdx": spdx,
        "source": source,
    }


def main() -> None:
    """Read inventory.json, write licences.json."""
    inventory = cast(Inventory, documents.read("inventory.json"))
    licences = [licence_of(package) for package in inventory["packages"]]
    documents.write("licences.json", {"packages": licences})
    documents.write_outputs(
        byLicence=dict(Counter(package["licence"] for package in licences)),
        unstated=[package["name"] for package in licences if package["licence"] == UNSTATED],
    )


if __name__ == "__main__":
    main()
