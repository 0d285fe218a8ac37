from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from shared.artifacts import ArtifactCorrupt, ArtifactTooLarge, FolderStore, open_store
from shared.domain.models import Sha256
from shared.errors import ArtifactNotFound, StoreUnavailable

CONTENT = b"what a step wrote"
SHA256 = Sha256(hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


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


def test_what_a_crash_left_is_removed_once_it_is_old(store: FolderStore, tmp_path: Path) -> None:
    old, fresh = tmp_path / "store/.new/old", tmp_path / "store/.new/fresh"
    old.write_bytes(b"half")
    fresh.write_bytes(b"hal")
    os.utime(old, times=(time.time() - 7_200,) * 2)
    FolderStore(tmp_path / "store")
    assert files(tmp_path) == [".new/fresh"]


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
