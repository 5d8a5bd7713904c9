"""The client that is generated from the specification's own OpenAPI document."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.service.oip.kit import pixels
from tests.serving_kit import COLOUR_NETWORK, Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def specified(server: Server) -> Iterator[Any]:
    from open_inference.openapi.client import OpenInferenceClient

    client = OpenInferenceClient(base_url=server.url)
    yield client
    client._client_wrapper.httpx_client.close()  # which it leaves to the garbage collector


def test_generated_client_reads_health_and_metadata(specified: Any) -> None:
    from open_inference.openapi.errors import NotFoundError

    specified.check_server_liveness()
    specified.check_server_readiness()
    specified.check_model_readiness("colours")
    specified.check_model_version_readiness("colours", "1")
    with pytest.raises(NotFoundError):
        specified.check_model_readiness("nope")
    assert specified.read_server_metadata().name == "limelight"
    model = specified.read_model_metadata("colours")
    assert model == specified.read_model_version_metadata("colours", "1")
    assert [tensor.name for tensor in model.inputs] == ["images", "image_bytes"]


def test_generated_client_runs_inference(specified: Any, rng: np.random.Generator) -> None:
    from open_inference.openapi.errors import BadRequestError
    from open_inference.openapi.types import InferenceRequest, RequestInput, RequestOutput

    images_nhwc = pixels(rng, 2)
    tensor = RequestInput(
        name="images", datatype="UINT8", shape=[2, 8, 8, 3], data=images_nhwc.ravel().tolist()
    )
    request = InferenceRequest(
        id="a", inputs=[tensor], outputs=[RequestOutput(name="probabilities")]
    )
    for answer in (
        specified.model_infer("colours", request=request),
        specified.model_version_infer("colours", "1", request=request),
    ):
        (output,) = answer.outputs
        assert (answer.id, answer.model_name, answer.model_version) == ("a", "colours", "1")
        values = np.array(output.data.__root__ if hasattr(output.data, "__root__") else output.data)
        expected = COLOUR_NETWORK.probabilities(images_nhwc)
        np.testing.assert_allclose(values.reshape(output.shape), expected, atol=1e-6)
    with pytest.raises(BadRequestError):
        specified.model_infer("colours", request=InferenceRequest(inputs=[]))
