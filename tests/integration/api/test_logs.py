"""The log of a step, read and followed; the tests are the worker."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from werkzeug.test import TestResponse

from orchestrator_api.log_follower import Interrupted
from shared.domain.models import (
    ArtifactRef,
    Claim,
    Failed,
    Outcome,
    RunId,
    Sha256,
    Succeeded,
    TenantId,
    WorkerId,
)
from shared.domain.states import ErrorCode
from shared.messaging.live_log import LogKey, Piece
from shared.services import recovery
from tests.integration.api.conftest import Api
from tests.support import verbs
from tests.support.eventually import eventually

ACME, WORKER = TenantId("acme"), WorkerId("w1")
HASH = Sha256("ab" * 32)
TEXT = "text/plain; charset=utf-8"


@dataclass(kw_only=True)
class Step:
    """The step ``a`` of a run, and the worker that makes its attempts."""

    api: Api
    run_id: str
    claim: Claim | None = None

    @property
    def path(self) -> str:
        return f"/runs/{self.run_id}/steps/a/logs"

    def begin(self) -> Step:
        db = self.api.parts.db_of_all
        self.claim = verbs.claim(db, ACME, RunId(UUID(self.run_id)), 0, worker_id=WORKER, lease_ms=60_000)
        assert self.claim is not None
        return self

    def show(self, *pieces: tuple[int, bytes]) -> None:
        """Publish pieces as a worker does."""
        assert self.claim is not None
        key = LogKey(ACME, self.claim.run_id, self.claim.step_no, self.claim.attempt)
        for offset, data in pieces:
            self.api.parts.live_logs.publish({key: Piece(offset, data)}, keep=(), ended=())

    def end(self, log: bytes, *, again: bool = False) -> None:
        """End the attempt with this log; with ``again`` it failed, and the next one may begin."""
        assert self.claim is not None
        refs: tuple[ArtifactRef, ...] = ()
        if log:
            sha256, size = self.api.parts.artifacts.put_bytes(log)
            refs = (ArtifactRef(name="log", sha256=sha256, size_bytes=size, content_type=TEXT),)
        stored = refs[0].sha256 if refs else None
        outcome: Outcome = Succeeded(
            outputs={}, outputs_hash=HASH, inputs_hash=HASH, logs_ref=stored, artifacts=refs
        )
        if again:
            outcome = Failed(
                error_code=ErrorCode.EXIT_STATUS,
                error_message="exit status 1",
                retry_delay_ms=0,
                logs_ref=stored,
                artifacts=refs,
            )
        db = self.api.parts.db_of_all
        assert verbs.complete(
            db, self.claim, outcome, worker_id=WORKER, handoff_pools=frozenset(), lease_ms=60_000
        ).accepted
        if again:
            eventually(lambda: recovery.wake(db, limit=10))


@dataclass(kw_only=True)
class Reading:
    """A client that follows, in a thread of its own."""

    response: TestResponse
    text: bytes = b""
    ended: bool = False
    failure: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for piece in self.response.iter_encoded():
                self.text += piece
            self.ended = True
        except ConnectionError as error:
            self.failure.append(error)
        finally:
            self.response.close()

    def has(self, text: bytes) -> None:
        eventually(lambda: self.text == text)

    def end(self) -> bytes:
        """Wait for the end of the response, which must be a good one."""
        eventually(lambda: self.ended)
        return self.text


@pytest.fixture
def step(api: Api) -> Step:
    body = {
        "dagId": "one",
        "version": "1.0.0",
        "steps": [{"id": "a", "uses": "noop", "retry": {"maxAttempts": 3}}],
    }
    assert api.post("/dags", body).status_code == 201
    return Step(api=api, run_id=api.post("/runs", {"dagId": "one"}).get_json()["runId"])


def read(api: Api, path: str) -> bytes:
    response = api.get(path)
    assert (response.status_code, response.headers["Content-Type"]) == (200, TEXT), response.data
    data: bytes = response.data
    response.close()
    return data


def follow(step: Step, query: str = "") -> Reading:
    response = step.api.get(f"{step.path}?follow=true{query}", buffered=False)
    assert (response.status_code, response.headers["Content-Type"]) == (200, TEXT)
    return Reading(response=response)


def error_of(response: TestResponse) -> tuple[int, str]:
    return response.status_code, response.get_json()["error"]["code"]


def test_a_step_without_an_attempt_or_a_log_has_an_empty_one(step: Step) -> None:
    assert read(step.api, step.path) == b""
    step.begin()
    assert read(step.api, step.path) == b""
    assert read(step.api, step.path + "?attempt=1") == b""
    step.end(b"")
    assert read(step.api, step.path) == b""


def test_the_log_of_an_ended_attempt_is_cached_and_given_in_ranges(step: Step) -> None:
    step.begin().end(b"0123456789")
    whole = step.api.get(step.path)
    assert whole.data == b"0123456789"
    assert whole.headers["Cache-Control"] == "private, no-cache"
    whole.close()
    assert step.api.get(step.path, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    part = step.api.get(step.path, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.data) == (206, b"234")
    part.close()
    head = step.api.call("HEAD", step.path)
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "10")


def test_the_newest_attempt_is_given_unless_another_one_is_named(step: Step) -> None:
    step.begin().end(b"first", again=True)
    assert read(step.api, step.path) == b"first"
    step.begin().end(b"second")
    assert read(step.api, step.path) == b"second"
    assert read(step.api, step.path + "?attempt=1") == b"first"
    assert read(step.api, step.path + "?attempt=1&follow=true") == b"first"


def test_what_is_not_there_is_named(step: Step) -> None:
    step.begin().end(b"log")
    assert error_of(step.api.get(step.path + "?attempt=2")) == (404, "ARTIFACT_NOT_FOUND")
    assert error_of(step.api.get(step.path + "?attempt=2&follow=true")) == (404, "ARTIFACT_NOT_FOUND")
    assert error_of(step.api.get(f"/runs/{step.run_id}/steps/b/logs")) == (404, "STEP_NOT_FOUND")
    assert error_of(step.api.get(f"/runs/{UUID(int=7)}/steps/a/logs")) == (404, "RUN_NOT_FOUND")


@pytest.mark.parametrize(
    "query",
    ["attempt=0", "attempt=-1", "attempt=one", "attempt=1.0", "attempt=9999999999", "follow=yes", "to=1"],
)
def test_a_query_that_makes_no_sense_is_refused(step: Step, query: str) -> None:
    assert error_of(step.api.get(f"{step.path}?{query}")) == (400, "INVALID_ARGUMENT")


def test_another_tenant_finds_neither_the_log_nor_what_is_shown_of_it(step: Step) -> None:
    step.begin().show((0, b"secret"))
    other = step.api.as_("globex")
    never = other.get(f"/runs/{UUID(int=7)}/steps/a/logs").get_json()["error"]
    for query in ("", "?follow=true", "?attempt=1"):
        response = other.get(step.path + query)
        assert response.status_code == 404
        assert {**response.get_json()["error"], "trace_id": ""}["code"] == never["code"] == "RUN_NOT_FOUND"


def test_a_running_attempt_gives_what_it_has_shown_so_far(step: Step) -> None:
    step.begin().show((0, b"one "), (4, b"two "))
    assert read(step.api, step.path) == b"one two "
    step.show((4, b"two "), (8, b"three"), (0, b"one "), (20, b"lost"))
    assert read(step.api, step.path) == b"one two three"


def test_a_follower_who_comes_late_gets_many_small_pieces_at_once(step: Step) -> None:
    step.begin().show(*((n, b"x") for n in range(1_000)))
    begun = time.monotonic()
    reading = follow(step)
    reading.has(b"x" * 1_000)
    assert time.monotonic() - begun < 5
    step.end(b"x" * 1_000)
    assert reading.end() == b"x" * 1_000


def test_a_follower_gets_each_piece_when_it_is_shown_and_the_rest_at_the_end(step: Step) -> None:
    step.begin()
    reading = follow(step)
    step.show((0, b"one "))
    reading.has(b"one ")
    step.show((4, b"two "))
    reading.has(b"one two ")
    step.end(b"one two and the rest")
    assert reading.end() == b"one two and the rest"


def test_a_follower_gets_every_byte_once_whatever_redis_loses_or_repeats(step: Step) -> None:
    step.begin()
    reading = follow(step)
    step.show((0, b"abcd"), (0, b"abcd"), (2, b"cdef"), (3, b"d"))
    reading.has(b"abcdef")
    step.show((9, b"jkl"), (12, b"mno"))  # Three bytes before it are missing.
    step.end(b"abcdefghijklmnop")
    assert reading.end() == b"abcdefghijklmnop"


def test_a_follower_waits_for_the_first_attempt_and_goes_on_with_the_next_one(step: Step) -> None:
    reading = follow(step)
    step.begin().show((0, b"first"))
    reading.has(b"first")
    step.end(b"first try. ", again=True)
    reading.has(b"first try. ")
    step.begin().end(b"second try.")
    assert reading.end() == b"first try. second try."


def test_a_follower_of_one_attempt_ends_with_it(step: Step) -> None:
    step.begin()
    reading = follow(step, "&attempt=1")
    step.end(b"first", again=True)
    assert reading.end() == b"first"


def test_a_follower_of_an_attempt_that_is_lost_goes_on(step: Step) -> None:
    step.begin().show((0, b"half a li"))
    reading = follow(step)
    reading.has(b"half a li")
    db = step.api.parts.db_of_all
    with db.statement(None) as cur:
        cur.execute("UPDATE orch.steps SET lease_until = clock_timestamp() - interval '1 second'")
    recovery.rescue(db, limit=10)
    step.begin().end(b"a line\n")
    assert reading.end() == b"half a lia line\n"


def test_following_what_has_ended_is_reading_it(step: Step) -> None:
    step.begin().end(b"done")
    whole = step.api.get(step.path + "?follow=true")
    assert (whole.data, whole.headers["Content-Length"]) == (b"done", "4")
    whole.close()
    assert step.api.call("HEAD", step.path + "?follow=true").status_code == 200


def test_following_a_step_that_is_cancelled_before_it_began_ends_empty(step: Step) -> None:
    reading = follow(step)
    step.api.post(f"/runs/{step.run_id}:cancel")
    assert reading.end() == b""


def test_only_so_many_follow_at_a_time(step: Step) -> None:
    step.begin()
    readings = [follow(step), follow(step)]
    refused = step.api.get(step.path + "?follow=true")
    assert error_of(refused) == (503, "UNAVAILABLE")
    assert int(refused.headers["Retry-After"]) >= 1
    assert step.api.call("HEAD", step.path + "?follow=true").status_code == 200
    assert read(step.api, step.path) == b""
    step.end(b"log", again=True)
    step.begin()
    step.end(b"")
    assert [reading.end() for reading in readings] == [b"log", b"log"]
    assert read(step.api, step.path + "?follow=true") == b""


def test_a_follower_ends_with_its_token_and_the_client_can_tell(step: Step) -> None:
    step.begin()
    short = step.api.as_("acme", exp=time.time() + 1.5)
    reading = Reading(response=short.get(step.path + "?follow=true", buffered=False))
    eventually(lambda: reading.failure)
    assert isinstance(reading.failure[0], Interrupted)
    assert not reading.ended


def test_followers_end_when_the_process_stops(step: Step) -> None:
    step.begin()
    reading = follow(step)
    step.api.parts.followers.close()
    eventually(lambda: reading.failure)
    assert not reading.ended


class TestWithoutRedis:
    @pytest.fixture
    def redis_address(self) -> str:
        return "redis://127.0.0.1:1/0"

    def test_a_follower_gets_the_log_when_the_attempt_ends(self, step: Step) -> None:
        step.begin()
        reading = follow(step)
        assert read(step.api, step.path) == b""
        step.end(b"all of it")
        assert reading.end() == b"all of it"
