"""Model configuration in Triton's form, which Triton's clients read before they send requests."""

from typing import Any

from service.inference.classifier import Classifier
from service.oip.metadata import PLATFORM, TensorMetadata, model_metadata

Json = dict[str, Any]


def model_configuration(classifier: Classifier, *, max_batch: int, workers: int) -> Json:
    """Return the fields of Triton's ModelConfig message that apply to this service."""
    metadata = model_metadata(classifier.manifest, (classifier.manifest.version,))
    on_gpu = classifier.engine.provider != "CPU"
    return {
        "name": metadata.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": max_batch,
        # A request has exactly one of the two inputs.
        "input": [_tensor(tensor) | {"optional": True} for tensor in metadata.inputs],
        "output": [_tensor(tensor) for tensor in metadata.outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
        "instance_group": [
            {
                "name": f"{metadata.name}_0",
                "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
                "count": workers,
            }
        ],
        "default_model_filename": classifier.manifest.onnx_file,
    }


def _tensor(tensor: TensorMetadata) -> Json:
    """Return a tensor without its batch dimension, which `max_batch_size` implies."""
    datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{datatype}",
        "dims": tensor.shape[1:],
    }
