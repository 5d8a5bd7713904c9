"""Artefacts that lie: manifests, graphs and files."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.serving_kit import COLOUR_NETWORK, Reference, rewrite, write_artifact

Change = Callable[[Path], object]


@dataclass(frozen=True)
class ArtifactInput:
    """Change of a good artefact; `works` says whether it still predicts. None: it may."""

    name: str
    change: Change
    works: bool | None = False

    def __str__(self) -> str:
        return self.name

    def write(self, root: Path) -> Path:
        """Write the artefact below `root`; return its folder."""
        folder = write_artifact(root)
        self.change(folder)
        return folder


def artifacts() -> Iterator[ArtifactInput]:
    """Yield all inputs of this module."""
    yield ArtifactInput("intact", lambda folder: None, works=True)
    for name, files in (
        ("file above the folder", {"../../../../etc/passwd": 10}),
        ("absolute file", {"/etc/passwd": 10}),
        ("file in a folder", {"a/b": 10}),
        ("file with a zero byte", {"a\0b": 10}),
        ("missing file", {"missing.onnx": 10}),
    ):
        yield ArtifactInput(f"manifest lists {name}", _lists(files))
    changes: list[tuple[str, Any]] = [
        ("classes", ["a"] * 1_000_000),
        ("classes", []),
        ("classes", ["red", "red", "red"]),
        (
            "image",
            {
                "height": 10**9,
                "width": 10**9,
                "mode": "RGB",
                "fit": "crop",
                "invert": "never",
                "background": 0,
            },
        ),
        ("image", None),
        ("schema_version", 10**400),
        ("opset", -1),
        ("version", "../1"),
        ("name", "../../x"),
        ("inputs", [{"name": "images", "dtype": "uint8", "shape": ["batch", 2**62, 2**62, 3]}]),
        ("outputs", []),
        ("methods", ["nonsense"]),
        ("files", {}),
        (
            "calibration",
            {
                "method": "temperature",
                "temperature": 0,
                "images": 0,
                "ece_before": 0,
                "ece_after": 0,
            },
        ),
    ]
    for place, value in changes:
        title = f"manifest has {place} {str(value)[:20]}"
        # The opset is for information only.
        works = None if place == "opset" else False
        yield ArtifactInput(title, partial(_manifest, **{place: value}), works)
    for name, text in (
        ("nothing", b""),
        ("a million brackets", b"[" * 1_000_000),
        ("noise", bytes(range(256)) * 99),
        ("a list", b"[]"),
    ):
        yield ArtifactInput(f"manifest is {name}", partial(_manifest_text, text=text))
    yield ArtifactInput("manifest is a folder", _manifest_folder)
    yield ArtifactInput("manifest links to itself", _manifest_link)
    yield ArtifactInput("manifest is a pipe", _manifest_pipe)
    yield ArtifactInput("graph is a device", _graph_device)
    good = COLOUR_NETWORK.onnx()
    for tenth in (0, 3, 9):
        part = good[: len(good) * tenth // 10] or b"\0"
        yield ArtifactInput(f"graph cut at {tenth}/10", partial(_graph, content=part))
    graphs: list[tuple[str, Callable[[], bytes]]] = [
        ("noise", lambda: bytes(range(256)) * 99),
        ("keeps weights in /etc/passwd", lambda: _external("/etc/passwd")),
        ("keeps weights above the folder", lambda: _external("../../../etc/passwd")),
        ("keeps weights in 2**62 bytes", lambda: _external("model.onnx", 2**62)),
        ("allocates a terabyte", _terabyte),
        ("has an unknown operator", lambda: _graph_of("Nonsense")),
        ("never ends", _endless),
        ("has other outputs", lambda: _graph_of("Identity")),
    ]
    for name, make in graphs:
        yield ArtifactInput(f"graph {name}", partial(_graph, content=make()))
    nan = Reference(
        size=8, pool=2, weight=np.full((3, 3), np.nan, np.float32), bias=np.zeros(3, np.float32)
    )
    yield ArtifactInput("weights are NaN", partial(_graph, content=nan.onnx()))


def _manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _manifest_text(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)


def _lists(files: dict[str, int]) -> Change:
    def change(folder: Path) -> None:
        listed = json.loads((folder / "manifest.json").read_text())["files"]
        more = {
            name: {"sha256": "0" * 64, "bytes": size, "format": "onnx-data"}
            for name, size in files.items()
        }
        _manifest(folder, files=listed | more)

    return change


def _graph(folder: Path, content: bytes) -> None:
    rewrite(folder, "model.onnx", content)


def _manifest_folder(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


def _manifest_link(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("manifest.json")


def _manifest_pipe(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def _graph_device(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("/dev/zero")


def _external(location: str, length: int = 36) -> bytes:
    model = onnx.load_from_string(COLOUR_NETWORK.onnx())
    weight = next(each for each in model.graph.initializer if each.name == "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def _model(nodes: list[Any], **names: Any) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "hostile",
        [value("images", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [value("logits", TensorProto.FLOAT, None)],
        **names,
    )
    opset = helper.make_opsetid("", 18)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())


def _graph_of(operator: str) -> bytes:
    return _model(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node(operator, ["floats"], ["logits"]),
        ]
    )


def _terabyte() -> bytes:
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [2**38])
    return _model([helper.make_node("ConstantOfShape", ["shape"], ["logits"])], initializer=[shape])


def _endless() -> bytes:
    """Return a graph with a loop of 2**62 steps."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["on"]),
            helper.make_node("Identity", ["state"], ["next"]),
        ],
        "body",
        [
            value("step", TensorProto.INT64, []),
            value("going", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, None),
        ],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
    )
    steps = helper.make_tensor("steps", TensorProto.INT64, [], [2**62])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    return _model(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Loop", ["steps", "true", "floats"], ["logits"], body=body),
        ],
        initializer=[steps, true],
    )
