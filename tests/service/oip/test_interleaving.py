"""All interfaces share one batcher: `/predict`, `/explain`, and the protocol over HTTP and gRPC."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from limelight.artifact.store import Artifact
from limelight.runtime.engine import Engine
from service.process.shutdown import SETTLE_S
from service.request_context import RequestContext
from service.settings import Settings
from tests.service.http.listening import until
from tests.service.oip.kit import INFER, binary, free_port, images_input, outputs, pixels, request
from tests.service.test_app import Served, break_engine
from tests.serving_kit import encode

Images = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
Ask = Callable[[Images], Coroutine[Any, Any, Probabilities]]

PROBABILITIES = [{"name": "probabilities"}]


class Interfaces:
    """A service in this process, and all interfaces that return its probabilities."""

    def __init__(self, served: Served, channel: Any) -> None:
        self.served, self.http = served, served.http
        self.batcher = served.registry.classifiers["colours"].batcher
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.senders: list[Ask] = [
            *(self.predict, self.explain, self.json, self.binary, self.encoded),
            *(self.rpc, self.rpc_encoded),
        ]

    def hold_up(self) -> tuple[threading.Event, list[int]]:
        """Make batches wait for the event; their sizes are listed when they begin."""
        gate, sizes, run = threading.Event(), list[int](), self.batcher._runner._run

        def gated(images_nhwc: Images, names: Sequence[str]) -> Any:
            sizes.append(len(images_nhwc))
            assert gate.wait(10)
            return run(images_nhwc, names)

        self.batcher._runner._run = gated
        return gate, sizes

    async def predict(self, images_nhwc: Images) -> Probabilities:
        return await self._one_by_one("/predict?top_k=3", images_nhwc)

    async def explain(self, images_nhwc: Images) -> Probabilities:
        return await self._one_by_one("/explain?top_k=3", images_nhwc)

    async def json(self, images_nhwc: Images) -> Probabilities:
        body = request(images_input(images_nhwc), outputs=PROBABILITIES)
        return self._found(await self.http.post(INFER, json=body))

    async def binary(self, images_nhwc: Images) -> Probabilities:
        tensor = images_input(images_nhwc, parameters={"binary_data_size": images_nhwc.size})
        del tensor["data"]
        parameters = {"binary_data_output": True}
        body, headers = binary(request(tensor, parameters=parameters), images_nhwc.tobytes())
        return self._found(await self.http.post(INFER, content=body, headers=headers))

    async def encoded(self, images_nhwc: Images) -> Probabilities:
        data = [base64.b64encode(png(image)).decode() for image in images_nhwc]
        tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [len(data)], "data": data}
        return self._found(await self.http.post(INFER, json=request(tensor, outputs=PROBABILITIES)))

    async def rpc(self, images_nhwc: Images) -> Probabilities:
        message = service_pb2.ModelInferRequest(model_name="colours")
        message.inputs.add(name="images", datatype="UINT8", shape=images_nhwc.shape)
        message.raw_input_contents.append(images_nhwc.tobytes())
        return await self._call(message)

    async def rpc_encoded(self, images_nhwc: Images) -> Probabilities:
        message = service_pb2.ModelInferRequest(model_name="colours")
        tensor = message.inputs.add(
            name="image_bytes", datatype="BYTES", shape=[len(images_nhwc), 1]
        )
        tensor.contents.bytes_contents.extend(png(image) for image in images_nhwc)
        return await self._call(message)

    async def _one_by_one(self, path: str, images_nhwc: Images) -> Probabilities:
        bodies = [png(image) for image in images_nhwc]
        answers = await asyncio.gather(*(self.http.post(path, content=body) for body in bodies))
        scores = [
            sorted((score["index"], score["probability"]) for score in answer.json()["scores"])
            for answer in answers
        ]
        return np.array(scores, np.float32)[:, :, 1]

    def _found(self, response: Any) -> Probabilities:
        found: Probabilities = outputs(response)["probabilities"]
        return found

    async def _call(self, message: Any) -> Probabilities:
        message.outputs.add(name="probabilities")
        answer = await self.stub.ModelInfer(message)
        values = np.frombuffer(answer.raw_output_contents[0], np.float32)
        return values.reshape(answer.outputs[0].shape)


def png(image_hwc: Images) -> bytes:
    return encode(Image.fromarray(image_hwc))


@pytest.fixture
async def interfaces(zoo: Path) -> AsyncIterator[Interfaces]:
    port = free_port()
    settings = Settings(
        models=zoo,
        default_model="colours",
        device="cpu",
        grpc_port=port,
        max_batch=64,
        max_queued=4096,
    )
    async with (
        Served(settings) as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        await asyncio.wait_for(channel.channel_ready(), 10)
        yield Interfaces(served, channel)


async def test_every_interface_gives_the_outputs_of_the_engine(
    interfaces: Interfaces, colours: Artifact, rng: np.random.Generator
) -> None:
    sizes: list[int] = []
    interfaces.batcher._runner._observe = lambda size, seconds: sizes.append(size)
    asked = [
        (interfaces.senders[index], pixels(rng, batch))
        for index, batch in zip(
            rng.integers(0, len(interfaces.senders), 150), rng.integers(1, 9, 150), strict=True
        )
    ]
    answers = await asyncio.gather(*(ask(images_nhwc) for ask, images_nhwc in asked))
    engine = Engine(colours, device="cpu")
    for (ask, images_nhwc), answer in zip(asked, answers, strict=True):
        alone = engine.run(images_nhwc, ["probabilities"])["probabilities"]
        np.testing.assert_allclose(answer, alone, atol=1e-6, err_msg=str(ask))
    assert sum(sizes) == sum(len(images_nhwc) for _, images_nhwc in asked)
    assert interfaces.batcher.admission.admitted == 0
    assert interfaces.served.application._upload_budget.reserved_bytes == 0


async def test_waiting_requests_of_all_interfaces_share_the_next_batch(
    interfaces: Interfaces, rng: np.random.Generator
) -> None:
    gate, sizes = interfaces.hold_up()
    first = asyncio.create_task(interfaces.predict(pixels(rng)))
    await until(lambda: sizes)
    rest = [asyncio.create_task(ask(pixels(rng, 2))) for ask in interfaces.senders]
    await until(lambda: interfaces.batcher.depth == 2 * len(rest))
    gate.set()
    await asyncio.gather(first, *rest)
    assert sizes == [1, 2 * len(rest)]


async def test_cancelled_call_is_not_computed(
    interfaces: Interfaces, rng: np.random.Generator
) -> None:
    gate, sizes = interfaces.hold_up()
    first = asyncio.create_task(interfaces.rpc(pixels(rng)))
    await until(lambda: sizes)
    given_up = asyncio.create_task(interfaces.rpc(pixels(rng, 5)))
    await until(lambda: interfaces.batcher.depth == 5)
    given_up.cancel()
    await until(lambda: interfaces.batcher.admission.admitted == 1)
    gate.set()
    await first
    await until(lambda: interfaces.batcher.depth == 0)
    assert sizes == [1]
    text = (await interfaces.http.get("/metrics")).text
    assert 'limelight_rejected_total{reason="client_gone"} 1.0' in text


async def test_accepted_call_is_answered_while_the_port_closes(
    interfaces: Interfaces, rng: np.random.Generator
) -> None:
    gate, sizes = interfaces.hold_up()
    taken = asyncio.create_task(interfaces.rpc(pixels(rng, 2)))
    await until(lambda: sizes)
    interfaces.served.application._port.stop()
    await asyncio.sleep(SETTLE_S * 3)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await interfaces.rpc(pixels(rng))
    assert late.value.code() == grpc.StatusCode.UNAVAILABLE
    gate.set()
    assert (await taken).shape == (2, 3)


async def test_internal_error_has_no_details(
    interfaces: Interfaces, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_engine(interfaces.served, monkeypatch, None)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await interfaces.rpc(pixels(rng))
    assert failed.value.code() == grpc.StatusCode.INTERNAL
    assert "0xdeadbeef" not in str(failed.value.details())


async def test_explanations_are_rejected_before_predictions_over_grpc(
    interfaces: Interfaces, rng: np.random.Generator
) -> None:
    batcher, images_nhwc = interfaces.batcher, pixels(rng)
    message = service_pb2.ModelInferRequest(model_name="colours")
    message.inputs.add(name="images", datatype="UINT8", shape=images_nhwc.shape)
    message.raw_input_contents.append(images_nhwc.tobytes())
    message.outputs.add(name="cams")
    with batcher.admission.admit(RequestContext(), images=batcher.admission.max_queued // 2):
        with pytest.raises(grpc.aio.AioRpcError) as shed:
            await interfaces.stub.ModelInfer(message)
        assert shed.value.code() == grpc.StatusCode.UNAVAILABLE
        assert dict(shed.value.trailing_metadata() or ())["retry-after"] == "1"
        assert (await interfaces.rpc(images_nhwc)).shape == (1, 3)
