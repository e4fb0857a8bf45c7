"""`pip install shipworthy` alone, without the laptop product, serves and verifies."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

STANDARD_ONLY = ["alembic", "deltalake", "lightgbm", "onnx", "polars", "pydantic", "sklearn", "sqlalchemy", "yaml"]
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({STANDARD_ONLY}))  # importing any of them fails as if it were not installed
from shipworthy.faces.cli.main import main
main()
"""


def without_the_laptop_product(*words: str | Path) -> list[str]:
    return [sys.executable, "-c", WITHOUT, *map(str, words)]


def test_the_serving_set_verifies_signatures_and_the_log(project: Path, home: dict[str, str]):
    argv = without_the_laptop_product("verify", "all", "--project", project, "--json")
    done = subprocess.run(argv, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [proof["name"].split()[0] for proof in json.loads(done.stdout)["proofs"]]
    assert names == ["audit", "bundle", "bundle"]

    model = next((project / ".shipworthy" / "live").rglob("model.onnx"))
    model.write_bytes(model.read_bytes()[:-1])
    done = subprocess.run(argv, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "model.onnx" in done.stdout


def test_the_serving_set_serves(project: Path, home: dict[str, str]):
    argv = without_the_laptop_product("serve", "--project", project, "--port", "0", "--open", "--json")
    server = subprocess.Popen(argv, env=home, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        body = json.dumps(ready["example"]).encode()
        request = urllib.request.Request(ready["address"] + ready["path"], body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            assert json.loads(response.read())["source"] == "model"
    finally:
        server.terminate()
        assert server.wait(timeout=20) == 0
        server.stdout.close()  # type: ignore[union-attr]


def test_what_needs_more_says_how_to_get_it(project: Path, home: dict[str, str]):
    done = subprocess.run(
        without_the_laptop_product("ship", "--project", project), env=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'shipworthy[standard]'" in done.stderr
    assert "Traceback" not in done.stderr
