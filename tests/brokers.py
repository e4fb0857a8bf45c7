"""A real RabbitMQ for tests: its own folder, its own ports on loopback, killed and started again at will."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.certificates import Pair

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # of Debian's package; the one in PATH wants another user
CONTROL = SERVER.with_name("rabbitmqctl")
USER, PASSWORD = "shipworthy", "correct-horse"
START_S = 60.0


def has_broker() -> bool:
    """Whether Debian's packages rabbitmq-server and erlang are here."""
    return SERVER.exists() and shutil.which("epmd") is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A broker with one user; what is durable outlives `kill`.

    Args:
        folder: for everything that it writes.
        pair: certificate and key, where it also speaks TLS.
    """

    def __init__(self, folder: Path, pair: Pair | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._epmd_port, self._distribution_port = free_port(), free_port()
        self.port, self.tls_port = free_port(), free_port()
        lines = [f"default_user = {USER}", f"default_pass = {PASSWORD}", "disk_free_limit.absolute = 1MB"]
        if pair is not None:
            lines += [f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}"]
            lines += [f"ssl_options.certfile = {pair.cert}", f"ssl_options.keyfile = {pair.key}"]
        (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (folder / "plugins").write_text("[].\n")
        self._epmd = subprocess.Popen(
            ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], start_new_session=True
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._guards: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}/"

    @property
    def tls_url(self) -> str:
        return f"amqps://{USER}:{PASSWORD}@localhost:{self.tls_port}/"

    @property
    def _environment(self) -> dict[str, str]:
        """By which its own commands find it."""
        return os.environ | {
            "HOME": str(self.folder),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
        }

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        environment = self._environment | {
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
        }
        with open(self.folder / "stdout", "ab") as log:
            self._process = subprocess.Popen([SERVER], env=environment, stdout=log, stderr=log, start_new_session=True)
        self._guards.append(_guard(self._process.pid, self._epmd.pid))
        end = time.monotonic() + START_S
        while not self._answers():
            said = (self.folder / "stdout").read_text()
            assert self._process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.05)

    def sync(self) -> None:
        """Wait until the queues that were declared are on its disk: it answers a declaration seconds before."""
        command = [CONTROL, "--quiet", "eval", "ok = mnesia:sync_log()."]
        subprocess.run(command, env=self._environment, stdout=subprocess.DEVNULL, check=True, timeout=START_S)

    def kill(self) -> None:
        """End it as a power switch would, with all its processes."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        for guard in self._guards:
            guard.kill()
            guard.communicate()
        self._guards.clear()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._epmd.kill()
        self._epmd.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                probe.settimeout(1)
                return bool(probe.recv(8))
        except OSError:
            return False


def _guard(group: int, epmd: int) -> "subprocess.Popen[bytes]":
    """Ends the broker when whoever runs the tests is gone, however it ended: then nobody holds its input open."""
    script = f"cat; kill -9 -{group} {epmd}"
    return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)
