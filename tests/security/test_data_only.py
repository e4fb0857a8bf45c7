"""Nothing that is read becomes code: no loader that could, and a process that is watched stays silent."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Seen
from tests.serving.conftest import SYSTEM, Place, Running, good_request, start_server
from tests.serving.conftest import place as place

TOP = Path(__file__).parents[2]
FILES = int(os.environ.get("SHIPWORTHY_SOAK", "0")) or 60  # for each reader

LOADERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "torch",
    "skops",
    "runpy",
}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system", "os.popen", "os.execv",
    "pd.read_pickle", "torch.load", "joblib.load", "ctypes.CDLL",
}  # fmt: skip
BY_NAME = {"faces/cli/main.py", "ledger/database.py"}  # a verb of our own table; SQLAlchemy's dialect of our own two
USER_CODE = {  # processes that run the project's own code: train.py, prepare.py, and a release's model.py
    "training/child.py",
    "data/prepare/child.py",
    "engines/model_child.py",
}
SYSTEM_CALLS = {"engines/confine.py"}  # what such a process gives up, Python knows no call for


def sources() -> Iterator[tuple[str, ast.Module]]:
    root = TOP / "src" / "shipworthy"
    for path in sorted(root.rglob("*.py")):
        yield str(path.relative_to(root)), ast.parse(path.read_text())


def offences(name: str, tree: ast.AST) -> Iterator[str]:
    """What could turn data into code, with its line."""
    for item in ast.walk(tree):
        line = f"{name}:{getattr(item, 'lineno', 0)}"
        if isinstance(item, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in item.names] if isinstance(item, ast.Import) else [item.module or ""]
            yield from (f"{line} imports {found}" for found in names if found.partition(".")[0] in LOADERS)
        if not isinstance(item, ast.Call):
            continue
        called = ast.unparse(item.func)
        keywords = {word.arg: word.value for word in item.keywords}
        if called == "ctypes.CDLL" and name in SYSTEM_CALLS:
            continue
        if called in CALLS or called in ATTRIBUTES:
            yield f"{line} calls {called}"
        if called.endswith("np.load") and ast.unparse(keywords.get("allow_pickle", ast.Constant(None))) != "False":
            yield f"{line} loads arrays with their objects"
        if "shell" in keywords:
            yield f"{line} starts a shell"
        if called.endswith("import_module") and name not in BY_NAME:
            yield f"{line} imports by a name"
        if called.endswith(("spec_from_file_location", "exec_module")) and name not in USER_CODE:
            yield f"{line} loads a file as code"


def test_no_code_of_ours_could_turn_data_into_code():
    assert [found for name, tree in sources() for found in offences(name, tree)] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "import torch.serialization", "eval(x)", "yaml.load(x)",
        "os.system(x)",
        "np.load(x)", "np.load(x, allow_pickle=True)", "subprocess.run(x, shell=True)", "importlib.import_module(x)",
        "importlib.util.spec_from_file_location(x, y)", "__import__(x)",
    ],
)  # fmt: skip
def test_the_gate_sees_each_kind_of_offence(text: str):
    assert list(offences("serving/x.py", ast.parse(text)))


def test_neither_server_nor_control_plane_can_reach_what_loads_user_code():
    for module in ("shipworthy.serving.server", "shipworthy.faces.control_process, shipworthy.faces.api"):
        script = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        loaded = set(json.loads(done.stdout))
        assert not {"shipworthy.training.child", "shipworthy.data.prepare.child"} & loaded, module
        assert not {"shipworthy.engines.model_child", "shipworthy.engines.confine"} & loaded, module


def test_every_reader_is_silent_over_hostile_files(tmp_path: Path, seen: Seen):
    root = tmp_path / "root"
    root.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-W", "ignore", "-m", "tests.security.hostile_files", str(root), str(FILES)]
    done = subprocess.run(argv, env=environment, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["fell"] == []
    assert told["tried"] > 20 * FILES
    assert (tmp_path / "report").read_text() == ""
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "escape").exists()
    seen("hostile files read", told["tried"])


def test_the_watch_sees_a_pickle_that_is_loaded(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    script = (
        "import sys, pickle; from pathlib import Path; from tests.security.watched import watch\n"
        "from tests.security.hostile_files import corpus\n"
        "root = Path(sys.argv[1]); armed = root.parent / 'armed'\n"
        "watch(root.parent / 'report', armed, root); armed.touch()\n"
        "pickle.loads(corpus(root, 6)[3])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(root)], env=environment, cwd=TOP, check=True)
    assert (tmp_path / "canary").exists()
    assert "pickle.find_class" in (tmp_path / "report").read_text()


MEDIA = (
    "application/json", "application/x-pickle", "application/octet-stream", "application/vnd.bentoml+pickle",
    "application/x-npy",
    "application/vnd.apache.arrow.stream", "application/x-yaml", "text/plain", "multipart/form-data; boundary=x",
    "application/x-tar", "application/zip", "application/xml", "application/msgpack", "",
    "application/json; charset=utf-7",
)  # fmt: skip


@pytest.fixture
def watched(place: Place, tmp_path: Path) -> Iterator[tuple[Running, Path, Callable[[], None]]]:
    """The real server, watched from its first answer on."""
    place.deploy(place.publish(1))
    report, armed = tmp_path / "report", tmp_path / "armed"
    script = tmp_path / "watched_server.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(TOP)!r})\n"
        "from pathlib import Path\nfrom tests.security.watched import watch\n"
        f"watch(Path({str(report)!r}), Path({str(armed)!r}), Path({str(place.root)!r}))\n"
        "from shipworthy.serving.server import main\nsys.exit(main())\n"
    )
    server = start_server(place.settings(), tmp_path / "stderr", script)
    yield server, report, armed.touch
    server.stop()


def test_a_server_is_silent_over_hostile_requests(
    watched: tuple[Running, Path, Callable[[], None]], tmp_path: Path, seen: Seen
):
    from tests.security.hostile_files import corpus

    server, report, arm = watched
    assert server.predict(good_request())[0] == 200
    arm()
    (tmp_path / "root").mkdir()
    asked = 0
    paths = (f"/v1/systems/{SYSTEM}/predict", f"/v2/models/{SYSTEM}/infer", f"/v1/systems/{SYSTEM}/outcomes")
    for content in corpus(tmp_path / "root", 30):
        for media in MEDIA:
            for path in paths:
                status, _, _ = server.call("POST", path, content[:50_000], {"Content-Type": media} if media else {})
                assert status in (400, 404, 413, 415, 422), (path, media, status)
                asked += 1
    for headers in (
        {"Inference-Header-Content-Length": "10"},
        {"Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "X-Serializer": "pickle"},
        {"Payload-Container": "pickle"},
    ):
        status, _, _ = server.call("POST", paths[0], b"\x80\x04.", headers)
        assert status in (400, 415, 422)
    assert server.predict(good_request())[0] == 200
    assert report.read_text() == ""
    assert not (tmp_path / "canary").exists()
    seen("hostile requests", asked)
