"""MLServer with a custom runtime, its adaptive batching and two parallel workers.

`python -m bench.peers.mlserver_server PORT` writes its settings to BENCH_FOLDER and starts it.
"""

import json
import os
import sys
from io import BytesIO
from pathlib import Path

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]
from PIL import Image

from bench.common.server import free_port
from bench.peers.network import Network


class Runtime(MLModel):  # type: ignore[misc]
    """Images in base64, the Open Inference Protocol's way to send bytes in JSON; or pixels."""

    async def load(self) -> bool:
        self.network = Network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        if tensor.datatype == "UINT8":
            rows = self.network.probabilities(NumpyCodec.decode_input(tensor))
            answers = [self.network.answer(row) for row in rows]
        else:
            bodies = Base64Codec.decode_input(tensor)
            answers = self.network.answers([Image.open(BytesIO(body)) for body in bodies])
        labels = [str(answer["label"]) for answer in answers]
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("label", labels)]
        )


def main() -> None:
    """Replace this process with MLServer."""
    folder = Path(os.environ["BENCH_FOLDER"])
    settings = {
        "host": "127.0.0.1",
        "http_port": int(sys.argv[1]),
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 2,
        "use_structured_logging": False,
    }
    model = {
        "name": "image",
        "implementation": "bench.peers.mlserver_server.Runtime",
        "max_batch_size": 32,
        "max_batch_time": 0.001,
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    command = str(Path(sys.executable).parent / "mlserver")
    os.execv(command, [command, "start", str(folder)])  # noqa: S606


if __name__ == "__main__":
    main()
