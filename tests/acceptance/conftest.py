"""Fixtures: one stack for the tests that harm nothing."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(scope="module")
def shaken_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stack that the tests of a module may break."""
    with running_site(tmp_path_factory.mktemp("shaken") / "data") as running:
        yield running


@pytest.fixture
def races(request: pytest.FixtureRequest) -> int:
    """How often things that race are to race."""
    return int(request.config.getoption("--races"))


@pytest.fixture
def ends(request: pytest.FixtureRequest) -> int:
    """How often programs are told to go."""
    return int(request.config.getoption("--ends"))
