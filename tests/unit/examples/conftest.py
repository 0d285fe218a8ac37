"""The environment that each test fills for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.examples.audited import AuditedEnvironment


@pytest.fixture
def audited(tmp_path: Path) -> AuditedEnvironment:
    return AuditedEnvironment(tmp_path)
