"""A release in production: approved, canaried, judged on live value, promoted or rolled back, watched."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shipworthy.client import Client
from shipworthy.faces.listener import Listener
from shipworthy.faces.replay import DAY_S, Replay
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import UnavailableError, UsageError
from shipworthy.workflows.control import Control
from shipworthy.workflows.deploy import clock
from tests.conftest import Seen
from tests.stories.lending import A_DAY, START, change, traffic, write_lending

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "3"))
ROLES = {"maya": "ml-engineer", "ruth": "risk", "clock": "service"}
WORSE = ("threshold: {at: 0.5}", "threshold: {at: 0.01}")  # approves nearly everybody, which costs money
BETTER = ("threshold: {at: 0.5}", "threshold: {at: 0.65}")


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """The lending project with release 1 shipped and three principals; its keys and tokens."""
    top = tmp_path_factory.mktemp("lent")
    project = write_lending(top / "lending")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(top / "config")}
    run = [sys.executable, "-m", "shipworthy"]
    subprocess.run([*run, "ship", "--project", str(project)], env=environment, check=True, capture_output=True)
    tokens = {}
    for name, role in ROLES.items():
        words = [*run, "user", "add", name, "--role", role, "--json", "--project", str(project)]
        done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
        tokens[name] = json.loads(done.stdout)["token"]
    return project, top / "config", tokens


@pytest.fixture
def lending(lent: tuple[Path, Path, dict[str, str]], tmp_path: Path, home: dict[str, str]) -> Path:
    """A copy of the project, with its keys, for a test of its own."""
    shutil.copytree(lent[1], home["XDG_CONFIG_HOME"])
    return Path(shutil.copytree(lent[0], tmp_path / "lending"))


@pytest.fixture
def by(lent: tuple[Path, Path, dict[str, str]], home: dict[str, str], lending: Path) -> Callable[..., Any]:
    """Run a command on the project as somebody: `by("maya", "deploy", "lending:1")` -> exit code and document."""

    def run(who: str | None, *words: str) -> tuple[int, dict[str, Any]]:
        environment = home if who is None else home | {"SHIPWORTHY_TOKEN": lent[2].get(who, who)}
        argv = [sys.executable, "-m", "shipworthy", *words, "--json", "--project", str(lending)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


@pytest.fixture
def approved(by: Callable[..., Any]) -> Callable[[str], Any]:
    """Approve a release by both roles and deploy it."""

    def approve(release: str) -> dict[str, Any]:
        assert by("maya", "approve", release, "--role", "ml-engineer")[0] == 0
        assert by("ruth", "approve", release, "--role", "risk")[0] == 0
        code, document = by("maya", "deploy", release)
        assert code == 0, document
        return dict(document)

    return approve


def call_api(running: "Up", token: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and answer of the control plane."""
    place = urlsplit(running.ready["control"])
    with contextlib.closing(http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)) as connection:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        return response.status, answer


class Up:
    """A `shipworthy up` under way."""

    def __init__(self, process: "subprocess.Popen[str]", ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        self.opened = ExitStack()
        self.killed = 0  # times that its control plane was

    def control_pid(self) -> int | None:
        """The process of the control plane; None while it is being started again."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            with open(f"/proc/{child}/cmdline", "rb") as file:
                if b"control_process" in file.read():
                    return int(child)
        return None


@pytest.fixture
def up(home: dict[str, str], lending: Path) -> Callable[..., Any]:
    """`shipworthy up` with a clock that is told the time, while the block runs."""

    @contextmanager
    def start(webhook: str = "", *words: str) -> Iterator[Up]:
        argv = [sys.executable, "-m", "shipworthy", "up", "--project", str(lending), "--json", "--clock", "manual"]
        argv += ["--port", "0", "--control-port", "0", *words]
        process = subprocess.Popen(
            argv, env=home | {"ALERT_WEBHOOK": webhook}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "`up` ended before it was ready"
            running = Up(process, json.loads(line))
            with running.opened:
                yield running
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0
            process.stdout.close()

    return start


def replay_of(running: Up, tokens: dict[str, str], days: int, **how: Any) -> Replay:
    """So many days of traffic; what it opens is closed with `up`."""
    client = Client(running.ready["address"], system="lending", token=running.ready["token"], timeout_s=60)
    replay = Replay(traffic(days, **how), client, running.ready["control"], tokens["clock"], "production")
    running.opened.enter_context(replay)
    return replay


def play(replay: Replay, until_day: int) -> None:
    for _ in replay.run(START + until_day * DAY_S, DAY_S):
        pass


def ship(by: Callable[..., Any], lending: Path, edit: tuple[str, str]) -> str:
    change(lending, *edit)
    code, document = by(None, "ship")
    assert code == 0, document
    return str(document["release"])


# --- who may let what in


def test_a_release_is_deployed_only_when_both_roles_have_signed(by: Callable[..., Any]):
    code, document = by("maya", "deploy", "lending:1")
    assert code == 1
    assert "still owed 1 x ml-engineer, 1 x risk; run: shipworthy approve lending:1" in document["error"]["message"]
    assert by("maya", "approve", "lending:1", "--role", "ml-engineer")[1]["owed"] == [{"role": "risk", "count": 1}]
    assert "still owed 1 x risk" in by("maya", "deploy", "lending:1")[1]["error"]["message"]
    assert by("ruth", "approve", "lending:1", "--role", "risk")[1]["owed"] == []
    code, document = by("maya", "deploy", "lending:1")
    assert (code, document["state"], document["share"]) == (0, "deployed", 1.0)
    assert by("maya", "deploy", "lending:1")[1]["generation"] == document["generation"]  # again: nothing happens


def test_ship_can_deploy_and_says_what_is_owed_instead_of_failing(by: Callable[..., Any]):
    code, document = by(None, "ship", "--deploy", "production")
    assert (code, document["deployment"]["state"]) == (0, "awaiting")
    assert document["deployment"]["owed"] == [{"role": "ml-engineer", "count": 1}, {"role": "risk", "count": 1}]
    assert by("maya", "approve", "lending:1", "--role", "ml-engineer")[0] == 0
    assert by("ruth", "approve", "lending:1", "--role", "risk")[0] == 0
    code, document = by(None, "ship", "--deploy", "production")
    assert (code, document["deployment"]["state"], document["deployment"]["share"]) == (0, "deployed", 1.0)
    code, document = by(None, "ship", "--deploy", "staging")
    assert (code, document["error"]["code"]) == (2, "usage")


@pytest.mark.parametrize(
    ("who", "words", "message"),
    [
        (None, ("approve", "lending:1", "--role", "risk"), "nobody signs for their own work"),
        ("maya", ("approve", "lending:1", "--role", "risk"), "does not hold the role risk"),
        ("maya", ("approve", "lending:1", "--role", "business"), "asks for 1 x ml-engineer, 1 x risk, not for"),
        ("clock", ("approve", "lending:1", "--role", "risk"), "clock (service) may not do `approve`"),
        ("maya", ("approve", "lending:9", "--role", "ml-engineer"), "There is no release 'lending:9'"),
        ("maya", ("approve", "lending:1", "--env", "staging", "--role", "risk"), "has no environment 'staging'"),
        ("ruth", ("deploy", "lending:1"), "ruth (risk) may not do `deploy`"),
        ("maya", ("deploy", "lending:9"), "There is no release 'lending:9'"),
        ("swt_" + "A" * 43, ("deploy", "lending:1"), "the token is not valid here"),
        ("ruth", ("rollback", "--reason", "why not"), "nothing is deployed in production"),
        ("ruth", ("waive", "lending:1", "--gate", "value", "--role", "risk", "--reason", "x", "--expires", "30d"),
         "no verdict to waive called 'value'"),
        ("ruth", ("waive", "lending:1", "--gate", "value", "--role", "risk", "--reason", " ", "--expires", "30d"),
         "a waiver needs a reason"),
        ("ruth", ("waive", "lending:1", "--gate", "value", "--role", "risk", "--reason", "x", "--expires", "900d"),
         "a waiver ends within a year"),
        ("ruth", ("waive", "lending:1", "--gate", "value", "--role", "risk", "--reason", "x", "--expires", "soon"),
         "--expires: expected a duration"),
        ("ruth", ("ship",), "ruth (risk) may not do `ship`"),
        ("ruth", ("waive", "lending:1", "--gate", "value", "--role", "platform", "--reason", "x", "--expires", "30d"),
         "a waiver is signed as business or risk, not as platform"),
        ("maya", ("control", "--as-of", "yesterday"), "'yesterday' is no time"),
    ],
)  # fmt: skip
def test_what_may_not_be_is_refused_with_its_reason(
    by: Callable[..., Any], who: str | None, words: tuple[str, ...], message: str
):
    code, document = by(who, *words)
    assert code in (1, 2)
    assert message in document["error"]["message"]


def test_who_ships_with_a_token_is_the_author_and_cannot_approve_it(by: Callable[..., Any], lending: Path):
    change(lending, *BETTER)
    assert by("maya", "ship")[1]["release"] == "lending:2"
    code, document = by("maya", "approve", "lending:2", "--role", "ml-engineer")
    assert (code, document["error"]["code"]) == (1, "access")
    assert "nobody signs for their own work" in document["error"]["message"]


def test_one_person_signs_once(by: Callable[..., Any]):
    assert by("ruth", "approve", "lending:1", "--role", "risk")[0] == 0
    assert (
        "ruth has signed this approval already"
        in by("ruth", "approve", "lending:1", "--role", "risk")[1]["error"]["message"]
    )


def test_an_unsigned_or_changed_bundle_is_not_let_in(by: Callable[..., Any], lending: Path):
    for role, who in (("ml-engineer", "maya"), ("risk", "ruth")):
        assert by(who, "approve", "lending:1", "--role", role)[0] == 0
    statement = next((lending / ".shipworthy" / "releases" / "bundles").glob("*/release.json"))
    statement.chmod(0o644)
    statement.write_bytes(statement.read_bytes().replace(b'"sig":"', b'"sig":"AAAA'))
    code, document = by("maya", "deploy", "lending:1")
    assert (code, document["error"]["code"]) == (1, "integrity")
    assert not (lending / ".shipworthy" / "live" / "production" / "deployment").exists()


def test_a_forged_approval_is_found(by: Callable[..., Any], approved: Callable[[str], Any], lending: Path):
    approved("lending:1")
    with open_parts_of(lending) as parts:
        digest = parts.ledger.latest("attestation")[0]["digest"]
        path = parts.artefacts.path_of(digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    code, document = by(None, "verify", "lending:1")
    assert code == 1
    assert any("approval" in str(proof["problem"]) for proof in document["proofs"])


# --- the canary


def test_a_worse_release_is_rolled_back_on_live_value_and_a_better_one_promoted(
    by: Callable[..., Any],
    approved: Callable[[str], Any],
    up: Callable[..., Any],
    lending: Path,
    lent: tuple[Path, Path, dict[str, str]],
):
    approved("lending:1")
    with Listener() as webhook, up(webhook.address) as running:
        replay = replay_of(running, lent[2], days=16)
        replay.tick(START)
        play(replay, 2)
        worse = ship(by, lending, WORSE)
        assert approved(worse)["state"] == "canary"
        assert "is being rolled out" in by("maya", "deploy", "lending:1")[1]["error"]["message"]
        play(replay, 6)
        first = by(None, "status")[1]["rollouts"][0]
        assert (first["state"], first["champion"]) == ("rolled back", "lending:1")
        assert "The mean worth of a decision is -" in first["reason"]
        better = ship(by, lending, (WORSE[1], BETTER[1]))
        approved(better)
        play(replay, 16)
        status = by(None, "status")[1]
        assert (status["rollouts"][1]["state"], status["rollouts"][1]["release"]) == ("promoted", better)
        assert [item["release"] for item in status["deployments"]["production"]["releases"]] == [better]
        assert any(told["data"]["kind"] == "rollout" for told in webhook.received)
    quality = {item["release"]: item for item in by(None, "quality")[1]["quality"]}
    assert quality[worse]["value_per_decision"] < quality["lending:1"]["value_per_decision"]
    assert sum(item["rows"] for item in quality.values()) == 16 * A_DAY
    assert by(None, "verify", "all")[0] == 0
    code, document = by("ruth", "rollback", "--reason", "a complaint")
    assert (code, document["release"]) == (0, "lending:1")


def test_a_canary_is_sticky_by_subject_and_takes_its_share(
    by: Callable[..., Any],
    approved: Callable[[str], Any],
    up: Callable[..., Any],
    lending: Path,
    lent: tuple[Path, Path, dict[str, str]],
):
    approved("lending:1")
    approved(ship(by, lending, BETTER))
    with up() as running, Client(running.ready["address"], system="lending", token=running.ready["token"]) as client:
        releases: dict[str, set[str]] = {}
        for event in traffic(2):
            context = event.request["context"]
            answer = client.predict(event.request["inputs"], context=context, id=event.request["id"])
            releases.setdefault(context["customer"], set()).add(answer.release)
        assert call_api(running, lent[2]["clock"], "/api/rollback", {"env": "production", "reason": "x"})[0] == 403
        status, told = call_api(running, lent[2]["ruth"], "/api/rollback", {"env": "production", "reason": "a doubt"})
        assert (status, told["release"], told["state"]) == (200, "lending:1", "rolled back")
        time.sleep(0.3)  # servers notice within 100 ms, then load
        assert client.health()["releases"] == ["lending:1"]
    assert all(len(met) == 1 for met in releases.values())
    share = sum("lending:2" in met for met in releases.values()) / len(releases)
    assert 0.45 < share < 0.55  # half of 1,000 customers, within three standard errors


# --- the control loop


@pytest.mark.timeout(36_000)
def test_control_killed_at_any_moment_comes_to_the_same_end(
    by: Callable[..., Any],
    approved: Callable[[str], Any],
    up: Callable[..., Any],
    lending: Path,
    lent: tuple[Path, Path, dict[str, str]],
    tmp_path: Path,
    seen: Seen,
):
    approved("lending:1")
    shutil.copytree(lending, tmp_path / "before")
    undisturbed = through_a_canary(by, approved, up, lending, lent[2], kills=0)
    assert undisturbed["rollouts"][0][2] == "rolled back"
    kills = rounds = 0
    while kills < KILLS:
        shutil.rmtree(lending)
        shutil.copytree(tmp_path / "before", lending)
        disturbed = through_a_canary(by, approved, up, lending, lent[2], kills=KILLS - kills)
        kills, rounds = kills + disturbed["kills"], rounds + 1
        for part, found in undisturbed.items():
            assert part == "kills" or disturbed[part] == found
    assert by(None, "verify", "all")[0] == 0
    seen("kills", kills)
    seen("times through the canary", rounds)


def through_a_canary(
    by: Callable[..., Any],
    approved: Callable[[str], Any],
    up: Callable[..., Any],
    lending: Path,
    tokens: dict[str, str],
    kills: int,
) -> dict[str, Any]:
    """Two days, a worse canary, and on to day eight; what the ledger says at the end, without ids and wall times."""
    chance = random.Random(kills)
    with up() as running:
        replay = replay_of(running, tokens, days=8, income=140.0)
        replay.tick(START)
        play(replay, 2)
        approved(ship(by, lending, WORSE))
        done = threading.Event()
        killer = threading.Thread(target=kill_control, args=(running, kills, chance, done))
        killer.start()
        try:
            play(replay, 8)
        finally:
            done.set()
            killer.join()
        replay.tick(START + 9 * DAY_S)
    with open_parts_of(lending) as parts:
        windows = sorted(
            (body["window"], body["start"], body["rows"], json.dumps(body["findings"], sort_keys=True))
            for body in parts.ledger.latest("window")
        )
        rollouts = [
            (body["release"], body["step"], body["state"], body["reason"]) for body in parts.ledger.latest("rollout")
        ]
        alerts = sorted(
            (body["kind"], body["about"], body["state"], body["count"], body["opened"])
            for body in parts.ledger.latest("alert")
        )
        deployed = [
            (entry.body["generation"], [(r["release"], r["share"]) for r in entry.body["releases"]])
            for entry in parts.ledger.events(verb="deployment.set")
            if entry.body["environment"] == "production"
        ]
    quality = by(None, "quality")[1]
    told = {"windows": windows, "rollouts": rollouts, "alerts": alerts, "deployed": deployed, "quality": quality}
    return told | {"kills": running.killed}


def kill_control(running: Up, kills: int, chance: random.Random, done: threading.Event) -> None:
    """Kill the control plane so many times, each soon after it answers: while it does what is due."""
    for _ in range(kills):
        while not answers(running.ready["control"]):
            if done.wait(0.02):
                return
        if done.wait(chance.uniform(0.0, 0.4)):
            return
        pid = running.control_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        running.killed += pid is not None
        while running.control_pid() == pid:
            time.sleep(0.02)


def answers(address: str) -> bool:
    """Whether the control plane listens."""
    place = urlsplit(address)
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((place.hostname or "", place.port or 0)) == 0


def test_a_clock_that_is_set_back_is_refused_and_one_that_jumps_judges_each_window_once(
    by: Callable[..., Any], approved: Callable[[str], Any], up: Callable[..., Any], lending: Path,
    lent: tuple[Path, Path, dict[str, str]],
):  # fmt: skip
    approved("lending:1")
    with up() as running:
        replay = replay_of(running, lent[2], days=3)
        play(replay, 3)
    with open_parts_of(lending) as parts:
        control = Control(parts, {})
        with pytest.raises(UsageError, match=r"was judged as of 2013-07-04T00:00:00.000Z already"):
            control.step("production", START)
        control.step("production", START + 30 * DAY_S)
        assert control.step("production", START + 30 * DAY_S) == []
        starts = [body["start"] for body in parts.ledger.latest("window") if body["window"] == "inputs"]
        assert len(starts) == len(set(starts)) == 3  # only days with traffic are judged
        control.step("production")  # nobody tells a time any more: it is the wall's again
        assert parts.ledger.find_latest("clock", "production")["as_of"] is None
        assert clock(parts, "production") > START + 30 * DAY_S


@contextmanager
def open_parts_of(project: Path) -> Iterator[Any]:
    """The project's parts in this process, with the keys of the test's own home."""
    before = os.environ.get("XDG_CONFIG_HOME")
    os.environ["XDG_CONFIG_HOME"] = str(project.parent / "config")
    try:
        with open_parts(project) as parts:
            yield parts
    finally:
        if before is None:
            del os.environ["XDG_CONFIG_HOME"]
        else:
            os.environ["XDG_CONFIG_HOME"] = before


# --- up


def test_up_stops_cleanly_starts_where_it_was_and_runs_once(
    by: Callable[..., Any],
    approved: Callable[[str], Any],
    up: Callable[..., Any],
    lent: tuple[Path, Path, dict[str, str]],
):
    approved("lending:1")
    with up() as running:
        replay = replay_of(running, lent[2], days=2)
        play(replay, 1)
        code, document = by(None, "up", "--port", "0", "--control-port", "0")
        assert (code, document["error"]["code"]) == (1, "conflict")
        assert "runs here already" in document["error"]["message"]
    with up() as running, Client(running.ready["address"], system="lending", token=running.ready["token"]) as client:
        client.predict_many([event.request for event in traffic(2)])  # yesterday's again: merged by their ids
    quality = by(None, "quality")[1]
    assert quality["predictions"] == 2 * A_DAY
    assert by(None, "verify", "all")[0] == 0


def test_a_killed_data_plane_is_replaced(
    by: Callable[..., Any], approved: Callable[[str], Any], up: Callable[..., Any]
):
    approved("lending:1")
    with up() as running, Client(running.ready["address"], system="lending", token=running.ready["token"]) as client:
        request = traffic(1)[0].request
        first = client.predict(request["inputs"], context=request["context"], id="one")
        os.kill(data_plane_pid(running), signal.SIGKILL)
        client.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                second = client.predict(request["inputs"], context=request["context"], id="two")
                break
            except UnavailableError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert (first.release, second.release) == ("lending:1", "lending:1")


def data_plane_pid(running: Up) -> int:
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    return next(int(child) for child in children if int(child) != running.control_pid())


def test_a_webhook_that_refuses_is_tried_again_and_told_of(
    by: Callable[..., Any],
    approved: Callable[[str], Any],
    up: Callable[..., Any],
    lent: tuple[Path, Path, dict[str, str]],
):
    approved("lending:1")
    with up("http://127.0.0.1:9/refused") as running:
        replay = replay_of(running, lent[2], days=4, income=300.0)  # three times the income that training knew
        play(replay, 4)
    alerts = by(None, "alerts")[1]["alerts"]
    drift = next(alert for alert in alerts if alert["kind"] == "drift")
    assert "income" in drift["title"]
    delivery = drift["deliveries"]["${ALERT_WEBHOOK}"]
    assert (delivery["state"], delivery["error"]) == ("due", "no connection: Connection refused")
    assert delivery["attempts"] >= 1
    code, document = by("maya", "alerts", "--ack", drift["alert"])
    assert (code, document["alert"]["acknowledged_by"]) == (0, "maya")
