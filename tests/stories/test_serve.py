"""What `serve` says at a terminal is true."""

import http.client
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import urllib.parse
from pathlib import Path


def test_the_curl_line_that_serve_prints_works_as_it_stands(project: Path, home: dict[str, str]):
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "shipworthy", "serve", "--project", str(project), "--port", "0"]
    server = subprocess.Popen(argv, env=home, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    try:
        said = b""
        while b"eight hours" not in said:
            said += os.read(ours, 4096)
        line = next(line for line in said.decode().splitlines() if line.startswith("curl"))
        status, answer = as_curl(shlex.split(line))
        assert status == 200, answer
        assert answer["source"] == "model"
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
        os.close(ours)


def as_curl(words: list[str]) -> tuple[int, dict[str, object]]:
    """Send what curl would send for `words`."""
    url = urllib.parse.urlsplit(next(word for word in words if word.startswith("http")))
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
    connection.request("POST", url.path, words[words.index("-d") + 1], headers)
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found
