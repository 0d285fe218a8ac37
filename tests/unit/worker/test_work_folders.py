from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from orchestrator_worker.work_folders import WorkFolder, remove_tree, sweep
from tests.support.small_disk import small_disk


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


def test_a_tree_deeper_than_any_path_can_name_is_removed(tmp_path: Path) -> None:
    make_deep(tmp_path / "tree", 1_500)
    (tmp_path / "tree/beside").mkdir()
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_leaves_what_it_cannot_remove_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "attempt-a/mounted").mkdir(parents=True)
    (tmp_path / "attempt-b").mkdir()
    (tmp_path / "attempt-c").write_text("no folder at all")
    with small_disk(tmp_path / "attempt-a/mounted"):
        assert sweep(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempt-a", "attempt-c"]


def test_a_sweep_ends_what_the_dead_left_running_and_nobody_else(tmp_path: Path) -> None:
    living = WorkFolder(tmp_path)
    dead = tmp_path / "attempt-of-the-dead"
    dead.mkdir()
    processes = {
        folder: subprocess.Popen(["sleep", "600"], env={"ORCH_OUTPUT_DIR": f"{folder}/out"}, cwd=tmp_path)
        for folder in (dead, living.path)
    }
    try:
        assert sweep(tmp_path) == 1
        assert processes[dead].wait(timeout=5) == -signal.SIGKILL
        assert processes[living.path].poll() is None
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        living.remove()


def make_deep(top: Path, depth: int) -> None:
    """Make folders one in the other, far beyond the length that a path may have."""
    top.mkdir()
    folder = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("inner", dir_fd=folder)
        inner = os.open("inner", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)


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
