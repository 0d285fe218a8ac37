"""Deal the packages out into shards that take about equally long to compare."""

from __future__ import annotations

import sys
from heapq import heapify, heapreplace
from typing import cast

import documents
from documents import RecordedPackage, Records

FILE_WEIGHT = 50_000
"""Opening a file costs about as much as hashing this many bytes."""


def weight(package: RecordedPackage) -> int:
    return sum(file["size"] + FILE_WEIGHT for file in package["files"])


def deal(packages: list[RecordedPackage], count: int) -> list[list[RecordedPackage]]:
    """Give each package, the heaviest first, to the shard that has least so far."""
    shards: list[list[RecordedPackage]] = [[] for _ in range(count)]
    loads = [(0, shard) for shard in range(count)]
    heapify(loads)
    for package in sorted(packages, key=weight, reverse=True):
        load, shard = loads[0]
        shards[shard].append(package)
        heapreplace(loads, (load + weight(package), shard))
    return [sorted(shard, key=lambda package: package["name"].lower()) for shard in shards]


def main() -> None:
    """Write shard-0.json and so on, as many as the first argument says."""
    records = cast(Records, documents.read("records.json"))
    shards = deal(records["packages"], int(sys.argv[1]))
    for number, packages in enumerate(shards):
        documents.write(f"shard-{number}.json", {**records, "packages": packages})
    documents.write_outputs(
        packages=[len(shard) for shard in shards],
        bytes=[sum(file["size"] for package in shard for file in package["files"]) for shard in shards],
    )


if __name__ == "__main__":
    main()
