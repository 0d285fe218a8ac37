"""The ledger's measures as Prometheus has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.domain.models import TenantId
from shared.domain.states import RunStatus
from shared.services.health import Queue
from shared.services.metrics import Measures, Total

ALL_TOGETHER = "*"
"""The label of histograms that all tenants of a large installation share; no tenant has such a name."""


class LedgerMetrics(Collector):
    """Gives what was measured, for one page.

    A tenant that is asked for by name has all its counters and queues from the start, at zero.
    """

    def __init__(
        self, measures: Measures, queues: Sequence[Queue], tenant: TenantId | None, pools: Collection[str]
    ) -> None:
        self._measures = measures
        self._of_queues = queues
        self._tenant = tenant
        self._pools = sorted(pools)

    def collect(self) -> Iterator[Metric]:
        yield self._runs()
        yield self._durations("orchestrator_run_duration", "How long ended runs took.", "run")
        yield self._durations(
            "orchestrator_step_duration", "How long ended attempts at steps took.", "attempt"
        )
        yield self._retries()
        yield from self._queues()
        workers = GaugeMetricFamily(
            "orchestrator_workers", "Live workers that serve a pool.", labels=["pool"]
        )
        for pool in sorted({*self._pools, *self._measures.workers}):
            workers.add_metric([pool], self._measures.workers.get(pool, 0))
        yield workers
        yield self._incidents()

    def _incidents(self) -> Metric:
        incidents = CounterMetricFamily(
            "orchestrator_incidents",
            "What went wrong in workers and sweepers, as their logs name it.",
            labels=["component", "kind"],
        )
        for (component, kind), count in sorted(self._measures.incidents.items()):
            incidents.add_metric([component, kind], count)
        return incidents

    def _runs(self) -> Metric:
        runs = CounterMetricFamily(
            "orchestrator_runs", "Runs that have ended, by how.", labels=["tenant", "status"]
        )
        ended = self._counts("run")
        if self._tenant is not None:
            for ending in filter(lambda status: status.is_terminal, RunStatus):
                ended[self._tenant, ending] += 0
        for (tenant, status), count in sorted(ended.items()):
            runs.add_metric([tenant, status], count)
        return runs

    def _retries(self) -> Metric:
        retries = CounterMetricFamily(
            "orchestrator_step_retries", "Attempts at steps that were to be tried again.", labels=["tenant"]
        )
        counts = self._counts("retry")
        if self._tenant is not None:
            counts[self._tenant, ""] += 0
        for (tenant, _), count in sorted(counts.items()):
            retries.add_metric([tenant], count)
        return retries

    def _counts(self, metric: str) -> dict[tuple[str, str], int]:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for total in self._measures.totals:
            if total.metric == metric:
                counts[total.tenant or ALL_TOGETHER, total.status] += total.count
        return counts

    def _durations(self, name: str, documentation: str, metric: str) -> Metric:
        family = HistogramMetricFamily(name, documentation, labels=["tenant", "status"], unit="seconds")
        series: dict[tuple[str, str], list[Total]] = defaultdict(list)
        for total in self._measures.histograms:
            if total.metric == metric:
                series[total.tenant or ALL_TOGETHER, total.status].append(total)
        for labels, buckets in sorted(series.items()):
            family.add_metric(labels, self._cumulative(buckets), sum(b.sum_seconds for b in buckets))
        return family

    def _cumulative(self, buckets: list[Total]) -> list[tuple[str, float]]:
        counts = {bucket.bucket: bucket.count for bucket in buckets}
        running, cumulative = 0, []
        for number, bound in enumerate([*self._measures.bounds, float("inf")]):
            running += counts.get(number, 0)
            cumulative.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return cumulative

    def _queues(self) -> Iterator[Metric]:
        labels = ["tenant", "pool"]
        depth = GaugeMetricFamily("orchestrator_queue_depth", "Steps that are ready to run.", labels=labels)
        age = GaugeMetricFamily(
            "orchestrator_queue_oldest_age",
            "How long the oldest step that is ready has waited.",
            labels=labels,
            unit="seconds",
        )
        found = {(queue.tenant, queue.pool): queue for queue in self._of_queues}
        named = [] if self._tenant is None else [(self._tenant, pool) for pool in self._pools]
        for key in sorted({*found, *named}):
            queue = found.get(key)
            depth.add_metric(key, 0 if queue is None else queue.depth)
            age.add_metric(key, 0 if queue is None else queue.oldest_age_seconds)
        yield depth
        yield age
