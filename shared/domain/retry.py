"""How long a step waits before its next attempt."""

from __future__ import annotations

from shared.domain.models import RetryPolicy


def delay_ms(policy: RetryPolicy, tries: int) -> int:
    """Give the wait after ``tries`` failed attempts (1 or more): exponential, bounded, without jitter.

    The product is built by multiplications, each of which IEEE 754 defines to
    the last bit, so that every machine comes to the same delay; ``pow`` promises
    no such thing.
    """
    if tries < 1:
        raise ValueError("a delay follows at least one failed attempt")
    delay: float = policy.initial_delay_ms
    for _ in range(tries - 1):
        if delay >= policy.max_delay_ms or policy.multiplier == 1:
            break
        delay *= policy.multiplier
    return int(min(delay, policy.max_delay_ms))
