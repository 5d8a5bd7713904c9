"""Names of external weights, wherever a graph can hold a tensor."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from limelight.artifact.onnx_file import external_files

REPOSITORY = Path(__file__).parents[3]


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def as_initializer(model: ModelProto) -> None:
    model.graph.initializer.append(external("a.bin"))


def as_sparse_initializer(model: ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(external("a.bin"))


def as_constant(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["x"], value=external("a.bin")))


def in_a_branch(model: ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [external("a.bin")])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch))


def in_a_list_of_tensors(model: ModelProto) -> None:
    attribute = model.graph.node.add().attribute.add(name="all", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(external("a.bin"))


def in_a_function(model: ModelProto) -> None:
    node = helper.make_node("Constant", [], ["x"], value=external("a.bin"))
    model.functions.append(helper.make_function("own", "f", [], ["x"], [node], []))


def in_the_training_part(model: ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(external("a.bin"))


PLACES = [
    *(as_initializer, as_sparse_initializer, as_constant, in_a_branch),
    *(in_a_list_of_tensors, in_a_function, in_the_training_part),
]


@pytest.mark.parametrize("place", PLACES)
def test_external_weights_are_found_wherever_a_tensor_can_be(
    place: Callable[[ModelProto], None],
) -> None:
    model = helper.make_model(helper.make_graph([], "main", [], []))
    model.graph.initializer.append(helper.make_tensor("v", TensorProto.FLOAT, [2], [1.0, 2.0]))
    assert external_files(model.SerializeToString()) == set()
    place(model)
    assert external_files(model.SerializeToString()) == {"a.bin"}


def test_a_second_graph_of_the_message_is_searched_too() -> None:
    """Parsers merge repeated fields, so a second graph must not hide behind a first one."""
    model = helper.make_model(helper.make_graph([], "main", [], []))
    more = ModelProto()
    as_initializer(more)
    assert external_files(model.SerializeToString() + more.SerializeToString()) == {"a.bin"}


@pytest.mark.parametrize("file", sorted(REPOSITORY.glob("zoo/*/*/*.onnx")), ids=str)
def test_shipped_graphs_have_no_external_weights(file: Path) -> None:
    assert external_files(file.read_bytes()) == set()


@pytest.mark.parametrize(
    "content",
    [b"not a graph", b"\x3a\x05\x00", b"\x3b", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"],
)
def test_bytes_that_are_not_a_graph_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|number"):
        external_files(content)
