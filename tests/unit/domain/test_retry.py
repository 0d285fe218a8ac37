from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.models import RetryPolicy
from shared.domain.retry import delay_ms

POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 100),
    initial_delay_ms=st.integers(0, 604_800_000),
    max_delay_ms=st.integers(0, 604_800_000),
    multiplier=st.integers(1, 10) | st.floats(1, 10),
)
TRIES = st.integers(1, 100)


@given(POLICIES, TRIES)
def test_a_delay_never_shrinks_and_never_passes_the_bound(policy: RetryPolicy, tries: int) -> None:
    assert 0 <= delay_ms(policy, tries) <= delay_ms(policy, tries + 1) <= policy.max_delay_ms


@given(POLICIES, TRIES)
def test_a_delay_is_a_whole_number_and_the_same_each_time(policy: RetryPolicy, tries: int) -> None:
    first = delay_ms(policy, tries)
    assert type(first) is int
    assert delay_ms(policy, tries) == first


@given(POLICIES, TRIES)
def test_a_delay_is_the_exact_product_but_for_rounding(policy: RetryPolicy, tries: int) -> None:
    exact = min(
        policy.initial_delay_ms * Fraction(policy.multiplier) ** (tries - 1), Fraction(policy.max_delay_ms)
    )
    assert abs(delay_ms(policy, tries) - exact) <= 1


@pytest.mark.parametrize(
    ("tries", "delay"), [(1, 500), (2, 1_000), (3, 2_000), (7, 30_000), (8, 30_000), (1_000_000, 30_000)]
)
def test_delays_double_up_to_the_bound(tries: int, delay: int) -> None:
    policy = RetryPolicy(initial_delay_ms=500, max_delay_ms=30_000, multiplier=2)
    assert delay_ms(policy, tries) == delay


def test_a_bound_below_the_first_delay_holds_from_the_first() -> None:
    assert delay_ms(RetryPolicy(initial_delay_ms=1_000, max_delay_ms=10), 1) == 10


def test_without_a_failed_attempt_there_is_no_delay() -> None:
    with pytest.raises(ValueError, match="at least one"):
        delay_ms(RetryPolicy(), 0)
