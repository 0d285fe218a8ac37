from __future__ import annotations

import os
import time
from pathlib import Path

from orchestrator_worker.work_folders import WorkFolder, remove_tree, sweep


def test_a_folder_is_private_and_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "root")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "a/b").mkdir(parents=True)
    (folder.path / "a/b/c").write_text("x")
    folder.remove()
    assert list((tmp_path / "root").iterdir()) == []


def test_a_link_to_the_outside_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    folder = WorkFolder(tmp_path / "root")
    (folder.path / "link").symlink_to(tmp_path / "outside")
    folder.remove()
    assert (tmp_path / "outside/kept").read_text() == "kept"


def test_a_folder_without_permissions_is_removed_as_well(tmp_path: Path) -> None:
    locked = tmp_path / "tree/locked"
    (locked / "inner").mkdir(parents=True)
    (locked / "inner/file").write_text("x")
    (locked / "inner").chmod(0)
    locked.chmod(0)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    remove_tree(tmp_path / "tree")


def test_a_sweep_takes_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    living = WorkFolder(tmp_path)
    (tmp_path / "attempt-of-the-dead").mkdir()
    (tmp_path / "attempt-of-the-dead/file").write_text("x")
    (tmp_path / "new-just-being-made").mkdir()
    (tmp_path / "new-never-finished").mkdir()
    os.utime(tmp_path / "new-never-finished", times=(time.time() - 3_600,) * 2)
    (tmp_path / "foreign").mkdir()
    assert sweep(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [living.path.name, "new-just-being-made", "foreign"]
    )
    living.remove()
    assert sweep(tmp_path / "absent") == 0
