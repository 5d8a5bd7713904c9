"""What the service answers, as the client gives it to a program."""

from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["cam", "contrast", "layercam", "occlusion", "scorecam"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """A class and its calibrated probability."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The winner, and the most probable classes in their order."""

    model: str
    version: str
    label: str
    index: int
    confidence: float
    abstain: bool | None
    """Whether that is too little to rely on; None where the model has no threshold."""
    ood_score: float | None
    """How unlike the training images the upload is; None where the model cannot say."""
    out_of_distribution: bool | None
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class ClassMap:
    """What speaks for `target`: `values` row by row over `Explanation.view`."""

    target: str
    index: int
    method: Method
    evaluations: int
    values: tuple[tuple[float, ...], ...]
    peak: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of what mattered, in pixels of the upload."""
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation(Prediction):
    """A prediction with the map of one class, and of all where `target` is `all`."""

    view: tuple[float, float, float, float]
    """Left, top, right, bottom of the part that the maps cover, in pixels of the upload."""
    cam: ClassMap
    cams: tuple[ClassMap, ...]
    zoom: "Explanation | None" = None
    """Of the part that mattered, if it was asked for and there is more to see."""


def read_prediction(answer: Json) -> Prediction:
    """The JSON of /predict."""
    return Prediction(**_fields(answer))


def read_explanation(answer: Json) -> Explanation:
    """The JSON of /explain."""
    return Explanation(
        **_fields(answer),
        view=tuple(answer["view"]),
        cam=_class_map(answer["cam"]),
        cams=tuple(map(_class_map, answer.get("cams", ()))),
        zoom=read_explanation(answer["zoom"]) if "zoom" in answer else None,
    )


def _fields(answer: Json) -> Json:
    names = (
        *("model", "version", "label", "index", "confidence"),
        *("abstain", "ood_score", "out_of_distribution"),
    )
    scores = tuple(Score(**score) for score in answer["scores"])
    return {name: answer[name] for name in names} | {"scores": scores}


def _class_map(answer: Json) -> ClassMap:
    return ClassMap(
        target=answer["target"],
        index=answer["index"],
        method=answer["method"],
        evaluations=answer["evaluations"],
        values=tuple(map(tuple, answer["values"])),
        peak=answer["peak"],
        box=tuple(answer["box"]),
        against=answer.get("against"),
    )
