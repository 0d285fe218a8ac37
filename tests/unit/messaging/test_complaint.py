"""Failures are counted each, and told now and then."""

from __future__ import annotations

from structlog.testing import capture_logs

from shared.messaging.complaint import Complaint


def test_first_failure_is_told_at_once_with_its_reason() -> None:
    complaint = Complaint("redis_away")

    with capture_logs() as lines:
        complaint.note(OSError("gone"), pool="default")

    assert lines == [
        {
            "event": "redis_away",
            "log_level": "warning",
            "times": 1,
            "reason": "OSError: gone",
            "pool": "default",
        }
    ]


def test_a_thousand_failures_are_one_line_and_a_thousand_counts() -> None:
    complaint = Complaint("redis_away", every_seconds=3600)

    with capture_logs() as lines:
        for _ in range(1000):
            complaint.note()

    assert len(lines) == 1
    assert complaint.count == 1000


def test_next_line_tells_of_all_since_the_line_before() -> None:
    complaint = Complaint("redis_away", every_seconds=0)

    with capture_logs() as lines:
        complaint.note()
        complaint._told_count = 0
        for _ in range(3):
            complaint._count += 1
        complaint.note()

    assert [line["times"] for line in lines] == [1, 5]
