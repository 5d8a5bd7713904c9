"""`make test-triton`: clients with conflicting requirements, in environments of their own."""

import base64
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.serving.environments import NotInstallableError, prepare
from tests.service.oip.kit import free_port
from tests.serving_kit import (
    COLOUR_NETWORK,
    Server,
    bentoml_serve,
    colour_image,
    encode,
    write_artifact,
)

pytestmark = pytest.mark.timeout(900)

# The last release of Triton's client with a perf_analyzer for Debian 12's C library.
ANALYZER = "tritonclient==2.50.0"
KSERVE = """
import asyncio, json, sys

import numpy as np
from kserve import InferInput, InferRequest, InferenceGRPCClient, InferenceRESTClient, RESTConfig

url, address, pixels = sys.argv[1], sys.argv[2], np.array(json.loads(sys.argv[3]), np.uint8)

def request(binary):
    tensor = InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return InferRequest(model_name="colours", infer_inputs=[tensor])

def found(answer):
    return {output.name: output.as_numpy().tolist() for output in answer.outputs}

async def ask():
    answers = []
    rest, rpc = InferenceRESTClient(RESTConfig(protocol="v2")), InferenceGRPCClient(address)
    assert await rest.is_server_live(url) and await rest.is_server_ready(url)
    assert await rest.is_model_ready(url, "colours")
    for binary in (False, True):
        answers.append(found(await rest.infer(url, request(binary), model_name="colours")))
    assert await rpc.is_server_live() and await rpc.is_server_ready()
    assert await rpc.is_model_ready("colours")
    answers.append(found(await rpc.infer(request(True))))
    print(json.dumps(answers))

asyncio.run(ask())
"""


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(grpc_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("zoo")
    write_artifact(root)
    with bentoml_serve(
        root,
        tmp_path_factory.mktemp("serving"),
        LIMELIGHT_DEVICE="cpu",
        LIMELIGHT_GRPC_PORT=str(grpc_port),
    ) as running:
        yield running


def test_kserve_client_gets_the_outputs_of_numpy(server: Server, grpc_port: int) -> None:
    try:
        python = prepare("kserve", ("kserve==0.21.0",)).python
    except NotInstallableError as error:
        pytest.skip(f"KServe's client cannot be installed: {error}")
    images_nhwc = np.random.default_rng(3).integers(0, 256, (2, 8, 8, 3), np.uint8)
    arguments = [server.url, f"127.0.0.1:{grpc_port}", json.dumps(images_nhwc.tolist())]
    command = [str(python), "-c", KSERVE, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) == 3
    for answer in answers:
        for name in ("logits", "probabilities", "cams"):
            expected = getattr(COLOUR_NETWORK, name)(images_nhwc)
            values = np.array(answer[name], np.float32).reshape(expected.shape)
            np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.fixture(scope="module")
def analyzer() -> tuple[Path, dict[str, str]]:
    """Return perf_analyzer and its environment variables, or skip with a reason."""
    installed = shutil.which("perf_analyzer")
    if installed is not None:
        return Path(installed), dict(os.environ)
    try:
        folder = prepare("perf", ("nvidia-cuda-runtime-cu12",)).python.parent.parent
    except NotInstallableError as error:
        pytest.skip(f"perf_analyzer's libraries cannot be installed: {error}")
    binary = folder / "perf_analyzer"
    if not binary.exists():
        _fetch(folder, binary)
    libraries = [*folder.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")]
    libraries += [path.parent for path in folder.rglob("libb64.so.0d")]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    done = subprocess.run(
        [binary, "--version"], env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"perf_analyzer does not run: {done.stderr.strip()[:200]}")
    return binary, environment


def _fetch(folder: Path, binary: Path) -> None:
    """Extract perf_analyzer from a wheel, and the library libb64 from Debian's package."""
    pip = [str(folder / "bin" / "pip"), "download", "--quiet", "--no-deps", "--dest", str(folder)]
    commands = [[*pip, ANALYZER], ["apt-get", "download", "libb64-0d"]]
    for command in commands:
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"perf_analyzer cannot be downloaded: {error}")
    (package,) = folder.glob("libb64-0d_*.deb")
    subprocess.run(["dpkg", "--extract", package, folder / "debian"], check=True)
    (wheel,) = folder.glob("tritonclient-*.whl")
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith("bin/perf_analyzer")]
        binary.write_bytes(files.read(name))
    binary.chmod(0o755)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("name", ["images", "image_bytes"])
def test_perf_analyzer_measures_the_service(
    server: Server,
    grpc_port: int,
    analyzer: tuple[Path, dict[str, str]],
    tmp_path: Path,
    protocol: str,
    name: str,
) -> None:
    body = encode(colour_image(np.random.default_rng(3)))
    framed = base64.b64encode(len(body).to_bytes(4, "little") + body).decode()
    content: dict[str, Any] = {
        "images": {"content": list(range(192)), "shape": [8, 8, 3]},
        "image_bytes": {"b64": framed, "shape": [1]},
    }
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [{name: content[name]}]}))
    address = server.url.removeprefix("http://") if protocol == "http" else f"127.0.0.1:{grpc_port}"
    binary, environment = analyzer
    command = [str(binary), "-m", "colours", "-u", address, "-i", protocol]
    # The measurement need not be stable; the test only checks that it completes.
    command += ["--input-data", str(data), "--concurrency-range", "4", "-p", "1000", "-s", "999"]
    done = subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    counted = re.search(r"Successful request count: (\d+)", done.stdout)
    assert counted is not None
    assert int(counted[1]) > 10
