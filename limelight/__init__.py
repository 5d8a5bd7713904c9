"""Image classifiers that show what they looked at.

`load` runs a model in this process. `Client` and `AsyncClient` send requests to a service. Modules
are imported on first use: a client does not load ONNX Runtime, and `import limelight` alone loads
almost nothing.
"""

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

# On its import, ONNX Runtime reports usage to its makers and keeps a device ID in the home folder.
# Every module of this project runs this line before it imports ONNX Runtime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from limelight.classifier import Classifier, load
    from limelight.client.client import AsyncClient, Client
    from limelight.client.errors import ClientError
    from limelight.errors import LimelightError
    from limelight.results import ClassActivationMap, Explanation, Prediction, Score

_MODULES = {
    "AsyncClient": "limelight.client.client",
    "ClassActivationMap": "limelight.results",
    "Classifier": "limelight.classifier",
    "Client": "limelight.client.client",
    "ClientError": "limelight.client.errors",
    "Explanation": "limelight.results",
    "LimelightError": "limelight.errors",
    "Prediction": "limelight.results",
    "Score": "limelight.results",
    "load": "limelight.classifier",
}

__all__ = [
    "AsyncClient",
    "ClassActivationMap",
    "Classifier",
    "Client",
    "ClientError",
    "Explanation",
    "LimelightError",
    "Prediction",
    "Score",
    "load",
]

try:
    __version__ = version("limelight")
except PackageNotFoundError:  # the package is used from a checkout without being installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    Raises:
        AttributeError: the package has no such name.
        ImportError: the name needs an extra that is not installed; the message says which.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'limelight' has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if error.name == "onnxruntime":
            raise ImportError(
                "running a model here needs ONNX Runtime: pip install 'limelight[runtime]'"
            ) from error
        raise


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
