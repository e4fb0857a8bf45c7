"""The process that runs a Python model: `python -m shipworthy.engines.model_child DESCRIPTOR`.

It takes the model's source and data from its parent, who has verified them, gives up what it does not need, loads, and
answers run after run until the other end is closed. The data are bytes that only the source reads, and nothing may be
unpickled: what runs is what can be read in the release.
"""

import importlib.abc
import importlib.util
import json
import linecache
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from types import CodeType
from typing import Any

from shipworthy.engines.confine import confine
from shipworthy.engines.frames import (
    ANSWERED,
    ASK,
    FILE,
    MAX_TEXT_BYTES,
    PLAN,
    RAISED,
    READY,
    TOLD,
    UNUSABLE,
    receive,
    send,
)

MODULE = "model"


def main(descriptor: int) -> int:
    """Serve the model until nobody asks any more; 1 if it cannot be loaded."""
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    plan_size, files_size = PLAN.unpack(receive(channel, PLAN.size))
    plan = json.loads(receive(channel, plan_size))
    files = _part(bytes(receive(channel, files_size)), plan["files"])
    words = confine(plan["memory_bytes"])
    sys.addaudithook(_refuse_pickles)
    try:
        model = load_model(files.pop(FILE), files)
    except Exception as error:  # noqa: BLE001 (the user's code may raise anything; told with its lines)
        _tell(channel, 0, RAISED, explain(error))
        return 1
    _tell(channel, 0, READY, words)
    return _answer(channel, model, plan["width"])


def load_model(source: bytes, data: Mapping[str, bytes]) -> Any:
    """What `load` in `source` makes of the data."""
    linecache.cache[FILE] = (len(source), None, source.decode().splitlines(keepends=True), FILE)
    spec = importlib.util.spec_from_loader(MODULE, _Source(source))
    if spec is None or spec.loader is None:
        raise ImportError(f"{FILE} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, "load", None)):
        raise AttributeError(f"{FILE} defines no load(files)")
    model = module.load(dict(data))
    if not callable(getattr(model, "predict", None)):
        raise AttributeError(f"load(files) gave {type(model).__name__}, which has no predict(matrix)")
    return model


class _Source(importlib.abc.InspectLoader):
    """Source that came as bytes and is no file."""

    def __init__(self, source: bytes) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source.decode()

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source, FILE)


def explain(error: BaseException) -> str:
    """The model's own lines of the traceback, innermost last, then what was raised."""
    if isinstance(error, SyntaxError) and error.filename == FILE:
        return f"{FILE}:{error.lineno}: {type(error).__name__}: {error.msg}: {(error.text or '').strip()}"
    lines = [
        f"{FILE}:{frame.lineno} in {frame.name}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == FILE
    ]
    return "\n".join([*lines, traceback.format_exception_only(error)[-1].strip()])


def _answer(channel: socket.socket, model: Any, width: int) -> int:
    import numpy as np  # after the process is confined: a thread that a library starts would not be

    while True:
        try:
            number, rows, columns = ASK.unpack(receive(channel, ASK.size))
        except ConnectionError:
            return 0
        asked = np.frombuffer(receive(channel, rows * columns * 4), np.float32).reshape(rows, columns)
        try:
            found = np.asarray(model.predict(asked), dtype=np.float64)
        except MemoryError:
            raise  # what is left of the process may be anything
        except Exception as error:  # noqa: BLE001 (the user's code may raise anything: these rows have no answer)
            _tell(channel, number, RAISED, explain(error))
            continue
        if found.shape != ((rows, width) if width else (rows,)) and found.shape != (rows, width or 1):
            wanted = f"({rows}, {width})" if width else f"({rows},)"
            _tell(channel, number, UNUSABLE, f"predict gave the shape {found.shape}; {wanted} was asked for")
            continue
        content = found.tobytes()
        send(channel, [TOLD.pack(number, ANSWERED, rows, width, len(content)), content])


def _tell(channel: socket.socket, number: int, kind: int, text: str) -> None:
    content = text.encode(errors="replace")[:MAX_TEXT_BYTES]
    send(channel, [TOLD.pack(number, kind, 0, 0, len(content)), content])


def _part(content: bytes, listing: list[list[Any]]) -> dict[str, bytes]:
    """The files by name; `listing` says each one's name and size, in order."""
    files, start = {}, 0
    for name, size in listing:
        files[name] = content[start : start + size]
        start += size
    return files


def _refuse_pickles(event: str, arguments: tuple[Any, ...]) -> None:  # noqa: ARG001 (the form of a hook)
    if event == "pickle.find_class":
        raise PermissionError(
            "a pickle holds code that nobody can read in the release; keep arrays and texts (.npz, .json, .txt), "
            "and build the model from them in load"
        )


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads that the model left behind are nobody's to wait for
