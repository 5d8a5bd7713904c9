"""Schemas of the service's responses in the OpenAPI document."""

from typing import get_args

from limelight.errors import LimelightError
from limelight.explanations.methods import METHODS
from limelight.results import Explanation, Prediction, json_schemas
from limelight.runtime.onnx_session import Precision
from service.http.statuses import STATUS
from service.oip.errors import InvalidInference
from service.openapi.parts import Json, record, reference


def schemas(prediction: type = Prediction, explanation: type = Explanation) -> Json:
    """Return the response schemas by name; those of results are derived from their types."""
    string, integer, boolean = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
    results = json_schemas(prediction, explanation)
    kinds: list[type[LimelightError]] = [*STATUS, InvalidInference]
    codes = sorted({kind.code for kind in kinds})
    results["ClassActivationMap"]["properties"]["method"] = {"enum": list(METHODS)}
    return {
        **results,
        "Model": record(
            name=string,
            version=string,
            digest={
                "type": "string",
                "description": "SHA-256 of the artefact's manifest.json, which has that of every "
                "other file; each answer has it as `X-Model-Digest`",
            },
            signature={
                "oneOf": [reference("Signature"), {"type": "null"}],
                "description": "null: the service does not verify signatures",
            },
            provider={"enum": ["CPU", "CUDA", "TensorRT"]},
            precision={
                "enum": list(get_args(Precision)),
                "description": "Precision of the network's layers",
            },
            precision_reason={"type": "string", "description": "Why it has this precision"},
            default={**boolean, "description": "It answers requests that name no model"},
            active={**boolean, "description": "It answers requests that name no version"},
            rollout={
                "type": ["object", "null"],
                "description": "Of the active version: the canary or shadow that is in progress, "
                "or that was the last, with counts and means over all workers",
            },
            labels={
                "type": "array",
                "items": string,
                "description": "Names by which requests may ask for this version",
            },
            manifest={"type": "object"},
        ),
        "Signature": record(
            ("verified",),
            verified={
                **boolean,
                "description": "A key that the service trusts signed this version",
            },
            method={"enum": ["key", "certificate"]},
            key={
                "type": "string",
                "description": "SHA-256 of the public key (PEM) or of the certificate (DER)",
            },
            problem={"type": "string", "description": "Why it is not verified"},
        ),
        "Models": record(
            models={"type": "array", "items": reference("Model")},
            refused={"type": "array", "items": reference("Refused")},
        ),
        "Refused": {
            **record(name=string, version=string, reason=string),
            "description": "A version on disk that failed to load, and is not served",
        },
        "Status": record(status=string),
        "Health": record(status=string, ready=boolean),
        "Document": {"type": "object"},
        "Problem": {
            **record(
                status=integer,
                code={"enum": codes},
                title=string,
                detail=string,
            ),
            "description": "An error (RFC 9457). `code` is stable; `detail` says what to do.",
        },
    }
