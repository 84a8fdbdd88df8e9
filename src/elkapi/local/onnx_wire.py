"""Writes the few ONNX messages of a graph in protocol-buffer wire format; independent of models and operators.

The `onnx` package would add 40 MB of memory and half a second to every start of the model process. Field numbers are
those of the published `onnx.proto`.
"""

from __future__ import annotations

import struct
from typing import Any

from numpy.typing import NDArray

OPSET = 18
IR_VERSION = 10
CONTRIB = "com.microsoft"

FLOAT, INT32, INT64 = 1, 6, 7
_TYPES = {"float32": FLOAT, "int32": INT32, "int64": INT64}
_EXTERNAL = 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _block(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _attribute(name: str, value: float | int) -> bytes:
    if isinstance(value, float):
        return _block(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _number(20, 1)
    return _block(1, name) + _number(3, value) + _number(20, 2)


def node(operator: str, inputs: list[str], outputs: list[str], domain: str, attributes: dict[str, Any]) -> bytes:
    """One NodeProto as a field of the graph. Attributes are floats or non-negative ints."""
    body = b"".join(_block(1, name) for name in inputs) + b"".join(_block(2, name) for name in outputs)
    body += _block(3, outputs[0]) + _block(4, operator)
    body += b"".join(_block(5, _attribute(name, value)) for name, value in attributes.items())
    return _block(1, body + _block(7, domain))


def constant(name: str, array: NDArray[Any]) -> bytes:
    """A small tensor with its bytes inside the model."""
    return _block(5, _tensor_head(name, array) + _block(9, array.tobytes()))


def placeholder(name: str, array: NDArray[Any]) -> bytes:
    """A tensor whose bytes are passed to the session separately, so they are not copied into the message."""
    entries = (("location", "memory"), ("offset", "0"), ("length", str(array.nbytes)))
    where = b"".join(_block(13, _block(1, key) + _block(2, value)) for key, value in entries)
    return _block(5, _tensor_head(name, array) + where + _number(14, _EXTERNAL))


def _tensor_head(name: str, array: NDArray[Any]) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    return dims + _number(2, _TYPES[array.dtype.name]) + _block(8, name)


def _value(field: int, name: str, type_: int, shape: tuple[str | int, ...]) -> bytes:
    dims = b"".join(_block(1, _block(2, size) if isinstance(size, str) else _number(1, size)) for size in shape)
    return _block(field, _block(1, name) + _block(2, _block(1, _number(1, type_) + _block(2, dims))))


def graph_input(name: str, type_: int, shape: tuple[str | int, ...]) -> bytes:
    """An input of the graph; a string in `shape` names a free dimension."""
    return _value(11, name, type_, shape)


def graph_output(name: str, type_: int, shape: tuple[str | int, ...]) -> bytes:
    """An output of the graph; a string in `shape` names a free dimension."""
    return _value(12, name, type_, shape)


def model(graph: bytes) -> bytes:
    """The ModelProto around the concatenated fields of a graph."""
    opsets = _block(8, _block(1, "") + _number(2, OPSET)) + _block(8, _block(1, CONTRIB) + _number(2, 1))
    return _number(1, IR_VERSION) + opsets + _block(7, graph + _block(2, "elkapi"))
