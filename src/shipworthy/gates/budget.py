"""Gates on what serving takes: latency, memory, size and cost, as measured in the real server."""

from shipworthy.contract.gates_section import Budget
from shipworthy.gates.evidence import BudgetMeasurement
from shipworthy.gates.limit import Limit, insufficient, judge_limit, quantity
from shipworthy.gates.verdict import Verdict
from shipworthy.stats.estimates import Estimate
from shipworthy.stats.intervals import quantile_interval

MIN_SENT_SHARE = 0.9  # of the declared rate; with less load the latency says nothing about the declared one
MIN_REQUESTS = 299  # the fewest of which the largest bounds the 99th percentile with 95 %


def judge_budget(
    measured: BudgetMeasurement | None, budget: Budget, *, usd_per_core_hour: float, confidence: float
) -> tuple[Verdict, ...]:
    """One verdict for each declared limit; none can pass on answers that were wrong.

    Args:
        measured: by `evaluation.budget`, or None.
        budget: the contract's limits.
        usd_per_core_hour: price of processor time.
        confidence: of each bound, in (0.5, 1).
    """
    limits = {
        "p99": None if budget.p99 is None else budget.p99.at_most * 1000,
        "memory": None if budget.memory is None else float(budget.memory.at_most),
        "size": None if budget.size is None else float(budget.size.at_most),
        "cost_per_1k": None if budget.cost_per_1k is None else budget.cost_per_1k.at_most.amount,
    }
    verdicts = []
    for name, limit in limits.items():
        if limit is None:
            continue
        why = _unmeasured(measured, budget, name)
        if measured is None or why is not None:
            rows = 0 if measured is None else measured.requests
            verdicts.append(insufficient(f"budget.{name}", why or "", rows=rows, limit=limit, unit=_unit(name)))
        elif name == "p99":
            verdicts.append(judge_p99(measured, at_most_ms=limit, confidence=confidence))
        else:
            verdicts.append(_judge_figure(measured, name, limit, usd_per_core_hour))
    return tuple(verdicts)


def judge_p99(measured: BudgetMeasurement, *, at_most_ms: float, confidence: float) -> Verdict:
    """Pass if the upper confidence bound of the 99th percentile of the latency meets the limit.

    The bounds are order statistics of the requests' latencies, each counted from its intended send time; a
    request without a good answer counts as endless. Requests in one burst are not independent, so the promised
    rate holds for the load as a whole, not against pauses that happened to miss the seconds measured.

    Source: `stats.intervals.quantile_interval`.
    """
    estimate = Estimate(measured.p99_ms, *quantile_interval(measured.latencies_ms, 0.99, confidence))
    words = f"The 99th percentile of the latency at {measured.at_rps:g} requests/s"
    return judge_limit(
        Limit("budget.p99", words, "at_most", at_most_ms, confidence, "ms", "requests"), estimate, measured.requests
    )


def _judge_figure(measured: BudgetMeasurement, name: str, limit: float, usd_per_core_hour: float) -> Verdict:
    """A figure without sampling error: it meets the limit or not."""
    figures = {
        "memory": (float(measured.memory_bytes), "The server's peak memory"),
        "size": (float(measured.size_bytes), "The payload's size"),
        "cost_per_1k": (measured.cost_per_1k(usd_per_core_hour), "The processor time of 1,000 answers"),
    }
    value, words = figures[name]
    unit = _unit(name)
    meets = value <= limit
    reason = f"{words} is {quantity(value, unit)}; at most {quantity(limit, unit)} is allowed."
    return Verdict(f"budget.{name}", "pass" if meets else "fail", value, None, limit, unit, measured.requests, reason)


def _unmeasured(measured: BudgetMeasurement | None, budget: Budget, name: str) -> str | None:
    if measured is None:
        return "The payload was not measured in the server."
    if name == "size":
        return None
    if measured.wrong:
        return f"{measured.wrong:,} answers of the server differ from those of the payload; its figures mean nothing."
    if name == "cost_per_1k" and budget.cost_per_1k is not None and budget.cost_per_1k.at_most.currency != "USD":
        return f"Prices are in USD, the limit in {budget.cost_per_1k.at_most.currency}."
    if measured.requests < MIN_REQUESTS:
        return f"{measured.requests:,} requests were sent; a verdict needs at least {MIN_REQUESTS}."
    if measured.rps < MIN_SENT_SHARE * measured.at_rps:
        return (
            f"Only {measured.rps:.0f} of the declared {measured.at_rps:g} requests/s could be sent from this machine."
        )
    if measured.requests == measured.errors:
        return "No request was answered."
    return None


def _unit(name: str) -> str:
    return {"p99": "ms", "memory": "B", "size": "B", "cost_per_1k": "USD"}[name]
