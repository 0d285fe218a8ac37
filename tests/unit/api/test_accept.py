from __future__ import annotations

import pytest
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from orchestrator_api.accept import JSON, NDJSON, chosen

LIST = (JSON, NDJSON)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("application/x-ndjson", NDJSON),
        ("APPLICATION/X-NDJSON", NDJSON),
        ("application/x-ndjson, application/json", JSON),
        ("application/json;q=0.9, application/x-ndjson", NDJSON),
        ("application/x-ndjson;q=0.2, application/json;q=0.3", JSON),
        ("application/x-ndjson, */*;q=0.1", NDJSON),
        ("application/json;q=0, */*", NDJSON),
        ("application/json; charset=utf-8", JSON),
        ('application/x-ndjson;charset="UTF-8";q=0.5', NDJSON),
        ("application/json;charset=utf-8;q=0, application/*", NDJSON),
        ("text/html, application/x-ndjson;q=0.1", NDJSON),
        ("text/html", None),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        ("application/json; charset=latin-1", None),
        ("nonsense", None),
    ],
)
def test_the_type_that_the_caller_likes_best_is_chosen(header: str, expected: str | None) -> None:
    assert chosen(parse_accept_header(header, MIMEAccept), LIST) == expected


def test_a_route_with_one_type_gives_that_or_nothing() -> None:
    assert chosen(parse_accept_header("application/x-ndjson", MIMEAccept), (JSON,)) is None
    assert chosen(parse_accept_header("application/x-ndjson, */*;q=0.1", MIMEAccept), (JSON,)) == JSON
