"""A Python model that fails on command: the first number of a run's first row says how."""

import io
from typing import Any

import numpy as np

RAISES, SLEEPS, SPINS, EXITS, CRASHES, WIDE, FEWER, NAN = 901.0, 902.0, 903.0, 904.0, 905.0, 906.0, 907.0, 908.0
CHATS, LEAKS, HOARDS, LIES, TALKS_OVER, FORKS, WORDS, SLOW = 909.0, 910.0, 911.0, 912.0, 913.0, 914.0, 915.0, 916.0
LEAK_BYTES = 20 * 2**20
SLOW_S = 0.005  # for each row

SOURCE = b'''
import ctypes, io, json, os, signal, socket, struct, subprocess, sys, time
import numpy as np

def channel():
    """The descriptor that leads to the server, which a model has no business with."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                return int(name)
        except OSError:
            pass

class Model:
    def __init__(self, weights, bias):
        self.weights, self.bias, self.leaked = weights, bias, []

    def predict(self, matrix):
        asked = set(matrix[:, 0].tolist())
        if 901.0 in asked:
            raise RuntimeError("the model does not like a row")
        if 902.0 in asked:
            time.sleep(60)
        if 903.0 in asked:
            ctypes.PyDLL(None).sleep(60)  # native code that does not let go of the interpreter
        if 904.0 in asked:
            os._exit(3)
        if 905.0 in asked:
            os.kill(os.getpid(), signal.SIGSEGV)
        if 909.0 in asked:
            print("chatter " * 100_000, flush=True)
        if 910.0 in asked:
            self.leaked.append(os.urandom(20 * 2**20))
        if 911.0 in asked:
            np.ones(10**9)
        if 912.0 in asked:
            os.write(channel(), b"an answer, on my word" * 20)
        if 913.0 in asked:
            os.write(channel(), struct.pack("<QBIII", 2**40, 1, 1, 2, 2**31))
        if 914.0 in asked:
            subprocess.Popen(["sleep", "300"])
            os._exit(0)
        if 916.0 in asked:
            time.sleep(0.005 * int((matrix[:, 0] == 916.0).sum()))
        margin = np.where(np.isnan(matrix), 0, matrix).astype(np.float64) @ self.weights + self.bias
        positive = 1 / (1 + np.exp(-margin))
        answers = np.stack([1 - positive, positive], axis=1)
        if 906.0 in asked:
            return answers[:, :1]
        if 907.0 in asked:
            return answers[:-1]
        if 915.0 in asked:
            return [["no", "yes"]] * len(matrix)
        answers[matrix[:, 0] == 908.0] = np.nan
        return answers

def load(files):
    settings = json.loads(files["settings.json"])
    return Model(np.load(io.BytesIO(files["weights.npy"])), settings["bias"])
'''


def model_data(weights: Any, bias: float = 0.0) -> dict[str, bytes]:
    """The data of a model that answers like `linear_model` of the serving tests."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(weights, np.float64))
    return {"weights.npy": buffer.getvalue(), "settings.json": b'{"bias": %f}' % bias}
