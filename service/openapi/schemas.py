"""The schemas of the OpenAPI document: what the service's own answers look like."""

from limelight.errors import ServiceError
from service.http.parameters import METHODS
from service.openapi.parts import Json, record, reference


def schemas() -> Json:
    """What requests and answers look like, by name."""
    string, integer, number = {"type": "string"}, {"type": "integer"}, {"type": "number"}
    boolean = {"type": "boolean"}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    scores = {"type": "array", "items": reference("Score"), "minItems": 1}
    prediction: Json = {
        "model": string,
        "version": string,
        "label": string,
        "index": integer,
        "confidence": probability,
        "abstain": {
            "type": ["boolean", "null"],
            "description": "Whether the confidence is under the model's threshold",
        },
        "ood_score": {
            "type": ["number", "null"],
            "description": "How unlike the training images the upload is",
        },
        "out_of_distribution": {
            "type": ["boolean", "null"],
            "description": "Whether that is over the model's threshold",
        },
        "scores": scores,
    }
    four_numbers: Json = {"type": "array", "items": number, "minItems": 4, "maxItems": 4}
    view = {
        **four_numbers,
        "description": "The part of the upload that the maps cover, as a box",
    }
    explanation = record(**prediction, view=view, cam=reference("ClassActivationMap"))
    cam = record(
        target=string,
        index=integer,
        method={"enum": list(METHODS)},
        evaluations={
            "type": "integer",
            "minimum": 1,
            "description": "Images that the network looked at for it",
        },
        shape={"type": "array", "items": integer, "minItems": 2, "maxItems": 2},
        values={
            "type": "array",
            "description": "Raw values, row by row",
            "items": {"type": "array", "items": number},
        },
        peak=number,
        box={
            **four_numbers,
            "description": "Left, top, right, bottom, in pixels of the upload: the smallest "
            "rectangle that holds the values over half of the peak",
        },
    )
    every_error = ServiceError.__subclasses__()
    return {
        "Score": record(label=string, index=integer, probability=probability),
        "Prediction": record(**prediction),
        "Explanation": {
            **explanation,
            "properties": explanation["properties"]
            | {
                "cams": {"type": "array", "items": reference("ClassActivationMap")},
                "zoom": explanation,
            },
        },
        "ClassActivationMap": {
            **cam,
            "properties": cam["properties"] | {"against": string},
        },
        "Model": record(
            name=string,
            version=string,
            provider={"enum": ["CPU", "CUDA", "TensorRT"]},
            precision={"enum": ["float32", "float16"], "description": "Of the network's layers"},
            default=boolean,
            manifest={"type": "object"},
        ),
        "Models": record(models={"type": "array", "items": reference("Model")}),
        "Status": record(status=string),
        "Health": record(status=string, ready=boolean),
        "Document": {"type": "object"},
        "Problem": {
            **record(
                status=integer,
                code={"enum": sorted({error.code for error in every_error})},
                title=string,
                detail=string,
            ),
            "description": "An error (RFC 9457). `code` is stable, `detail` says what to do.",
        },
    }
