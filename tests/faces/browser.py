"""A real browser, Debian's Chromium without a window, driven over its own pipe."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip
TIMEOUT_S = 30.0
ABOVE_STANDARD = 10  # descriptors from here on are free to be moved


class Page:
    """One tab."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.complaints: list[str] = []  # what the browser itself finds wrong, such as a broken policy
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], max(until - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            chunk = os.read(self._receive, 1 << 20)
            assert chunk, "the browser ended"
            self._buffer += chunk
        content, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(content)
        if message.get("method") == "Log.entryAdded":
            entry = message["params"]["entry"]
            self.complaints.append(f"{entry.get('url', '')}: {entry['text']}")
        return message

    def evaluate(self, expression: str) -> Any:
        """What JavaScript says of the page; our own policy does not bind the tester."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def size(self, width: int, height: int = 900, *, is_mobile: bool = False, is_dark: bool = False) -> None:
        """Look at pages through a screen of this size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_mobile
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Go somewhere, and wait until it is there."""
        self.act(lambda: self.call("Page.navigate", url=address))

    def act(self, deed: Any) -> None:
        """Do what leads to another page, and wait until that is loaded."""
        self.evaluate("window.isOld = true")
        deed()
        until = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until:
            if self.evaluate("!window.isOld && document.readyState === 'complete' && !!document.body"):
                return
            time.sleep(0.05)
        raise AssertionError("the page did not load")

    def click(self, selector: str) -> None:
        """Press what leads to another page."""
        self.act(lambda: self.evaluate(f"document.querySelector({json.dumps(selector)}).click()"))

    def text(self, selector: str) -> str:
        """What a part of the page shows."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def count(self, selector: str) -> int:
        """How many parts of the page match."""
        return int(self.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def screenshot(self, path: Path) -> None:
        """The whole page as a picture."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser with a profile of its own.

    Raises:
        AssertionError: Chromium is not installed.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "Chromium is not installed, and the console must be looked at: apt-get install -y chromium"
    (its_input, ours), (our_input, its) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, ABOVE_STANDARD) for end in (its_input, its)]

    def take_pipe() -> None:  # the browser reads descriptor 3 and writes descriptor 4
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    process = subprocess.Popen(
        [program, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"],
        preexec_fn=take_pipe,
        close_fds=False,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    for end in (its_input, its, *high):
        os.close(end)
    try:
        yield Page(ours, our_input)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours)
        os.close(our_input)
