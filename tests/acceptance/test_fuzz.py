"""The fuzz in a short form, with a seed that never changes: a failure here is a failure at home."""

from __future__ import annotations

from tests.fuzz.__main__ import fuzz, prepare
from tests.support.site import Site

REQUESTS = 4_000


def test_no_hostile_request_gets_more_than_a_refusal(site: Site) -> None:
    statuses, failures = fuzz(site.stack.url, prepare(site), seed="short", requests=REQUESTS)
    assert failures == []
    assert sum(statuses.values()) == REQUESTS
    # The requests are hostile, but not so much that none of them gets anywhere.
    assert statuses[200] > REQUESTS / 10 < statuses[400]
    assert statuses[201]
    with site.rest("fuzz") as rest:
        rest.all_ended(within=60)
