from __future__ import annotations

import time
from uuid import RFC_4122

from shared.ids import new_run_id


def test_a_run_id_is_a_uuid_of_version_7_that_tells_when_it_was_drawn() -> None:
    before = time.time_ns() // 1_000_000
    run_id = new_run_id()
    after = time.time_ns() // 1_000_000
    assert run_id.version == 7
    assert run_id.variant == RFC_4122
    assert before <= run_id.int >> 80 <= after


def test_run_ids_differ_also_within_a_millisecond() -> None:
    assert len({new_run_id() for _ in range(10_000)}) == 10_000


def test_the_bits_that_are_not_time_version_or_variant_are_random() -> None:
    drawn = [new_run_id().int for _ in range(200)]
    random = (0xFFF << 64) | ((1 << 62) - 1)
    seen_one = seen_zero = 0
    for value in drawn:
        seen_one |= value & random
        seen_zero |= ~value & random
    assert seen_one == seen_zero == random
