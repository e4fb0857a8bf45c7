"""The health of the data as metrics, in Prometheus' text format."""

from collections import Counter
from collections.abc import Iterable

from shipworthy.workflows.data_health import HealthReport

Sample = tuple[str, float]  # labels as they are written, and the value


def render_data_metrics(report: HealthReport | None) -> bytes:
    """The figures of the newest snapshot; nothing before there is one.

    Ages are given as the moment since which they grow, so that they are right at any time of scraping.
    """
    if report is None:
        return b""
    last, lines = report.snapshots[-1], list[str]()
    changes = [*report.taken_changes, *(change.to_json() for change in report.changes)]
    aspects = Counter(str(anomaly["aspect"]) for anomaly in (report.judgement or {}).get("anomalies", ()))
    aspects["stale"] = sum(source.silence is not None for source in report.sources)
    families: tuple[tuple[str, str, Iterable[Sample]], ...] = (
        ("data_rows", "Accepted rows of the newest snapshot.", [("", last.rows)]),
        ("data_quarantined_rows", "Rows that it did not accept.", [("", last.quarantined)]),
        ("data_taken_timestamp_seconds", "When it was taken, Unix time.", [("", last.at)]),
        (
            "data_newest_row_timestamp_seconds",
            "Time of its newest row, Unix time.",
            [] if last.newest is None else [("", last.newest)],
        ),
        (
            "data_missing_share",
            "Share of its rows in which the column has no value.",
            [(_label("column", each.name), each.missing[-1] or 0.0) for each in report.columns],
        ),
        (
            "data_source_rows",
            "Rows read of the source for it.",
            [(_label("source", each.name), each.rows[-1] or 0) for each in report.sources],
        ),
        (
            "data_source_changed_timestamp_seconds",
            "When the source last had something new, Unix time.",
            [(_label("source", each.name), each.changed) for each in report.sources if each.changed is not None],
        ),
        (
            "data_findings",
            "What is unlike the snapshots before, by aspect.",
            [(_label("aspect", aspect), count) for aspect, count in sorted(aspects.items())],
        ),
        (
            "data_breaking_changes",
            "Changes of the sources' columns that break what the contract needs.",
            [("", sum(change["impact"] == "breaking" for change in changes))],
        ),
        ("data_refused", "Whether the last batch was refused.", [("", int(report.refused is not None))]),
        ("data_healthy", "Whether nothing is wrong.", [("", int(not report.problems()))]),
    )
    for name, text, samples in families:
        lines += [f"# HELP shipworthy_{name} {text}", f"# TYPE shipworthy_{name} gauge"]
        lines += [f"shipworthy_{name}{labels} {value:.10g}" for labels, value in samples]
    return ("\n".join(lines) + "\n").encode()


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{{{name}="{escaped}"}}'
