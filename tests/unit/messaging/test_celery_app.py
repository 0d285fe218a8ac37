"""The settings of Celery that everything else leans on."""

from __future__ import annotations

import importlib
import ssl
from pathlib import Path

import pytest
from celery._state import get_current_app
from celery.exceptions import QueueNotFound
from kombu.transport.redis import Channel, Transport

from shared.config import Need, Settings, load_settings
from shared.messaging import celery_app
from shared.messaging.celery_app import make_celery


def settings(redis_url: str) -> Settings:
    environ = {"ORCH_REDIS_URL": redis_url, "ORCH_POOLS": "default,gpu"}
    return load_settings(environ, need=Need.REDIS)


@pytest.mark.parametrize(
    ("redis_url", "broker"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("unix:///run/o/redis.sock", "redis+socket:///run/o/redis.sock"),
        ("unix:///run/o/redis.sock?db=3", "redis+socket:///run/o/redis.sock?virtual_host=3"),
        ("unix:///a%20folder/redis.sock?db=3", "redis+socket:///a%20folder/redis.sock?virtual_host=3"),
        ("unix://user:secret@/run/redis.sock", "redis+socket://user:secret@/run/redis.sock"),
    ],
)
def test_address_of_redis_is_spelled_as_kombu_does(redis_url: str, broker: str) -> None:
    assert make_celery(settings(redis_url)).conf.broker_url == broker


@pytest.mark.parametrize(
    ("redis_url", "path", "number"),
    [
        ("unix:///run/o/redis.sock?db=3", "/run/o/redis.sock", 3),
        ("unix:///a%20folder/redis.sock", "/a folder/redis.sock", 0),
    ],
)
def test_kombu_reads_path_and_number_of_a_unix_socket(redis_url: str, path: str, number: int) -> None:
    with make_celery(settings(redis_url)).connection() as connection:
        transport = connection.transport
        assert isinstance(transport, Transport)
        # A channel that was opened would need a Redis there.
        channel = Channel.__new__(Channel)
        channel.connection = transport
        options = channel._connparams()  # type: ignore[attr-defined]  # The stubs have the public part.

    assert (options["path"], options["db"]) == (path, number)


def test_nothing_is_connected_and_no_app_is_made_current() -> None:
    before = get_current_app()

    make_celery(settings("redis://127.0.0.1:1/0"))

    assert get_current_app() is before


def test_a_certificate_is_asked_for() -> None:
    app = make_celery(settings("rediss://redis.example:6379/0"))

    assert app.conf.broker_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}


def test_messages_are_ids_in_json_that_redis_keeps_once() -> None:
    conf = make_celery(settings("redis://localhost")).conf

    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_acks_late is False
    assert conf.task_reject_on_worker_lost is False
    assert conf.worker_disable_prefetch is True
    assert conf.worker_prefetch_multiplier == 1
    assert not conf.result_backend
    assert conf.task_ignore_result is True
    assert conf.broker_transport_options["ack_emulation"] is False
    assert conf.broker_transport_options["socket_timeout"] <= 5


def test_queues_are_fixed() -> None:
    app = make_celery(settings("redis://localhost"))

    assert sorted(app.amqp.queues) == ["decisions", "steps.default", "steps.gpu"]
    with pytest.raises(QueueNotFound):
        app.send_task("orchestrator.execute_step", queue="steps.other")


def test_importing_reads_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORCH_NO_SUCH_SETTING", "1")
    monkeypatch.chdir(tmp_path)

    assert importlib.reload(celery_app).queue_name("default") == "steps.default"
