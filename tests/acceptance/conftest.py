"""Fixtures: one stack for the tests that harm nothing, and a way to tell what was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.support.site import Site, running_site


@pytest.fixture(scope="package")
def calm_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("calm") / "data") as running:
        yield running


@pytest.fixture
def site(calm_site: Site) -> Iterator[Site]:
    """A stack that nothing befalls; after the test all is well in its ledger."""
    yield calm_site
    calm_site.check()


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Tell a measurement to whoever watches the tests."""

    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write


@pytest.fixture
def races(request: pytest.FixtureRequest) -> int:
    """How often things that race are to race."""
    return int(request.config.getoption("--races"))


@pytest.fixture
def ends(request: pytest.FixtureRequest) -> int:
    """How often programs are told to go."""
    return int(request.config.getoption("--ends"))
