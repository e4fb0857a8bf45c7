"""What the server counts about itself, and how Prometheus reads it.

Plain integers that the event loop alone touches; labels are of bounded number by construction.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from shipworthy.serving.breaker import Breaker
from shipworthy.serving.tally import Tally

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
MEDIA = b"text/plain; version=0.0.4; charset=utf-8"


class Counters:
    """The counts of one worker."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()  # (source, handling)
        self.fallbacks: Counter[str] = Counter()  # by cause
        self.stood_in: Counter[str] = Counter()  # of those, answered by the last good release; by its name
        self.responses: Counter[int] = Counter()  # by HTTP status
        self.grpc_responses: Counter[str] = Counter()  # by `method code`
        self.latency = [0] * (len(BUCKETS_S) + 1)
        self.latency_sum_s = 0.0
        self.runs = 0
        self.run_rows = 0
        self.records = 0
        self.records_spooled = 0
        self.records_dropped = 0
        self.records_refused = 0
        self.outcomes = 0
        self.deployments_refused = 0
        self.overloaded = 0
        self.unlike = 0  # rows out of distribution
        self.connections = 0

    def observe(self, seconds: float) -> None:
        """One answer's latency."""
        self.latency[bisect_left(BUCKETS_S, seconds)] += 1
        self.latency_sum_s += seconds

    def tally(self, *, refusals: Mapping[str, int], breakers: Mapping[str, Breaker], is_ready: bool) -> Tally:
        """These counts and the worker's state, to be put together with others'.

        Args:
            refusals: of the gate, by reason.
            breakers: of the releases that are asked, by their names.
            is_ready: whether predictions are answered.
        """
        return Tally(
            answers={f"{source} {handling}": count for (source, handling), count in self.answers.items()},
            fallbacks=dict(self.fallbacks),
            stood_in=dict(self.stood_in),
            responses=dict(self.responses),
            grpc_responses=dict(self.grpc_responses),
            refusals=dict(refusals),
            breaker_opened={name: breaker.opened for name, breaker in breakers.items()},
            breaker_open={name: breaker.state != "closed" for name, breaker in breakers.items()},
            latency=list(self.latency),
            latency_sum_s=self.latency_sum_s,
            runs=self.runs,
            run_rows=self.run_rows,
            records=self.records,
            records_spooled=self.records_spooled,
            records_dropped=self.records_dropped,
            records_refused=self.records_refused,
            outcomes=self.outcomes,
            deployments_refused=self.deployments_refused,
            overloaded=self.overloaded,
            unlike=self.unlike,
            connections=self.connections,
            is_ready=is_ready,
            workers=1,
        )


def render_metrics(
    tally: Tally,
    release: str,
    generation: int,
    *,
    restarts: Mapping[str, int],
    certificate_expires: float | None,
    is_audit_writable: bool = True,
    last_good: Mapping[str, bool] = MappingProxyType({}),
) -> bytes:
    """The counts in Prometheus' text format.

    Args:
        tally: of all workers.
        release: that answers.
        generation: of the deployment.
        restarts: how often workers were replaced, by reason.
        certificate_expires: Unix seconds; None: there is none.
        is_audit_writable: whether nothing keeps acts from being recorded.
        last_good: releases that should stand in for others, and whether they can.
    """
    lines: list[str] = []
    _family(lines, "answers_total", "counter", "Predictions answered.")
    for words, count in sorted(tally.answers.items()):
        source, _, handling = words.partition(" ")
        lines.append(f'shipworthy_answers_total{{source="{source}",handling="{handling}"}} {count}')
    _family(lines, "fallbacks_total", "counter", "Predictions answered by fallback, by cause.")
    for cause, count in sorted(tally.fallbacks.items()):
        lines.append(f'shipworthy_fallbacks_total{{cause="{cause}"}} {count}')
    _family(lines, "last_good_answers_total", "counter", "Fallbacks answered by the last good release, by its name.")
    for name, count in sorted(tally.stood_in.items()):
        lines.append(f'shipworthy_last_good_answers_total{{release="{name}"}} {count}')
    _family(lines, "last_good_ready", "gauge", "Whether the last good release can answer where the model cannot.")
    for name, is_ready in sorted(last_good.items()):
        lines.append(f'shipworthy_last_good_ready{{release="{name}"}} {int(is_ready)}')
    _family(lines, "responses_total", "counter", "HTTP responses, by status.")
    for status, count in sorted(tally.responses.items()):
        lines.append(f'shipworthy_responses_total{{status="{status}"}} {count}')
    _family(lines, "grpc_responses_total", "counter", "gRPC responses, by method and code.")
    for words, count in sorted(tally.grpc_responses.items()):
        method, _, code = words.partition(" ")
        lines.append(f'shipworthy_grpc_responses_total{{method="{method}",code="{code}"}} {count}')
    _family(lines, "refusals_total", "counter", "Requests that the gate refused, by reason.")
    for reason, count in sorted(tally.refusals.items()):
        lines.append(f'shipworthy_refusals_total{{reason="{reason}"}} {count}')
    if certificate_expires is not None:
        _family(lines, "certificate_expires_seconds", "gauge", "When the TLS certificate ends, Unix time.")
        lines.append(f"shipworthy_certificate_expires_seconds {certificate_expires:.0f}")
    _histogram(lines, tally)
    for name, kind, text, value in (
        ("model_runs_total", "counter", "Runs of the model.", tally.runs),
        ("model_rows_total", "counter", "Rows handed to the model.", tally.run_rows),
        ("records_total", "counter", "Records written.", tally.records),
        ("records_spooled_total", "counter", "Records written to the spool.", tally.records_spooled),
        ("spool_bytes", "gauge", "Bytes of records that wait in the spool.", tally.spool_bytes),
        ("records_writable", "gauge", "Whether the records' disk takes records.", int(not tally.is_disk_refusing)),
        ("segments_fenced_total", "counter", "Segments that a disk refused to carry on.", tally.segments_fenced),
        ("records_dropped_total", "counter", "Records dropped because the disk refused.", tally.records_dropped),
        ("records_refused_total", "counter", "Requests refused because their record was.", tally.records_refused),
        ("outcomes_total", "counter", "Outcomes written.", tally.outcomes),
        ("deployments_refused_total", "counter", "Deployment or access files refused.", tally.deployments_refused),
        ("overloaded_total", "counter", "Requests refused because they would wait too long.", tally.overloaded),
        ("out_of_distribution_total", "counter", "Rows that were unlike those of the training.", tally.unlike),
        ("connections", "gauge", "Open connections.", tally.connections),
        ("workers", "gauge", "Workers that answer.", tally.workers),
        ("deployment_generation", "gauge", "Generation of the deployment that answers.", generation),
        ("audit_log_writable", "gauge", "Whether acts can be recorded.", int(is_audit_writable)),
        ("ready", "gauge", "Whether the server answers predictions.", int(tally.is_ready)),
    ):
        _family(lines, name, kind, text)
        lines.append(f"shipworthy_{name} {value}")
    _family(lines, "breaker_open", "gauge", "Whether the release's model is left alone because it kept failing.")
    for name, is_open in sorted(tally.breaker_open.items()):
        lines.append(f'shipworthy_breaker_open{{release="{name}"}} {int(is_open)}')
    _family(lines, "breaker_opened_total", "counter", "How often the release's model was left alone.")
    for name, count in sorted(tally.breaker_opened.items()):
        lines.append(f'shipworthy_breaker_opened_total{{release="{name}"}} {count}')
    _family(lines, "worker_restarts_total", "counter", "Workers replaced, by reason.")
    for reason, count in sorted(restarts.items()):
        lines.append(f'shipworthy_worker_restarts_total{{reason="{reason}"}} {count}')
    _family(lines, "release_info", "gauge", "The release that answers.")
    lines.append(f'shipworthy_release_info{{release="{release}"}} 1')
    return ("\n".join(lines) + "\n").encode()


def _family(lines: list[str], name: str, kind: str, text: str) -> None:
    lines.append(f"# HELP shipworthy_{name} {text}")
    lines.append(f"# TYPE shipworthy_{name} {kind}")


def _histogram(lines: list[str], tally: Tally) -> None:
    _family(lines, "latency_seconds", "histogram", "From a request's last byte to its answer.")
    total = 0
    for limit, count in zip((*map(str, BUCKETS_S), "+Inf"), tally.latency or [0] * (len(BUCKETS_S) + 1), strict=True):
        total += count
        lines.append(f'shipworthy_latency_seconds_bucket{{le="{limit}"}} {total}')
    lines.append(f"shipworthy_latency_seconds_sum {tally.latency_sum_s:.6f}")
    lines.append(f"shipworthy_latency_seconds_count {total}")
