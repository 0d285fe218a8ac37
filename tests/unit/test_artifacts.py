from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.artifacts import ArtifactCorrupt, ArtifactTooLarge, FolderStore, open_store
from shared.domain.models import Sha256
from shared.errors import ArtifactNotFound, StoreUnavailable
from tests.support.eventually import eventually
from tests.support.small_disk import small_disk

CONTENT = b"what a step wrote"
SHA256 = Sha256(hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def small_store(tmp_path: Path) -> Iterator[FolderStore]:
    """A store on a file system of a megabyte."""
    with small_disk(tmp_path / "store"):
        yield FolderStore(tmp_path / "store")


def files(tmp_path: Path) -> list[str]:
    root = tmp_path / "store"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_bytes_are_kept_under_their_hash(store: FolderStore, tmp_path: Path) -> None:
    assert store.put_bytes(CONTENT) == (SHA256, len(CONTENT))
    assert files(tmp_path) == [f"{SHA256[:2]}/{SHA256}"]
    with store.open(SHA256) as file:
        assert file.read() == CONTENT
    assert store.size(SHA256) == len(CONTENT)


def test_a_file_and_the_same_bytes_are_one_artifact(store: FolderStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    assert store.put_file(source) == store.put_bytes(CONTENT)
    assert files(tmp_path) == [f"{SHA256[:2]}/{SHA256}"]
    source.write_bytes(b"changed later")
    with store.open(SHA256) as file:
        assert file.read() == CONTENT


def test_what_is_there_already_is_not_written_again(store: FolderStore, tmp_path: Path) -> None:
    store.put_bytes(CONTENT)
    path = tmp_path / "store" / SHA256[:2] / SHA256
    before = path.stat().st_ino
    store.put_bytes(CONTENT)
    assert path.stat().st_ino == before


def test_many_writers_of_one_hash_all_succeed(store: FolderStore, tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    results: list[tuple[Sha256, int]] = []

    def put() -> None:
        barrier.wait()
        results.append(store.put_bytes(CONTENT))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(SHA256, len(CONTENT))] * 8
    assert files(tmp_path) == [f"{SHA256[:2]}/{SHA256}"]


def test_content_over_the_limit_leaves_nothing(store: FolderStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with pytest.raises(ArtifactTooLarge):
        store.put_bytes(CONTENT, max_bytes=len(CONTENT) - 1)
    with pytest.raises(ArtifactTooLarge):
        store.put_file(source, max_bytes=len(CONTENT) - 1)
    assert files(tmp_path) == []
    store.put_file(source, max_bytes=len(CONTENT))


def test_a_symbolic_link_is_never_followed(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        store.put_file(tmp_path / "link")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "name", [SHA256, "", "abc", "../../etc/passwd", SHA256.upper(), SHA256 + "0", "g" * 64]
)
def test_a_name_that_is_no_stored_hash_is_not_found(store: FolderStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactNotFound):
        store.open(Sha256(name))
    with pytest.raises(ArtifactNotFound):
        store.size(Sha256(name))
    with pytest.raises(ArtifactNotFound):
        store.copy_to(Sha256(name), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_is_read_only_and_apart_from_the_store(store: FolderStore, tmp_path: Path) -> None:
    store.put_bytes(CONTENT)
    copy = tmp_path / "copy"
    store.copy_to(SHA256, copy)
    assert copy.stat().st_mode & 0o777 == 0o444
    copy.chmod(0o644)
    copy.write_bytes(b"tampered")
    with store.open(SHA256) as file:
        assert file.read() == CONTENT


def test_bytes_that_rotted_in_the_store_are_not_handed_out(store: FolderStore, tmp_path: Path) -> None:
    store.put_bytes(CONTENT)
    path = tmp_path / "store" / SHA256[:2] / SHA256
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    with pytest.raises(ArtifactCorrupt):
        store.copy_to(SHA256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


WRITE = """
import sys
from pathlib import Path
from shared.artifacts import FolderStore
FolderStore(Path(sys.argv[1])).put_file(Path(sys.argv[2]))
"""


def test_what_a_crash_left_is_removed_and_what_is_being_written_is_not(
    store: FolderStore, tmp_path: Path
) -> None:
    endless = tmp_path / "endless"
    with endless.open("wb") as file:
        file.truncate(1 << 40)
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path / "store"), str(endless)])
    try:
        eventually(lambda: files(tmp_path))
        writer.send_signal(signal.SIGSTOP)
        FolderStore(tmp_path / "store")
        assert len(files(tmp_path)) == 1
    finally:
        writer.kill()
        writer.wait()
    FolderStore(tmp_path / "store")
    assert files(tmp_path) == []


def test_a_store_that_is_in_use_removes_what_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.artifacts.SWEEP_EVERY_SECONDS", 0)
    store = FolderStore(tmp_path / "store")
    (tmp_path / "store/.new/left").write_bytes(b"half")
    store.put_bytes(CONTENT)
    assert not any(file.startswith(".new") for file in files(tmp_path))


def test_a_full_store_says_so_keeps_nothing_of_it_and_works_again_once_there_is_room(
    small_store: FolderStore, tmp_path: Path
) -> None:
    room = tmp_path / "store/ballast"
    room.write_bytes(bytes(900_000))
    source = tmp_path / "source"
    source.write_bytes(os.urandom(500_000))
    before = files(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="the artifact store is full"):
            small_store.put_file(source)
        with pytest.raises(StoreUnavailable, match="the artifact store is full"):
            small_store.put_bytes(source.read_bytes())
        assert files(tmp_path) == before
    room.unlink()
    sha256, _ = small_store.put_file(source)
    small_store.copy_to(sha256, tmp_path / "copy")


def test_a_full_target_is_not_blamed_on_the_store(small_store: FolderStore, tmp_path: Path) -> None:
    apart = FolderStore(tmp_path / "apart")
    sha256, _ = apart.put_bytes(bytes(2_000_000))
    with pytest.raises(OSError, match="No space left"):
        apart.copy_to(sha256, tmp_path / "store/target")


def test_bytes_that_were_cut_in_the_store_are_written_anew(store: FolderStore, tmp_path: Path) -> None:
    store.put_bytes(CONTENT)
    path = tmp_path / "store" / SHA256[:2] / SHA256
    path.chmod(0o644)
    path.write_bytes(CONTENT[:-1])
    store.put_bytes(CONTENT)
    assert path.read_bytes() == CONTENT


def test_a_store_that_was_away_works_again_when_it_is_back(store: FolderStore, tmp_path: Path) -> None:
    store.put_bytes(CONTENT)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    # What a volume is mounted on is there without it.
    (tmp_path / "store").mkdir()
    for use in (lambda: store.open(SHA256), lambda: store.size(SHA256), lambda: store.put_bytes(b"other")):
        with pytest.raises(StoreUnavailable):
            use()
    assert files(tmp_path) == []
    (tmp_path / "store").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    store.put_bytes(b"other")
    assert store.size(SHA256) == len(CONTENT)


def test_a_store_that_cannot_be_written_is_unavailable(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "store/.new").rmdir()
    with pytest.raises(StoreUnavailable, match="No such file"):
        store.put_bytes(CONTENT)


def test_a_store_is_named_by_an_absolute_file_url(tmp_path: Path) -> None:
    sha256, _ = open_store(f"file://{tmp_path}/with%20space").put_bytes(CONTENT)
    assert (tmp_path / "with space" / sha256[:2] / sha256).exists()
    for url in ("s3://bucket", "file://host/share", "file:relative", "/plain/path", ""):
        with pytest.raises(ValueError, match="must be file:///"):
            open_store(url)
