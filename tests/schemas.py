"""schemathesis on a published OpenAPI document: answers that are not as it says, and answers that tell too much."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = int(os.environ.get("SHIPWORTHY_SOAK", "0")) or 6  # of each operation
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "unsupported_method",  # told only to those who may ask
)  # fmt: skip
LEAKS = ("/tmp/", "/work", "/root", "site-packages", '.py"', "Traceback", "object at 0x", "sqlalchemy", "sqlite3.")


def examine(document: dict[str, Any], address: str, token: str | None, folder: Path) -> tuple[list[str], int]:
    """What is wrong, in words, and how many requests were made."""
    place, report = folder / "openapi.json", folder / "report.har"
    place.write_text(json.dumps(document))
    checks = ",".join(CHECKS if token else CHECKS[:-1])
    argv = [
        sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "run", str(place), "--url", address, "--no-color",
        "--max-examples", str(EXAMPLES), "--seed", "1", "--checks", checks, "--phases", "coverage,fuzzing",
        "--report", "har", "--report-har-path", str(report), "--continue-on-failure", "--generation-database", "none",
        *(["-H", f"Authorization: Bearer {token}"] if token else []),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=folder, timeout=3_000)
    wrong = [] if done.returncode == 0 else [done.stdout[-6_000:] + done.stderr[-1_000:]]
    entries = json.loads(report.read_text())["log"]["entries"]
    for entry in entries:
        text = entry["response"].get("content", {}).get("text", "")
        found = [leak for leak in LEAKS if leak in text]
        if found:
            wrong.append(f"{entry['request']['method']} {entry['request']['url']} told {found}: {text[:300]}")
        if entry["response"]["status"] >= 500:
            wrong.append(f"{entry['request']['method']} {entry['request']['url']} was {entry['response']['status']}")
    return wrong, len(entries)
