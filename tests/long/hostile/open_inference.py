"""Requests of the Open Inference Protocol that contradict themselves, over HTTP and gRPC."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from service.oip.grpc.messages import message_class
from tests.long.hostile.image_files import SIDE, photo, png, webp
from tests.long.hostile.inputs import ANY, REJECTED, HttpInput, upload

_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, kw_only=True)
class GrpcInput:
    """One call of a method of the inference service; honest codes are those of a client's fault.

    `make` gives the messages; a unary method has one.
    """

    kind: str
    name: str
    method: str
    make: Callable[[], list[bytes]]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def tensor(data: Any, **changes: Any) -> dict[str, Any]:
    found = {"name": "image_bytes", "datatype": "BYTES", "shape": [1, 1], "data": data}
    return {name: value for name, value in (found | changes).items() if value is not ...}


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


def open_inference(model: str) -> Iterator[HttpInput]:
    """Yield requests for a model with pixels of 28 x 28 x 1 or other sizes."""
    infer, small = f"/v2/models/{model}/infer", encoded(photo(size=16))
    shapes: list[Any] = [
        [], [1], [0, 1], [-1, 1], [1, -1], [2, 1], [2**31, 2**31], [2**63, 1], [2**64, 1], [1.5, 1],
        ["1", 1], [1] * 5_000, None, "1", {"a": 1}, [True, True], [1e300, 1], [[1, 1]],
    ]  # fmt: skip
    for shape in shapes:
        body = {"inputs": [tensor([small], shape=shape)]}
        allowed = ANY if shape == [1] else REJECTED  # one image, without its second dimension
        yield _json(infer, f"shape {json.dumps(shape)[:30]}", body, allowed)
    for name, inputs in (
        ("none", []),
        ("is a number", 5),
        ("is null", None),
        ("10,000 of them", [tensor([small])] * 10_000),
        ("both kinds", [tensor([small]), tensor([0] * 784, name="images", datatype="UINT8")]),
        ("unknown name", [tensor([small], name="x" * 9_000)]),
        ("unknown datatype", [tensor([small], datatype="INT999")]),
        ("no data", [tensor(...)]),
        ("no name", [tensor([small], name=...)]),
        ("numbers for base64", [tensor([5])]),
        ("false base64", [tensor(["%%%%" * 99])]),
        ("9 MB of false base64", [tensor(["*" * 9_000_000])]),
        ("9 MB of padding", [tensor(["=" * 9_000_000])]),
        ("9 MB of line ends", [tensor(["\n" * 4_000_000])]),
        ("base64 of nothing", [tensor([""])]),
        ("data URL of text", [tensor(["data:text/html;base64,PGI+"])]),
        (
            "pixels too large",
            [tensor([999] * 784, name="images", datatype="UINT8", shape=[1, 28, 28, 1])],
        ),
        (
            "pixels are text",
            [tensor(["a"] * 784, name="images", datatype="UINT8", shape=[1, 28, 28, 1])],
        ),
        (
            "pixels are huge",
            [tensor([1e308] * 784, name="images", datatype="UINT8", shape=[1, 28, 28, 1])],
        ),
        (
            "2 million pixels",
            [tensor([1] * 2_000_000, name="images", datatype="UINT8", shape=[1, 28, 28, 1])],
        ),
        ("33 images", [tensor([small] * 33, shape=[33, 1])]),
        (
            "shared memory",
            [
                tensor(
                    ..., parameters={"shared_memory_region": "a", "shared_memory_byte_size": 2**63}
                )
            ],
        ),
        ("binary size without a header", [tensor(..., parameters={"binary_data_size": 10})]),
    ):
        yield _json(infer, f"inputs: {name}", {"inputs": inputs}, REJECTED)
    good = [tensor([small])]
    for name, changes in (
        ("id of 1 MB", {"id": "a" * 1_000_000}),
        ("id is a list", {"id": [1]}),
        ("output of no name", {"outputs": [{}]}),
        ("unknown output", {"outputs": [{"name": "x"}]}),
        ("10,000 outputs", {"outputs": [{"name": "probabilities"}] * 10_000}),
        (
            "2**63 classes",
            {"outputs": [{"name": "probabilities", "parameters": {"classification": 2**63}}]},
        ),
        (
            "-1 classes",
            {"outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]},
        ),
        (
            "overlay of a target in a list",
            {"outputs": [{"name": "overlay_png", "parameters": {"target": [[]]}}]},
        ),
        (
            "overlay of opacity nan",
            {"outputs": [{"name": "overlay_png", "parameters": {"opacity": "nan"}}]},
        ),
        ("parameters of 1 MB", {"parameters": {f"a{at}": "b" * 100 for at in range(10_000)}}),
        ("priority", {"parameters": {"priority": 2**70, "timeout": -(2**70)}}),
    ):
        yield _json(infer, name, {"inputs": good, **changes}, ANY)
    for name, text in (
        ("empty", b""),
        ("not JSON", b"{"),
        ("100,000 brackets", b"[" * 100_000),
        ("100,000 objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        ("nested in parameters", b'{"inputs":[],"parameters":' + b"[" * 900 + b"]" * 900 + b"}"),
        ("number of 1 MB", b'{"inputs":' + b"9" * 1_000_000 + b"}"),
        (
            "exponent",
            b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1e999999999],"data":[1]}]}',
        ),
        ("half a surrogate", b'{"id":"\\ud800","inputs":[]}'),
        ("not UTF-8", b'{"id":"\xff","inputs":[]}'),
        ("a million keys", b"{" + b",".join(b'"%d":1' % at for at in range(600_000)) + b"}"),
        ("the same key", b'{"inputs":[],' + b",".join([b'"inputs":[]'] * 100_000) + b"}"),
        ("NaN", b'{"inputs":[NaN, Infinity]}'),
    ):
        yield upload("OIP JSON", name, partial(bytes, text), REJECTED, target=infer)
    yield from _binary(infer)
    yield from _many_images(infer)
    for path in (
        "/versions/-2/infer",
        "/versions/99999999999999999999/infer",
        "/versions/%00/infer",
    ):
        yield upload("OIP path", path, lambda: b"{}", REJECTED, target=f"/v2/models/{model}{path}")
    for path in (
        "/v2/models/..%2f..%2fetc/infer",
        "/v2/models//infer",
        f"/v2/models/{'a' * 9_000}/infer",
        "/v2/repository/models/x/load",
    ):
        yield upload("OIP path", path[:40], lambda: b"{}", REJECTED, target=path)


def _json(target: str, name: str, body: object, allowed: frozenset[int]) -> HttpInput:
    make = partial(lambda content: json.dumps(content).encode(), body)
    return upload("OIP JSON", name, make, allowed, target=target)


def _binary(infer: str) -> Iterator[HttpInput]:
    image = photo(size=16)
    element = struct.pack("<I", len(image)) + image
    for name, size, said, blob in (
        ("size 0", 0, None, element),
        ("size is negative", -1, None, element),
        ("size too large", len(element) + 1, None, element),
        ("size 2**63", 2**63, None, element),
        ("size 2**80", 2**80, None, element),
        ("size is text", "9", None, element),
        ("element longer than its blob", 8, None, struct.pack("<I", 2**32 - 1) + b"abcd"),
        ("2 million empty elements", 8_000_000, None, bytes(8_000_000)),
        ("blob left over", len(element), None, element + b"more"),
        ("header length 0", len(element), "0", element),
        ("header length negative", len(element), "-5", element),
        ("header length too large", len(element), "99999999", element),
        ("header length of 400 digits", len(element), "9" * 400, element),
        ("header length in Arabic digits", len(element), "٣", element),
    ):
        inputs = [tensor(..., parameters={"binary_data_size": size})]
        text = json.dumps({"inputs": inputs}).encode()
        field = f"{_LENGTH}: {len(text) if said is None else said}"
        body = text + blob
        yield upload(
            "OIP binary", name, partial(bytes, body), REJECTED, fields=(field,), target=infer
        )


def _many_images(infer: str) -> Iterator[HttpInput]:
    for name, make in (
        ("PNG", partial(png, SIDE, 8, 6)),
        ("16-bit PNG", partial(png, 4_000, 16, 6)),
        ("WebP", partial(webp, 2441, 16383, alpha=True)),
        ("GIF that is none", lambda: b"GIF89a" * 99),
    ):
        for outputs in ([], [{"name": "overlay_png"}], [{"name": "layercams"}]):
            wanted = {"outputs": outputs} if outputs else {}
            title = f"32 of {name}, {outputs[0]['name'] if outputs else 'all'}"
            body = partial(_images_body, make, wanted)
            yield upload("OIP images", title, body, target=infer)


def _images_body(make: Callable[[], bytes], wanted: dict[str, Any]) -> bytes:
    data = [encoded(make())] * 32
    return json.dumps({"inputs": [tensor(data, shape=[32, 1])], **wanted}).encode()


def calls(model: str) -> Iterator[GrpcInput]:
    """Yield calls of the gRPC service."""
    request = message_class("ModelInferRequest")

    def message(
        raw: list[bytes] | None = None, contents: list[bytes] | None = None, **fields: Any
    ) -> bytes:
        names = {"name": "image_bytes", "datatype": "BYTES", "shape": [1, 1]}
        made = request(model_name=fields.pop("model_name", model), **fields.pop("request", {}))
        given = made.inputs.add(**{**names, **fields})
        for each in contents or []:
            given.contents.bytes_contents.append(each)
        made.raw_input_contents.extend(raw or [])
        return bytes(made.SerializeToString())

    small, huge = photo(size=16), png(SIDE, 16, 6)
    element = struct.pack("<I", len(small)) + small
    for name, content in (
        ("noise", b"\xff\xfe\xfd" * 999),
        ("empty", b""),
        ("groups in groups", b"\x0b" * 100_000),
        ("field of 2**60 bytes", b"\x0a" + b"\xff" * 8 + b"\x7f"),
        ("name of 1 MB", message(model_name="a" * 1_000_000)),
        ("name not UTF-8", b"\x0a\x02\xff\xfe"),
        ("name is a path", message(model_name="../../etc")),
        ("version", message([element], request={"model_version": "-99"})),
        ("shape 2**62", message([element], shape=[2**62, 2**62])),
        ("shape is negative", message([element], shape=[-1, 1])),
        ("10,000 dimensions", message([element], shape=[1] * 10_000)),
        ("no contents", message()),
        ("both contents", message([element], [small])),
        ("10,000 blobs", message([element] * 10_000)),
        ("element too long", message([struct.pack("<I", 2**32 - 1) + b"ab"])),
        ("2 million empty elements", message([bytes(8_000_000)], shape=[2_000_000, 1])),
        ("2 million contents", message(None, [b""] * 2_000_000, shape=[2_000_000, 1])),
        ("datatype", message([element], datatype="\0")),
        ("not an image", message(None, [b"nonsense"])),
        ("32 huge images", message(None, [huge] * 32, shape=[32, 1])),
        (
            "shared memory",
            message([element], parameters={"shared_memory_region": {"string_param": "a"}}),
        ),
        ("11 MB", message(None, [bytes(11_000_000)])),
    ):
        make = partial(lambda each: [each], content)
        yield GrpcInput(kind="gRPC", name=name, method="ModelInfer", make=make)
    yield GrpcInput(kind="gRPC", name="no such method", method="Nonsense", make=lambda: [b""])
    for name, messages in (
        ("stream without messages", []),
        ("stream of noise", [b"\xff" * 99] * 100),
        ("stream of 2,000", [message(None, [b"nonsense"])] * 2_000),
    ):
        make = partial(list, messages)
        yield GrpcInput(kind="gRPC", name=name, method="ModelStreamInfer", make=make)
