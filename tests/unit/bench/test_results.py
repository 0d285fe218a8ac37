"""Ratios are taken within a round, so that a slow round says nothing about who is faster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import report
from bench.measure import MOST_LOST, compare
from bench.results import (
    Aged,
    Comparison,
    Crowd,
    Footprint,
    Goals,
    Growth,
    Latency,
    Picks,
    Replayed,
    Results,
    Scaled,
    Series,
    Storm,
    Streamed,
    Streams,
    Written,
)
from bench.shapes import CHAIN40, LONG_CHAIN, Shape
from bench.subject import DidNotEnd
from bench.usage import Memory


def _comparison() -> Comparison:
    return Comparison(
        shape=CHAIN40,
        ours=Series(seconds=(1.0, 10.0, 2.0)),
        peers={"Celery canvas, threads -c8": Series(seconds=(2.0, 20.0, 4.0))},
    )


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    assert _comparison().ratio("Celery canvas, threads -c8") == 2.0


def test_steps_that_may_have_effects_are_held_against_the_same_rounds() -> None:
    comparison = replace(_comparison(), unknown=Series(seconds=(1.5, 16.0, 4.0)))
    unknown = comparison.of_unknown()
    assert unknown is not None
    assert unknown.ratio("Celery canvas, threads -c8") == 1.25
    text = "\n".join(report.tables(Results(comparisons=[comparison], growths=[])))
    assert "| chain40 | 4.000 (1.500-16.000) | 10 | 4.000 (2.000-20.000) | 1.25 |" in text


def test_a_slow_peer_is_held_against_the_rounds_that_it_took_part_in() -> None:
    comparison = Comparison(
        shape=CHAIN40, ours=Series(seconds=(1.0, 10.0)), peers={"slow": Series(seconds=(3.0,))}
    )
    assert comparison.ratio("slow") == 3.0


def test_the_best_peer_has_the_smallest_ratio_whatever_the_medians_say() -> None:
    # The machine was slow when both took part, and fast when only the other one did.
    comparison = Comparison(
        shape=CHAIN40,
        ours=Series(seconds=(10.0, 1.0, 1.0)),
        peers={
            "Celery canvas, threads -c8": Series(seconds=(40.0, 4.0, 4.0)),
            "Prefect": Series(seconds=(20.0,)),
        },
    )
    assert comparison.best_peer == "Prefect"
    text = "\n".join(report.tables(Results(comparisons=[comparison], growths=[])))
    assert "| ratio to threads -c8 | ratio to Prefect | best peer |" in text
    assert "| 4.00 | 2.00 | 2.00 (Prefect) |" in text


def test_a_large_run_is_held_against_the_small_one_of_its_round() -> None:
    growth = Growth(
        large=LONG_CHAIN,
        small=CHAIN40,
        large_series=Series(seconds=(10.0, 100.0)),
        small_series=Series(seconds=(0.04, 0.4)),
        large_peaks={"worker-1": 102_400},
        small_peaks={"worker-1": 81_920},
    )
    assert growth.factor == 1.0
    text = "\n".join(report.tables(Results(comparisons=[], growths=[growth])))
    assert "| 1.00 | 100.0 (80.0) |" in text


def test_the_document_tells_shape_seconds_ratio_machine_and_command() -> None:
    text = report.document(
        Results(comparisons=[_comparison()], growths=[]),
        machine={"CPU": "two cores"},
        command="python -m bench",
        date="2026-01-01",
        repeat=3,
    )
    assert "| chain40 | 2.000 (1.000-10.000) | 20 | 4.000 (2.000-20.000) | 2.00 |" in text
    assert "- CPU: two cores\n- Measured 2026-01-01, 3 rounds, with `python -m bench`" in text


def test_a_percentile_is_the_nearest_rank() -> None:
    latency = Latency(what="GET", seconds=tuple(n / 1_000 for n in range(1, 201)))
    assert [latency.percentile(p) for p in (50, 99, 100)] == [0.1, 0.198, 0.2]
    text = "\n".join(report.tables(Results(comparisons=[], growths=[], latencies=[latency])))
    assert "| GET | 200 | 100.0 | 180.0 | 198.0 | 200.0 |" in text


def test_the_document_tells_what_streams_did() -> None:
    latency = Latency(what="an event", seconds=(-0.001, 0.002))
    crowd = Streamed(
        crowd=Crowd(active=1_000, idle=50, events_a_second=10, seconds=1),
        events_a_second=9.8,
        delays=latency,
        after_request=latency,
        after_answer=latency,
        health=latency,
        connect_seconds=1.25,
        kilobytes_a_client=8.04,
        cpu_share=0.125,
    )
    storm = Storm(
        clients=1_000, answers_after=2.0, connected_after=3.0, live_after=3.04, refused=7, events=72
    )
    past = Replayed(events=100_000, seconds=4.0, kilobytes_before=102_400, kilobytes_most=104_960)
    streams = Streams(crowds=[crowd], storms=[storm], replays=[past])
    text = "\n".join(report.tables(Results(comparisons=[], growths=[], streams=streams)))
    assert "| 1,000 | 50 | 10 | -1.0 | 2.0 | 2.0 | 2.0 | 2.0 | 1.2 | 8.0 | 12% |" in text
    assert "| 1,000 | 10 | the answer | -1.0 | 2.0 | 2.0 | 2.0 |" in text
    assert "| 1,000 | 72 | 2.0 | 3.0 | 3.0 | 7 |" in text
    assert "| 100,000 | 4.0 | 25,000 | 100.0 | 2.5 |" in text


def test_the_document_tells_of_every_goal() -> None:
    latency = Latency(what="to the first step running", seconds=(0.001, 0.002))
    memory = Memory(resident=81_920, own=51_200)
    goals = Goals(
        first_steps=[latency],
        ready=[replace(latency, what="a step behind another")],
        scaled=[
            Scaled(
                workers=2,
                shape=CHAIN40,
                seconds=0.1,
                cores={"web": 0.25, "worker": 1.5},
                sessions={"wait for a lock": 3.0},
            )
        ],
        picks=[Picks(tenants=1_000, slots=8, steps=300, seconds=(0.1, 0.1, 0.4))],
        footprint=Footprint(
            idle={"sweeper": memory},
            worker={1_000: memory, 100_000: replace(memory, resident=86_016)},
            written={
                "steps": Written(table_bytes=100.0, index_bytes=20.0),
                "workers": Written(table_bytes=0.0, index_bytes=0.0),
                "WAL": Written(table_bytes=2_800.0, index_bytes=0.0),
            },
        ),
        aged=[
            Aged(
                shape=CHAIN40,
                runs=1_000_000,
                without=Series(seconds=(0.1, 0.2)),
                with_past=Series(seconds=(0.11, 0.22)),
            )
        ],
    )
    text = "\n".join(report.tables(Results(comparisons=[], growths=[], goals=goals)))
    assert "| to the first step running | 2 | 1.0 | 2.0 | 2.0 | 2.0 |" in text
    assert "| a step behind another | 2 | 1.0 | 2.0 | 2.0 | 2.0 |" in text
    assert "| chain40 | 2 | 400 | 0.25 | 1.50 | 1.75 | 3.0 |" in text
    assert "| 1,000 | 8 | 100.00 | 500 |" in text
    assert "| sweeper, idle | 80.0 | 50.0 |" in text
    assert "| worker, after 100,000 steps | 84.0 | 50.0 |" in text
    assert "| steps | 100 | 20 | 120 |" in text
    assert "| workers | 0" not in text
    assert "2,800 bytes" in text
    assert "| chain40 | 1,000,000 | 0.150 (0.100-0.200) | 0.165 (0.110-0.220) | 1.10 |" in text


class _Forgetful:
    """Ends a shape only when asked often enough."""

    def __init__(self, name: str, failures: int = 0, *, slow: bool = False) -> None:
        self.name = name
        self.slow = slow
        self._failures = failures

    def measure(self, shape: Shape) -> float:
        if self._failures:
            self._failures -= 1
            raise DidNotEnd(f"it did not end {shape.name}")
        return 1.0


def test_a_shape_that_a_peer_did_not_end_is_measured_again_and_told() -> None:
    peer, other = _Forgetful("peer", 1), _Forgetful("ours")
    found = compare(CHAIN40, other, [peer], repeat=2, tell=lambda _line: None)
    assert found.lost == ["it did not end chain40"]
    assert found.ours.seconds == (1.0, 1.0)


def test_a_slow_peer_is_measured_in_one_round_after_the_one_to_warm_up() -> None:
    found = compare(
        CHAIN40,
        _Forgetful("ours"),
        [_Forgetful("peer"), _Forgetful("other", slow=True)],
        repeat=3,
        tell=lambda _line: None,
    )
    assert {name: len(series.seconds) for name, series in found.peers.items()} == {"peer": 3, "other": 1}


def test_a_peer_that_ends_nothing_ends_the_benchmark() -> None:
    with pytest.raises(DidNotEnd):
        compare(
            CHAIN40,
            _Forgetful("ours"),
            [_Forgetful("peer", MOST_LOST + 1)],
            repeat=1,
            tell=lambda _line: None,
        )
