"""Send hostile requests to a stack of its own, and stop at the first answer that must not be."""

from __future__ import annotations

import json
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from tests.fuzz.requests import Known, Request, Requests
from tests.fuzz.wire import Answer, NoAnswer, Wire
from tests.support.rest import Rest
from tests.support.site import Site, running_site

PROCESSES = 4
_TRACE = re.compile("[0-9a-f]{32}")
_ALLOWED = frozenset(
    {200, 201, 202, 206, 304, 400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 416, 422, 429, 431}
)
TENANT = "fuzz"
UNLIMITED = {"ORCH_RATE_LIMIT": "1000000000"}
"""A request over the limit would try nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one process has seen: answers by status, and the first that must not be."""

    statuses: Counter[int]
    failure: str | None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--requests", type=click.IntRange(1), default=100_000, help="How many to send.")
@click.option("--seed", default="", help="Makes the same requests again; drawn and told if not given.")
def main(requests: int, seed: str) -> None:
    """Send hostile requests to a stack of its own: every refusal in the envelope, and no 5xx."""
    seed = seed or secrets.token_hex(4)
    click.echo(f"seed {seed}")
    with (
        tempfile.TemporaryDirectory(prefix="orch-fuzz-") as folder,
        running_site(Path(folder) / "data", environ=UNLIMITED) as site,
    ):
        known = prepare(site)
        before, begun = memory_mib(site), time.monotonic()
        statuses, failures = fuzz(site.stack.url, known, seed=seed, requests=requests)
        took = time.monotonic() - begun
        with site.rest(TENANT) as rest:
            rest.all_ended(within=120)
        site.check()
        after = memory_mib(site)
    total = sum(statuses.values())
    click.echo(
        f"{total:,} requests in {took:.0f} s ({total / took:.0f}/s); web {before:.0f} -> {after:.0f} MiB"
    )
    click.echo("  ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items())))
    for failure in failures:
        click.echo(failure, err=True)
    sys.exit(bool(failures))


def prepare(site: Site) -> Known:
    """Make what the requests may name: DAGs, an ended run, an artifact."""
    known = Known(token=site.token(TENANT), tenant=TENANT, dag_ids=["fuzz", "other"])
    with site.rest(TENANT) as rest:
        for dag_id in known.dag_ids:
            rest.publish(dag_id, [{"id": "a", "uses": "noop"}, {"id": "b", "uses": "noop"}], "a>b")
            known.run_ids.append(rest.start(dag_id))
        rest.publish("file", [{"id": "a", "uses": "command", "with": {"argv": ["echo", "said"]}}])
        run_id = rest.start("file")
        rest.ended(run_id)
        known.run_ids.append(run_id)
        known.hashes.append(_log_of(rest, run_id))
    return known


def _log_of(rest: Rest, run_id: str) -> str:
    return str(rest.step(run_id, "a")["attempts"][0]["logsRef"])


def memory_mib(site: Site) -> float:
    """Give the resident memory of the largest process below the web server's master, in MiB."""
    master = site.processes()["web"]
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return max(_resident_mib(int(pid)) for pid in children)


def _resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def fuzz(url: str, known: Known, *, seed: str, requests: int) -> tuple[Counter[int], list[str]]:
    """Send the requests from several processes; count the answers by status, and tell what went wrong."""
    shares = [requests // PROCESSES + (number < requests % PROCESSES) for number in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES) as pool:
        tasks = [
            pool.submit(_share, url, known, f"{seed}-{number}", share) for number, share in enumerate(shares)
        ]
        found = [task.result() for task in tasks]
    total: Counter[int] = sum((one.statuses for one in found), Counter())
    return total, [one.failure for one in found if one.failure is not None]


def _share(url: str, known: Known, seed: str, requests: int) -> Found:
    parts = urlsplit(url)
    wire, source = Wire(parts.hostname or "", parts.port or 0), Requests(seed, known)
    statuses: Counter[int] = Counter()
    for number in range(requests):
        request = source.next()
        try:
            answer = wire.send(request.written(), head=request.method == "HEAD")
        except NoAnswer as error:
            return Found(statuses=statuses, failure=_told(seed, number, request, f"no answer: {error}"))
        statuses[answer.status] += 1
        wrong = _wrong(answer)
        if wrong is not None:
            return Found(statuses=statuses, failure=_told(seed, number, request, wrong))
    wire.close()
    return Found(statuses=statuses, failure=None)


def _told(seed: str, number: int, request: Request, wrong: str) -> str:
    return f"request {number} of seed {seed}: {wrong}\n{request.written()[:2_000]!r}"


def _wrong(answer: Answer) -> str | None:
    """Tell what an answer breaks; ``None`` if nothing."""
    if answer.status not in _ALLOWED:
        return f"status {answer.status}: {answer.body[:500]!r}"
    if not _TRACE.fullmatch(answer.headers.get("x-trace-id", "")) or "cache-control" not in answer.headers:
        return f"headers {answer.headers}"
    if answer.status >= 400 and answer.body:
        try:
            error = json.loads(answer.body)["error"]
            if (
                not {"code", "message", "trace_id"}
                <= set(error)
                <= {"code", "message", "trace_id", "details"}
            ):
                return f"no envelope: {answer.body[:500]!r}"
        except (ValueError, KeyError, TypeError):
            return f"no envelope: {answer.body[:500]!r}"
    return None


if __name__ == "__main__":
    main()
