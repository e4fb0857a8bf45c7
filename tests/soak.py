"""The long repetitions: each row of the fault table in a pytest of its own, and what it saw in docs/evidence/soak.md.

`python tests/soak.py` runs every row that this commit has not passed yet, so it may be stopped, even killed, and
started again. `--only ROW` runs some rows, `--list` shows what stands where, `--scale 0.1` takes a tenth of the
repetitions. The page says what ran, never what should have: a row that was not run says so.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PAGE = Path("docs", "evidence", "soak.md")
STATE = Path(".soak")
HEAD = """\
# What the long repetitions saw

Written by `make soak`; nothing here is claimed from anywhere else. Repetitions: how often the fault was made; "all"
is every case there is, such as every call of the disk. Commit: the sources that the row ran against, with `+` if
files were changed and not committed.

| row | what must hold | repetitions | outcome | measured | seconds | commit | date |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the fault, what must hold, and the tests that show it."""

    id: str
    shows: str
    tests: tuple[str, ...]
    repetitions: int | None = None  # given to the tests as SHIPWORTHY_SOAK; None: they try every case anyway
    every: bool = False  # so many repetitions are every case there is


@dataclass(frozen=True, slots=True)
class Result:
    """How a row ended."""

    row: str
    commit: str
    repetitions: int | None
    passed: bool
    measured: str
    seconds: float
    date: str


ROWS = (
    Row(
        "F01",
        "kill -9 of a server under load: every acknowledged record is there, once",
        ("tests/serving/test_faults.py::test_kill_9_under_load_loses_no_acknowledged_record",),
        200,
    ),
    Row(
        "data false alarms",
        "days that are as usual, around a level and with a trend: alarms stay within the declared budget",
        ("tests/data/test_health.py::test_false_alarms_stay_within_the_declared_budget",),
        1000,
    ),
    Row(
        "F01 workers",
        "kill -9 of a worker under load: nothing acknowledged is lost, nobody is refused, the next one answers",
        (
            "tests/serving/test_fault_matrix.py::test_workers_killed_at_random_under_load_lose_nothing_that_was_acknowledged",
        ),
        200,
    ),
    Row(
        "F01 messages",
        "kill -9 of a consumer or its broker, cut connections: each id is recorded once, every message is answered",
        (
            "tests/serving/test_consumer.py::test_a_consumer_killed_at_any_moment_records_each_id_once_and_answers_all",
            "tests/serving/test_consumer.py::test_a_broker_killed_under_load_is_found_again_and_nothing_is_lost_or_doubled",
            "tests/serving/test_consumer.py::test_connections_that_are_cut_are_made_again_and_nothing_is_lost_or_doubled",
        ),
        200,
    ),
    Row(
        "F09 server",
        "syncs of two seconds: `sync` refuses soon after the deadline, `async` does not notice",
        ("tests/serving/test_fault_matrix.py::test_a_slow_disk_refuses_in_time_or_costs_nothing",),
        10,
    ),
    Row(
        "F12 workers",
        "a model that hangs in native code: fallback, the other worker answers on, the worker is replaced",
        ("tests/serving/test_fault_matrix.py::test_a_model_that_hangs_costs_its_worker_which_is_replaced",),
        20,
    ),
    Row(
        "F15",
        "a model that leaks: its worker is recycled, no caller sees more than one error a recycle",
        ("tests/serving/test_fault_matrix.py::test_a_model_that_leaks_is_recycled_before_it_takes_the_machine",),
        5,
    ),
    Row(
        "F02 ledger",
        "power loss at every step of an append: whole or not at all, and the audit passes",
        ("tests/ledger/test_power_loss.py",),
        20,
    ),
    Row(
        "F02 records",
        "power loss at every call of the disk: every acknowledged record is kept",
        ("tests/records/test_records.py::test_a_power_loss_at_any_call_keeps_what_was_acknowledged",),
        50,
    ),
    Row(
        "S02 data only",
        "every reader over hostile files, watched by Python's audit hook: refused, and nothing was run or called",
        ("tests/security/test_data_only.py::test_every_reader_is_silent_over_hostile_files",),
        2_000,
    ),
    Row(
        "S13 data plane",
        "mutated requests: no crash, no 5xx, no word about the inside, memory flat",
        ("tests/serving/test_hostile.py::test_mutated_requests_break_nothing_and_leave_memory_flat",),
        100_000,
    ),
    Row(
        "S13 control plane",
        "hostile requests to the control plane: no crash, no 5xx, memory flat",
        ("tests/faces/test_control_process.py::test_hostile_requests_break_nothing_and_leave_memory_flat",),
        100_000,
    ),
    Row(
        "S13 schemas",
        "schemathesis on the published interfaces of both planes: answers as published, no 5xx, no leak",
        ("tests/serving/test_schema.py", "tests/faces/test_schema.py"),
        300,
    ),
    Row(
        "F16 store",
        "somebody who can write the store: every tampering is found and called by its name",
        ("tests/bundle/test_tampering.py",),
        10_000,
    ),
    Row(
        "F02 F05 promotion",
        "power loss or kill -9 at every step of a promotion: the old or the new is live and verifies, never neither",
        ("tests/bundle/test_power_loss.py",),
        200,
    ),
    Row(
        "F03 versions",
        "kill -9 of a writer of a table: no partial version is seen, and taken again the digest is the same",
        ("tests/data/test_versions.py::test_a_writer_killed_at_any_moment_leaves_no_partial_version_and_converges",),
        50,
    ),
    Row(
        "F03 F04 F05 ship",
        "kill -9 of `ship` in any stage: run again it ends in the same snapshot and payload, deployed and verified",
        ("tests/stories/test_kills.py",),
        50,
    ),
    Row(
        "F03 score",
        "kill -9 of `score`: run again it ends in the same answers, each row recorded once, nothing half-written",
        ("tests/workflows/test_score_kills.py",),
        24,
    ),
    Row(
        "score memory",
        "so many rows scored in the memory of 200,000, but for their ids",
        ("tests/workflows/test_score_memory.py",),
        10_000_000,
    ),
    Row(
        "score columns",
        "rows judged in columns get what the row decoder gives each: matrix, record and answer, bit for bit",
        ("tests/workflows/test_columnar.py",),
        100,
    ),
    Row(
        "F03 ledger",
        "kill -9 of a process that appends: nothing acknowledged is lost, and the audit passes",
        ("tests/ledger/test_recovery.py::test_a_killed_process_loses_nothing_it_acknowledged",),
        200,
    ),
    Row(
        "F06 control",
        "kill -9 of the control plane while a canary runs: the same rollouts, windows, alerts and shares in the end",
        ("tests/stories/test_production.py::test_control_killed_at_any_moment_comes_to_the_same_end",),
        20,
    ),
    Row(
        "story",
        "`demo flights` told again with control killed has the same figures; stopped anywhere, it starts clean",
        ("tests/stories/test_demo.py",),
        20,
    ),
    Row(
        "F27",
        "labels late, again, contradicting, of unknown ids; a telling or a writer killed -9: each truth counts once",
        (
            "tests/stories/test_outcomes.py",
            "tests/records/test_tail.py",
            "tests/workflows/test_outcomes.py",
            "tests/feedback",
        ),
        50,
    ),
    Row(
        "F08 F10 ledger",
        "a full disk or a failed sync at every call of an append: nothing acknowledged is lost, a failed sync fences",
        ("tests/ledger/test_recovery.py::test_wherever_the_disk_fails_nothing_acknowledged_is_lost",),
    ),
    Row(
        "F08 F10 records",
        "a full disk or a failed sync at every call: not acknowledged, never synced again, the rest kept",
        ("tests/records/test_records.py::test_what_a_failing_disk_refused_is_not_acknowledged_and_the_rest_is_kept",),
    ),
    Row(
        "F08 server",
        "a real full disk under a server: refused, spooled or dropped as declared, and on again when space returns",
        ("tests/serving/test_faults.py::test_a_full_disk_refuses_spools_or_drops_as_declared",),
    ),
    Row(
        "F08 F10 F14 server",
        "a disk that is full, or whose syncs fail, in each mode: as declared, said in health, recovered from",
        ("tests/serving/test_records_disk.py::test_a_disk_that_refuses_is_met_as_declared_and_recovered_from",),
        20,
    ),
    Row(
        "F14 spool",
        "kill -9 and power loss at every call while records wait in the spool or move: none lost, none twice, in order",
        (
            "tests/records/test_spool.py",
            "tests/serving/test_records_disk.py::test_a_server_killed_while_records_wait_moves_them_when_started_again",
        ),
        20,
    ),
    Row(
        "compaction",
        "kill -9 at every call while segments become Parquet: each record is there once, and proven",
        ("tests/workflows/test_compact.py",),
    ),
    Row(
        "F11 F12 F13",
        "a model that raises, hangs, gives NaN or a wrong shape: answered by labelled fallback, batch-mates unharmed",
        (
            "tests/serving/test_faults.py::test_a_model_that_fails_is_answered_by_labelled_fallback",
            "tests/serving/test_faults.py::test_one_poison_row_costs_its_batch_mates_nothing",
            "tests/serving/test_faults.py::test_a_hanging_model_does_not_hang_the_server",
        ),
    ),
    Row(
        "F11 F12 F13 Python",
        "a Python model that raises, hangs, crashes, forks, lies, gives NaN: its rows fall back, the worker stays",
        ("tests/serving/test_python_models.py::test_whatever_a_model_does_costs_its_rows_and_no_worker",),
        20,
    ),
    Row(
        "F15 Python",
        "a Python model that leaks: succeeded by one that was warmed beside, every request answered by the model",
        ("tests/serving/test_python_models.py::test_a_model_that_grows_is_succeeded_and_nobody_notices",),
        5,
    ),
    Row(
        "F16",
        "a bundle with one bit, length, file, link or name changed: refused before anything is loaded",
        ("tests/bundle/test_bundle.py::test_every_mutated_bundle_is_refused",),
        1_000,
    ),
    Row(
        "F17 F18",
        "a database that is lost or damaged: noticed on open, and made again from the log",
        (
            "tests/ledger/test_recovery.py::test_a_damaged_file_is_replaced_and_kept_aside",
            "tests/ledger/test_recovery.py::test_the_database_is_made_again_from_the_log_and_nothing_is_lost",
        ),
    ),
    Row(
        "F20",
        "16 processes promote at once: one wins each round, the others are told so, no generation is lost",
        ("tests/ledger/test_promoters.py",),
        1_000,
    ),
    Row(
        "F22",
        "a contract broken in one place: rejected at that line, column and key",
        ("tests/contract/test_mutations.py",),
        1_000_000,
        every=True,
    ),
    Row(
        "F24",
        "five times what the model can do: refused at once, the admitted answered by the model, none at the deadline",
        ("tests/serving/test_admission.py",),
    ),
    Row(
        "E7",
        "the peak that the contract declares, for as many seconds: every request is answered by the model",
        ("tests/stories/test_loadtest.py::test_the_peak_that_the_contract_declares_is_held",),
        600,
    ),
    Row(
        "F25",
        "slow, huge, malformed and smuggled requests: refused, bounded, and others are answered",
        ("tests/serving/test_hostile.py",),
    ),
    Row(
        "F29",
        "damaged Parquet, Arrow and Excel files as sources: each is read or refused in plain words",
        ("tests/data/test_damaged_files.py",),
        20_000,
    ),
    Row(
        "D1",
        "kill -9 of an ingest that reads on from a watermark, at random: each row of the source is there exactly once",
        ("tests/workflows/test_sources.py::test_killed_at_random_moments_the_rows_converge",),
        50,
    ),
    Row(
        "F28",
        "the log unlinked, cut or made read-only while running: the next act is refused, and serving goes on",
        (
            "tests/ledger/test_recovery.py::test_a_log_removed_while_running_refuses_the_next_append",
            "tests/ledger/test_recovery.py::test_a_log_cut_while_running_refuses_the_next_append",
            "tests/stories/test_lost_log.py",
        ),
    ),
    Row(
        "skew",
        "a row served and the same row of a table get the same columns and the same answer",
        ("tests/stories/test_skew.py",),
        100,
    ),
    Row(
        "expressions",
        "an expression gives the same bits over a table as over a row",
        ("tests/data/test_columns.py",),
        20_000,
    ),
    Row(
        "audit",
        "the ledger tampered with at random: found, and the first bad entry named",
        ("tests/ledger/test_audit.py::test_random_tampers_are_all_found_and_the_first_bad_entry_named",),
        10_000,
    ),
    Row(
        "sealed",
        "an encrypted object comes back whole or not at all: every flipped bit, cut and chunk moved is found",
        ("tests/security/test_vault.py",),
        100,
    ),
    Row(
        "gates",
        "a gate on its boundary, or on noise, passes as often as promised",
        ("tests/gates",),
        4_000,
    ),
    Row(
        "bounds",
        "a statistic's confidence bound errs as often as promised",
        ("tests/stats",),
        4_000,
    ),
)


def commit_of(top: Path) -> str:
    """The commit of the work tree, with `+` if sources or tests were changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "tests", "pyproject.toml")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def state_file(top: Path, row: str, kind: str = "json") -> Path:
    """Where a row's last result, log or measurements stand."""
    return top / STATE / f"{row.replace(' ', '-')}.{kind}"


def read_result(top: Path, row: str) -> Result | None:
    """How the row ended last; None if it never did."""
    try:
        return Result(**json.loads(state_file(top, row).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write_atomically(path: Path, text: str) -> None:
    """A kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def is_done(result: Result | None, row: Row, commit: str, repetitions: int | None) -> bool:
    """Whether the row passed at this commit with at least so many repetitions; changed files have no commit."""
    if result is None or not result.passed or result.commit != commit or commit.endswith("+"):
        return False
    return (result.repetitions or 0) >= (repetitions or 0)


def run_row(top: Path, row: Row, commit: str, repetitions: int | None) -> Result:
    """Run the row's tests; whatever they said they saw is in the result."""
    log, evidence = state_file(top, row.id, "log"), state_file(top, row.id, f"{os.getpid()}.jsonl")
    evidence.parent.mkdir(exist_ok=True)
    evidence.write_text("")
    environment = {**os.environ, "SHIPWORTHY_EVIDENCE": str(evidence)}
    environment.pop("SHIPWORTHY_SOAK", None)
    if repetitions is not None:
        environment["SHIPWORTHY_SOAK"] = str(repetitions)
    argv = [sys.executable, "-m", "pytest", "-o", "timeout=0", "-p", "no:cacheprovider", *row.tests]
    started = time.monotonic()
    with open(log, "wb") as file:
        done = subprocess.run(argv, env=environment, cwd=top, stdout=file, stderr=subprocess.STDOUT, check=False)
    seconds = round(time.monotonic() - started, 1)
    seen = [json.loads(line) for line in evidence.read_text(encoding="utf-8").splitlines()]
    evidence.unlink()
    seen.append(["tests", last_line(log).partition(" in ")[0].strip("= ")])
    date = time.strftime("%Y-%m-%d", time.gmtime())
    result = Result(row.id, commit, repetitions, done.returncode == 0, summarise(seen), seconds, date)
    write_atomically(state_file(top, row.id), json.dumps(asdict(result)))
    return result


def last_line(log: Path) -> str:
    """Pytest's own summary."""
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    return lines[-1] if lines else "nothing was run"


def summarise(seen: Iterable[tuple[str, object]]) -> str:
    """Each name once, with its value, or the smallest and largest of several."""
    values: dict[str, list[object]] = {}
    for name, value in seen:
        values.setdefault(name, []).append(value)
    return "; ".join(f"{name} {span(given)}" for name, given in values.items()).replace("|", "/")


def span(values: Sequence[object]) -> str:
    """One value, or from the smallest to the largest."""
    numbers = sorted({value for value in values if isinstance(value, int | float)})
    if not numbers:
        return ", ".join(dict.fromkeys(map(str, values)))
    ends = [f"{number:,}" if isinstance(number, int) else f"{number:.4g}" for number in (numbers[0], numbers[-1])]
    return " to ".join(dict.fromkeys(ends))


def line_of(row: Row, result: Result | None) -> str:
    """The row's line of the page."""
    if result is None:
        return f"| {row.id} | {row.shows} | | not run | | | | |"
    repetitions = "all" if result.repetitions is None or row.every else f"{result.repetitions:,}"
    if result.repetitions is not None and result.repetitions < (row.repetitions or 0) and not row.every:
        repetitions += f" of {row.repetitions:,}"
    outcome = "held" if result.passed else "FAILED"
    return (
        f"| {row.id} | {row.shows} | {repetitions} | {outcome} | {result.measured} | {result.seconds:,.0f} |"
        f" {result.commit} | {result.date} |"
    )


def write_page(top: Path, rows: Sequence[Row]) -> None:
    """Write the page from the state; a row that this machine never ran keeps the line that the page has."""
    page = top / PAGE
    old = page.read_text(encoding="utf-8").splitlines() if page.is_file() else []
    kept = {line.split(" | ")[0].removeprefix("| "): line for line in old if line.startswith("| ")}
    lines = []
    for row in rows:
        result = read_result(top, row.id)
        lines.append(kept[row.id] if result is None and row.id in kept else line_of(row, result))
    write_atomically(page, HEAD + "\n".join(lines) + "\n")


def soak(
    top: Path, rows: Sequence[Row], only: Sequence[str] = (), scale: float = 1, tell: Callable[[str], None] = print
) -> bool:
    """Run what is not done yet, and write the page after each row; answers whether every row held."""
    commit = commit_of(top)
    held = True
    for row in rows:
        if only and row.id not in only:
            continue
        repetitions = None if row.repetitions is None else max(1, round(row.repetitions * scale))
        result = read_result(top, row.id)
        if is_done(result, row, commit, repetitions):
            tell(f"{row.id}: held before, at {commit}")
            continue
        times = "" if repetitions is None or row.every else f", {repetitions:,} times"
        tell(f"{row.id}: {row.shows}{times}")
        result = run_row(top, row, commit, repetitions)
        write_page(top, rows)
        tell(f"{row.id}: {'held' if result.passed else 'FAILED'} in {result.seconds:,.0f} s; {result.measured}")
        if not result.passed:
            tell(f"    see {state_file(top, row.id, 'log')}")
            held = False
    return held


def main(words: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="run this row; may be repeated")
    parser.add_argument("--list", action="store_true", help="show the rows and how each ended last")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the repetitions, such as 0.1")
    given = parser.parse_args(words)
    if unknown := set(given.only) - {row.id for row in ROWS}:
        parser.error(f"no row is called {', '.join(sorted(unknown))}; --list shows all")
    if given.list:
        for row in ROWS:
            print(line_of(row, read_result(TOP, row.id)))
        return 0
    return 0 if soak(TOP, ROWS, given.only, given.scale, lambda line: print(line, flush=True)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
