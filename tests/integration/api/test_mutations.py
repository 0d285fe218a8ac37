"""A thousand definitions and starts that are nearly right: each is taken or refused, none breaks anything."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.api.conftest import Api
from tests.integration.api.test_torture import DAG, MAX_ANSWER_BYTES

CASES = 500
MAX_CPU_S = 1.0
REFUSALS = {400, 404, 413, 415, 422}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 2**53 - 1, 1e300, "", "a", "b", "\u00e9", "\U0001f600", "x" * 200,
    "${{ steps.a.outputs }}", "${{", "steps.c.status", "1 +", "[1].map(x, x)", [], [[]], [None], {}, {"": 0},
    {"a": {"b": {}}}, {"$ref": "#"}, {"type": "nothing"}, {"type": 1}, ["a", "a"], {"from": "a", "to": "a"},
]  # fmt: skip
TOKENS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"1e999", b"NaN", b"-", b"\\"]
TOKENS += [b"\\u0000", b"\x00", b"\xff", b"\\ud800", b"99999999999999999999", b'"id":"a",']
MEMBERS = ["x", "id", "uses", "with", "when", "retry", "edges", "inputs"]


def places(value: Any) -> list[tuple[Any, Any]]:
    """List every container in ``value`` with each of its keys."""
    found: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        container = left.pop()
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                left.append(container[key])
    return found


def mutated_tree(rng: random.Random, document: dict[str, Any]) -> bytes:
    """Change one to four places of the document."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 4)):
        spots = places(document)
        if not spots:
            break
        container, key = rng.choice(spots)
        kind = rng.randrange(4)
        if kind == 0:
            container[key] = copy.deepcopy(rng.choice(ODD))
        elif kind == 1:
            del container[key]
        elif kind == 2 and isinstance(container, dict):
            container[rng.choice(MEMBERS)] = copy.deepcopy(rng.choice(ODD))
        else:
            container[key] = copy.deepcopy(rng.choice(spots)[0])
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode()


def mutated_text(rng: random.Random, document: dict[str, Any]) -> bytes:
    """Cut, double, overwrite or insert somewhere in the text of the document."""
    text = bytearray(json.dumps(document).encode())
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randint(0, 20))
        kind = rng.randrange(4)
        if kind == 0:
            del text[start:end]
        elif kind == 1:
            text[start:start] = text[start:end] * rng.randint(1, 3)
        elif kind == 2 and start < len(text):
            text[start] = rng.randrange(256)
        else:
            text[start:start] = rng.choice(TOKENS)
    return bytes(text)


START: dict[str, Any] = {"dagId": "torture", "version": "1.0.0", "inputs": {"n": 1}, "runToken": "t"}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("mutate", [mutated_tree, mutated_text])
@pytest.mark.parametrize(("path", "document"), [("/dags", DAG), ("/runs", START)])
def test_a_mutation_is_taken_or_refused(
    api: Api,
    path: str,
    document: dict[str, Any],
    mutate: Callable[[random.Random, dict[str, Any]], bytes],
    seed: int,
) -> None:
    rng = random.Random(f"{path} {mutate.__name__} {seed}")
    assert api.post("/dags", DAG).status_code == 201
    taken = set()
    for _ in range(CASES // 4):
        body = mutate(rng, document)
        began = time.process_time()
        response = api.call("POST", path, data=body, content_type="application/json")
        assert time.process_time() - began < MAX_CPU_S, body
        if response.status_code == 201:
            taken.add(response.headers["Location"])
        elif response.status_code not in (200, 409):
            assert response.status_code in REFUSALS, body
            assert set(response.get_json()["error"]) <= {"code", "message", "trace_id", "details"}
            assert len(response.data) <= MAX_ANSWER_BYTES
    stored = api.get(f"{path}?page_size=500").get_json()["items"]
    assert len(stored) == len(taken) + (path == "/dags")
