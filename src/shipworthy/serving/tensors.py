"""Tensors as bytes: the binary tensor data extension of the Open Inference Protocol.

A body is a JSON document of the length that the header `inference-header-content-length` says, then the contents of
those tensors that name a `binary_data_size`, one after the other: little-endian, texts each with its length in four
bytes in front.

Source: github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

LENGTH = struct.Struct("<I")
MAX_ELEMENTS = 4_000_000  # of one tensor: 10,000 rows of 400 columns
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
}


def read_tensor(content: memoryview, datatype: str, shape: Sequence[int]) -> list[Any]:
    """The values of one tensor, in row-major order; a NaN is a missing number.

    Args:
        content: its bytes, no more and no fewer.
        datatype: such as `FP32` or `BYTES`.
        shape: of non-negative numbers.

    Raises:
        ValueError: the bytes are not such a tensor; says what was expected.
    """
    count = check_shape(shape)
    if datatype == "BYTES":
        return _read_texts(content, count)
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise ValueError(f"a datatype of {', '.join((*DTYPES, 'BYTES'))}")
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"{count * dtype.itemsize} bytes for {count} of {datatype}, not {len(content)}")
    if datatype == "BOOL" and not set(bytes(content)) <= {0, 1}:
        raise ValueError("0 or 1 for each of BOOL")
    values: list[Any] = np.frombuffer(content, dtype).tolist()
    return [None if value != value else value for value in values] if dtype.kind == "f" else values


def check_shape(shape: Sequence[int]) -> int:
    """How many elements a tensor of this shape has.

    Raises:
        ValueError: more than any tensor may have, or a negative number of them.
    """
    count = math.prod(shape)
    if any(size < 0 for size in shape) or count > MAX_ELEMENTS:
        raise ValueError(f"a shape of no more than {MAX_ELEMENTS} elements, none of them negative")
    return count


def write_tensor(values: Iterable[Any], datatype: str) -> bytes:
    r"""The bytes of a tensor; a number that is missing is NaN.

    >>> write_tensor(["ab", ""], "BYTES")
    b'\x02\x00\x00\x00ab\x00\x00\x00\x00'
    """
    if datatype == "BYTES":
        encoded = [str(value).encode() for value in values]
        return b"".join(part for text in encoded for part in (LENGTH.pack(len(text)), text))
    return np.array([math.nan if value is None else value for value in values], DTYPES[datatype]).tobytes()


def _read_texts(content: memoryview, count: int) -> list[str]:
    texts: list[str] = []
    offset = 0
    while len(texts) < count:
        start = offset + LENGTH.size
        if start > len(content):
            raise ValueError(f"{count} texts, each with its length in four bytes in front; {len(texts)} are there")
        (length,) = LENGTH.unpack_from(content, offset)
        offset = start + length
        if offset > len(content):
            raise ValueError(f"as many bytes as text {len(texts)} says, {length}")
        try:
            texts.append(str(content[start:offset], "utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"UTF-8; text {len(texts)} is not") from None
    if offset != len(content):
        raise ValueError(f"no more than {count} texts; {len(content) - offset} bytes follow them")
    return texts
