"""ONNX models in ONNX Runtime, on the CPU, one thread, no spinning: threads are the server's to count."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shipworthy.kernel.errors import IntegrityError

INPUT = "features"
OUTPUTS = ("probabilities", "prediction")
_FATAL = 4  # onnxruntime's own log: only what ends the process; failures reach us as exceptions


class OnnxRuntime:
    """A model in ONNX Runtime.

    Args:
        model: content of `model.onnx`, verified.

    Raises:
        IntegrityError: not a model that takes `features` and gives `probabilities` or `prediction`.
    """

    is_apart = False

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _FATAL
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 (onnxruntime's errors have no other root)
            raise IntegrityError(f"The payload's model cannot be loaded: {error}.") from None
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        if inputs != [INPUT] or len(outputs) != 1 or outputs[0] not in OUTPUTS:
            raise IntegrityError(
                f"The payload's model takes {inputs} and gives {outputs}; it must take {INPUT!r} alone."
            )
        self._outputs = outputs

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating]:
        """See `Runtime`."""
        result: NDArray[np.floating] = self._session.run(self._outputs, {INPUT: matrix})[0]
        return result

    def close(self) -> None:
        """See `Runtime`: memory goes with the last reference."""
