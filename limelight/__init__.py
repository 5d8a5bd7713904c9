"""Image classifiers that show what they looked at.

`load` runs a model in this process, `Client` and `AsyncClient` ask a service. What is not used is
not imported: a client loads no runtime, and `import limelight` next to nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limelight.classifier import Classifier, load
    from limelight.client.client import AsyncClient, Client, ClientError
    from limelight.errors import LimelightError
    from limelight.results import ClassActivationMap, Explanation, Prediction, Score

_HOMES = {
    "AsyncClient": "limelight.client.client",
    "ClassActivationMap": "limelight.results",
    "Classifier": "limelight.classifier",
    "Client": "limelight.client.client",
    "ClientError": "limelight.client.client",
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
except PackageNotFoundError:  # run from a folder that was not installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    """Import what is asked for.

    Raises:
        AttributeError: there is nothing of this name.
        ImportError: it needs an extra that is not installed; the message says which.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'limelight' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name == "onnxruntime":
            raise ImportError(
                "running a model here needs ONNX Runtime: pip install 'limelight[runtime]'"
            ) from error
        raise


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
