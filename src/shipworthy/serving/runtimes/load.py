"""A verified payload's model in the runtime that it is for."""

from shipworthy.bundle.verify import VerifiedPayload
from shipworthy.serving.runtimes.onnx import OnnxRuntime
from shipworthy.serving.runtimes.python import PythonRuntime
from shipworthy.serving.runtimes.runtime import Runtime

PATIENT_S = 60.0  # for one run, and for a process that is started again, where no caller waits


def load_runtime(payload: VerifiedPayload) -> Runtime:
    """The model, ready to answer callers: a Python model keeps the deadline of its rows.

    Raises:
        IntegrityError: it cannot be loaded.
    """
    if isinstance(payload.model, bytes):
        return OnnxRuntime(payload.model)
    return PythonRuntime(payload.model, payload.policy, limit_s=payload.policy.timeout_s)


def load_patiently(payload: VerifiedPayload) -> Runtime:
    """The model, to answer a file: a Python model may take its time, and is waited for when it is started again.

    Raises:
        IntegrityError: it cannot be loaded.
    """
    if isinstance(payload.model, bytes):
        return OnnxRuntime(payload.model)
    return PythonRuntime(payload.model, payload.policy, limit_s=PATIENT_S, wait_s=PATIENT_S)
