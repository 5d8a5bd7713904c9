"""MLServer with a runtime of one's own, its adaptive batching and two parallel workers."""

import json
from io import BytesIO

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import (  # type: ignore[import-not-found]
    Base64Codec,
    NumpyCodec,
    StringCodec,
)
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceRequest,
    InferenceResponse,
)
from PIL import Image

from bench.peers.network import Network


class Runtime(MLModel):  # type: ignore[misc]
    """Images in base64, the Open Inference Protocol's way to send bytes in JSON; or pixels."""

    async def load(self) -> bool:
        self.network = Network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        if tensor.datatype == "UINT8":
            answers = self.network.classified(NumpyCodec.decode_input(tensor))
        else:
            bodies = Base64Codec.decode_input(tensor)
            answers = self.network.answers([Image.open(BytesIO(body)) for body in bodies])
        output = StringCodec.encode_output("answer", [json.dumps(answer) for answer in answers])
        return InferenceResponse(model_name=self.name, outputs=[output])
