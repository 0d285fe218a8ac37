"""The lock of a data folder tells who holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.errors import CommandError


def test_whoever_finds_the_folder_in_use_is_told_by_whom(tmp_path: Path) -> None:
    folder = DataFolder(path=tmp_path)
    with folder.locked(41_111):
        folder.tell_stopping(41_111)
    with folder.locked(222), pytest.raises(CommandError, match=r"in use by pid 222$"), folder.locked(3):
        pass
