"""External weights of an ONNX graph: the files that it names, found in its bytes.

ONNX Runtime opens such files by itself. They must be known before, so that nothing is loaded that
the manifest does not describe. The parser is small, since `limelight` does not need `onnx`: it
follows the messages of onnx.proto that can contain a tensor, and skips everything else.
"""

from collections.abc import Iterator

# Number of each field with a message that can contain a tensor, and the type of that message.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        **{5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph"},
        **{22: "SparseTensor", 23: "SparseTensor"},
    },
    "Function": {7: "Node", 11: "Attribute"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2  # fields of an Entry
_LOCATION = b"location"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(content: bytes) -> set[str]:
    """Return the names of the files in which the graph with these bytes keeps weights.

    Raises:
        ValueError: the bytes are not an ONNX graph.
    """
    if _LOCATION not in content:  # to follow all messages takes milliseconds of interpreted code
        for _ in _fields(memoryview(content)):
            pass
        return set()
    names: set[str] = set()
    messages = [("Model", memoryview(content))]
    while messages:
        kind, message = messages.pop()
        if kind == "Entry":
            entry = dict(_fields(message))
            if bytes(entry.get(_KEY, b"")) == _LOCATION:
                names.add(bytes(entry.get(_VALUE, b"")).decode())
            continue
        inner = _MESSAGES[kind]
        messages += [(inner[field], value) for field, value in _fields(message) if field in inner]
    return names


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and bytes of each field that is a message, a text or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _, at = _varint(message, at)
        elif wire_type == _FIXED64:
            at += 8
        elif wire_type == _FIXED32:
            at += 4
        elif wire_type == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field is longer than its message")
            yield field, message[at : at + size]
            at += size
        else:
            raise ValueError(f"a field has the wire type {wire_type}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number at this position, and the position after it."""
    number = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number is cut off")
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
