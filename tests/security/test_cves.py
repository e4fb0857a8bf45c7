"""Each group of the field's CVEs, tried on ours, where it fails, and on a build that was weakened, where it succeeds.

A check that a weakened build passes proves nothing: so the second half is as much a test as the first.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.security.cve_checks import CHECKS

TOP = Path(__file__).parents[2]


@dataclass(frozen=True)
class Weakening:
    """One line of ours, as somebody could have written it."""

    group: str  # of FINDINGS: what happened to others
    file: str
    ours: str
    weaker: str


WEAKENED = {
    "changed_model": Weakening("pickle on load", "bundle/verify.py", "if found != entry.digest:", "if False:"),
    "unsigned_release": Weakening("unsigned artefacts", "security/signing.py", "    key.verify(signed, raw)\n", ""),
    "swapped_in_a_shared_store": Weakening(
        "artefact swapped in a shared store", "bundle/verify.py",
        "if digest is not None and found != digest:\n            raise", "if False:\n            raise",
    ),
    "linked_file": Weakening(
        "tar and zip tricks, links", "bundle/verify.py",
        "flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK", "flags = os.O_RDONLY | os.O_CLOEXEC",
    ),
    "manifest_names_code": Weakening(
        "manifests that name code", "bundle/format.py",
        'class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True)',
        'class Schema(msgspec.Struct, frozen=True, kw_only=True)',
    ),
    "yaml_makes_objects": Weakening(
        "unsafe YAML", "contract/nodes.py",
        "if event.tag is not None:\n            self._report", "if False:\n            self._report",
    ),
    "path_from_an_id": Weakening("path traversal", "ledger/artefacts.py", "if not is_digest(digest):", "if False:"),
    "route_without_a_policy": Weakening(
        "routes without a policy", "security/access.py",
        'return Decision(False, "no rule names this verb")', 'return Decision(True, "")',
    ),
    "nobody_signed_in": Weakening(
        "unauthenticated APIs", "faces/guard.py",
        'return problem(401, NO_TOKEN, headers={"WWW-Authenticate": "Bearer"})', "return self._owner",
    ),
    "another_sites_form": Weakening(
        "requests forged by another site", "faces/guard.py",
        "if page.netloc.lower() != host or not is_ours:", "if False:",
    ),
    "rebound_name": Weakening(
        "DNS rebinding", "faces/guard.py", "if found is None or found[1] not in self._hosts:", "if False:"
    ),
    "bound_to_everybody": Weakening(
        "bound to everybody", "security/binding.py",
        "if not loopback and binding.tls is None and not binding.is_upstream:", "if False:",
    ),
    "token_of_another_scope": Weakening(
        "authentication bypassed", "serving/gate.py",
        "            if isinstance(found, str):\n", "            return None\n            if False:\n",
    ),
    "user_makes_users": Weakening(
        "users who make themselves administrators", "security/access.py",
        '"manage users": {"security": "any"}', '"manage users": {"security": "any", "data-scientist": "any"}',
    ),
    "error_names_a_path": Weakening(
        "errors that leak", "faces/problems.py", "elif _INSIDE.search(words):", "elif False:"
    ),
    "redirected_webhook": Weakening(
        "server-side request forgery", "monitoring/deliver.py", 'parts.scheme not in ("http", "https") or ', ""
    ),
    "body_without_an_end": Weakening(
        "oversized chunked bodies", "serving/protocol.py", "if self._body_bytes > self._limit:", "if False:"
    ),
}  # fmt: skip


def attack(names: list[str], package: Path) -> dict[str, str | None]:
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{TOP}", "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-W", "ignore", "-m", "tests.security.cve_checks", *names]
    done = subprocess.run(argv, env=environment, cwd=TOP, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_no_attack_of_the_fields_succeeds_here():
    found = attack([], TOP / "src")
    assert found == dict.fromkeys(CHECKS)


def test_every_attack_has_a_weakened_build():
    assert set(WEAKENED) == set(CHECKS)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our package to weaken."""
    root = tmp_path_factory.mktemp("weakened")
    shutil.copytree(TOP / "src" / "shipworthy", root / "shipworthy", ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.mark.parametrize("name", list(WEAKENED), ids=lambda name: WEAKENED[name].group)
def test_the_attack_succeeds_on_a_weakened_build(copy: Path, name: str):
    change = WEAKENED[name]
    file = copy / "shipworthy" / change.file
    text = file.read_text()
    assert change.ours in text, f"{change.file} has changed; weaken it anew"
    file.write_text(text.replace(change.ours, change.weaker, 1))
    try:
        assert attack([name], copy)[name] is not None
    finally:
        file.write_text(text)
