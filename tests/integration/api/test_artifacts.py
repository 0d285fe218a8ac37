from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from shared.domain.models import ArtifactRef, Sha256, Succeeded
from tests.integration.api.conftest import Api, finish_step
from tests.support.tokens import Signer
from tests.support.web import serving

CONTENT = bytes(range(256)) * 400
HASH = Sha256("ab" * 32)


def store(api: Api, content: bytes = CONTENT, content_type: str = "text/plain; charset=utf-8") -> str:
    """Have a step of tenant acme write an artifact; give its path."""
    body = {"dagId": "one", "version": "1.0.0", "steps": [{"id": "a", "uses": "noop"}]}
    api.post("/dags", body)
    run_id = api.post("/runs", {"dagId": "one"}).get_json()["runId"]
    sha256, size = api.parts.artifacts.put_bytes(content)
    ref = ArtifactRef(name="out", sha256=sha256, size_bytes=size, content_type=content_type)
    finish_step(api, run_id, 0, Succeeded(outputs={}, outputs_hash=HASH, inputs_hash=HASH, artifacts=(ref,)))
    return f"/artifacts/{sha256}"


def test_an_artifact_is_given_as_it_was_stored(api: Api) -> None:
    path = store(api)
    response = api.get(path)
    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Content-Length"] == str(len(CONTENT))
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "private, no-cache"
    response.close()
    same = api.get(path, headers={"If-None-Match": response.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    head = api.call("HEAD", path)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Length"] == str(len(CONTENT))


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, CONTENT[:10]),
        ("bytes=100-", 206, CONTENT[100:]),
        ("bytes=-5", 206, CONTENT[-5:]),
        ("lines=1-2", 200, CONTENT),
        ("bytes=0-1,5-6", 200, CONTENT),
        ("bytes=nine", 200, CONTENT),
    ],
)
def test_a_range_is_given_alone(api: Api, asked: str, status: int, part: bytes) -> None:
    response = api.get(store(api), headers={"Range": asked})
    assert (response.status_code, response.data) == (status, part)
    assert response.headers["Content-Length"] == str(len(part))
    response.close()


def test_a_range_beyond_the_end_is_refused(api: Api) -> None:
    response = api.get(store(api), headers={"Range": f"bytes={len(CONTENT)}-"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (416, "INVALID_ARGUMENT")
    assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


def test_a_content_type_that_is_none_is_not_repeated(api: Api) -> None:
    with api.get(store(api, b"x", "text/html\r\nX-Evil: 1")) as response:
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert "X-Evil" not in response.headers


def test_an_empty_artifact_is_given(api: Api) -> None:
    with api.get(store(api, b"")) as response:
        assert (response.status_code, response.data) == (200, b"")


def test_the_same_bytes_are_not_there_for_another_tenant(api: Api) -> None:
    path = store(api)
    stranger = api.as_("globex")
    for other in (path, "/artifacts/" + "0" * 64):
        refused = stranger.get(other)
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (404, "ARTIFACT_NOT_FOUND")


def damage(tmp_path: Path, path: str, change: Callable[[bytearray], None]) -> None:
    """Change the stored bytes of an artifact behind the store's back."""
    sha256 = path.rsplit("/", 1)[1]
    file = tmp_path / "artifacts" / sha256[:2] / sha256
    content = bytearray(file.read_bytes())
    change(content)
    file.chmod(0o644)
    file.write_bytes(content)


def truncate(content: bytearray) -> None:
    del content[-1:]


def lengthen(content: bytearray) -> None:
    content += b"x"


def flip(content: bytearray) -> None:
    content[-1] ^= 1


@pytest.mark.parametrize("change", [truncate, lengthen, flip])
def test_damaged_bytes_are_not_given_as_if_they_were_whole(
    api: Api, tmp_path: Path, change: Callable[[bytearray], None]
) -> None:
    path = store(api)
    damage(tmp_path, path, change)
    response = api.get(path)
    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "INTERNAL")
    assert str(tmp_path) not in response.get_data(as_text=True)


def test_a_large_artifact_that_is_damaged_breaks_off_before_its_end(
    api: Api, tmp_path: Path, signer: Signer, database_url: str, redis_url: str
) -> None:
    content = CONTENT * 50
    path = store(api, content)
    with serving(tmp_path, signer, database_url, redis_url) as web, web.client() as client:
        assert client.get(path).content == content
        damage(tmp_path, path, flip)
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(path)
        assert client.get("/plugins").status_code == 200


def test_an_artifact_whose_store_is_away_is_unavailable_and_not_unknown(api: Api, tmp_path: Path) -> None:
    path = store(api)
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    response = api.get(path)
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert api.get("/runs").status_code == 200
    (tmp_path / "elsewhere").rename(tmp_path / "artifacts")
    with api.get(path) as again:
        assert again.data == CONTENT
