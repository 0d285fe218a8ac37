"""Markdown, as much of it as the report needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.results import Latency, Series


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def milliseconds(latency: Latency, percents: Sequence[float]) -> list[str]:
    """Write the times that so many percent stayed within."""
    return [f"{1_000 * latency.percentile(percent):.1f}" for percent in percents]


def seconds(series: Series) -> str:
    """Write the median, and the fastest and the slowest round."""
    return f"{series.median:.3f} ({series.fastest:.3f}-{series.slowest:.3f})"


def mebibytes(kilobytes: float) -> str:
    return f"{kilobytes / 1_024:.1f}"
