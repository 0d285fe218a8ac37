"""Who has a peer, and what is said where nobody has."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from bench.peer_process import find_python
from bench.subject import BenchError


def test_the_environment_names_the_python_of_a_peer() -> None:
    found = find_python("celery", {"BENCH_CELERY_PYTHON": sys.executable})
    assert (found.program, found.version) == (Path(sys.executable), version("celery"))


def test_a_python_without_the_peer_is_refused_with_what_to_do() -> None:
    with pytest.raises(BenchError, match="make bench PEERS=nobody"):
        find_python("nobody", {"BENCH_NOBODY_PYTHON": sys.executable})


def test_a_python_that_is_not_there_is_refused_with_what_to_do() -> None:
    with pytest.raises(BenchError, match="BENCH_NOBODY_PYTHON names"):
        find_python("nobody", {})
