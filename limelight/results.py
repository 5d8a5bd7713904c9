"""Result types: the single schema of predictions and explanations.

The service's JSON, its OpenAPI document, the client and the command line all use these types. To
add a field, add it here and where it is computed. A field whose default is None is omitted from
the JSON while it is None.

Types that are created for every request are not frozen, because creating a frozen one takes three
times as long.
"""

import dataclasses
import html
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from threading import Lock
from typing import Annotated, Any, ClassVar, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, Field, GetPydanticSchema, TypeAdapter, WithJsonSchema
from pydantic_core import core_schema

Json = dict[str, Any]
_T = TypeVar("_T")

Probability = Annotated[float, Field(ge=0, le=1)]
Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels of the upload."""
Values = Annotated[
    NDArray[np.float32],
    GetPydanticSchema(
        lambda source, handler: core_schema.no_info_plain_validator_function(
            lambda rows: np.asarray(rows, np.float32)
        )
    ),
    WithJsonSchema({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}),
]
# The docstrings under the fields become the descriptions in the OpenAPI document.
_DESCRIBED = ConfigDict(use_attribute_docstrings=True)
_ONE_AT_A_TIME = Lock()


@dataclass(slots=True)
class Score:
    """Class with its calibrated probability."""

    __pydantic_config__: ClassVar[ConfigDict] = _DESCRIBED

    label: str
    index: int
    probability: Probability


class _WithImage:
    """Base class with a slot for the function that returns the explained image."""

    __slots__ = ("_picture",)

    _picture: Callable[[], tuple[Image.Image, tuple[int, int]]]
    """Returns the picture, and the width and height of the upload."""


@dataclass(slots=True)
class Prediction(_WithImage):
    """Most probable class, and the most probable classes in descending order."""

    __pydantic_config__: ClassVar[ConfigDict] = _DESCRIBED

    model: str
    version: str
    label: str
    index: int
    confidence: Probability
    abstain: bool | None
    """True if the confidence is below the model's threshold; null if it has no threshold"""
    ood_score: float | None
    """Out-of-distribution (OOD) score of the upload: high for images unlike the training images; \
null if the model has none"""
    out_of_distribution: bool | None
    """True if the OOD score is above the model's threshold; null if the model has none"""
    scores: Annotated[tuple[Score, ...], Field(min_length=1)]

    def to_dict(self) -> Json:
        """Return the service's JSON for this result, as plain Python values."""
        return cast(Json, _plain(self))

    def __str__(self) -> str:
        """Return the class, its probability and the flags that are set, in one line."""
        flags = "".join(f", {flag.replace('_', ' ')}" for flag in flags_of(self))
        return f"{self.label} {self.confidence:.1%}{flags} ({self.model} {self.version})"

    def _repr_html_(self) -> str:
        """Show the scores as a table, in a notebook."""
        rows = "".join(
            f"<tr><td>{_escaped(score.label)}</td><td>{score.probability:.1%}</td></tr>"
            for score in self.scores
        )
        return f"<p>{_escaped(str(self))}</p><table>{rows}</table>"


@dataclass(slots=True, eq=False)
class ClassActivationMap:
    """Map of how much each position of the view supports the class `target`."""

    __pydantic_config__: ClassVar[ConfigDict] = _DESCRIBED

    target: str
    index: int
    method: str
    evaluations: Annotated[int, Field(ge=1)]
    """Number of images that the network evaluated for this map, including the upload"""
    shape: tuple[int, int]
    """Number of rows and columns of the values"""
    values: Values
    """Raw values over the view, row by row"""
    peak: float
    box: Rectangle
    """Bounding box: the smallest rectangle that contains all values above half of the peak, as \
left, top, right, bottom in pixels of the upload"""
    against: str | None = None
    """Class that `target` is contrasted with"""

    def __eq__(self, other: object) -> bool:
        """Compare all fields; `==` of the arrays alone would return an array."""
        return isinstance(other, ClassActivationMap) and _plain(self) == _plain(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True)
class Explanation(Prediction):
    """Prediction with the map of one class, or of every class if `target` is `all`."""

    __pydantic_config__: ClassVar[ConfigDict] = _DESCRIBED

    view: Rectangle
    """Part of the upload that the maps cover: left, top, right, bottom"""
    cam: ClassActivationMap
    cams: tuple[ClassActivationMap, ...] | None = None
    """Maps of all classes in the model's order, if they were requested"""
    zoom: "Explanation | None" = None
    """Explanation of the zoomed crop, if it was requested and shows more detail than the upload"""

    def attach(
        self, picture: Callable[[], Image.Image], *, full_size: tuple[int, int] | None = None
    ) -> None:
        """Set the function that returns the upload, for `overlay` and notebooks.

        `full_size` is the upload's width and height, of which the picture may be a reduced copy.
        """
        self._picture = partial(_with_size, picture, full_size)

    def overlay(self, *, opacity: float = 0.5, colormap: str = "turbo") -> Image.Image:
        """Lay the map over the upload, or over the reduced copy of it that was attached.

        Raises:
            ValueError: no image was attached.
            InvalidParameter: the opacity or the colormap is out of range.
        """
        from limelight.explanations.options import OverlayStyle
        from limelight.explanations.overlay import overlay
        from limelight.imaging.fitting import View

        if not hasattr(self, "_picture"):
            raise ValueError("this explanation does not know its image: call attach first")
        style = OverlayStyle(opacity=opacity, colormap=colormap)
        left, top, right, bottom = self.view
        picture, (width, height) = self._picture()
        view = View(left, top, right - left, bottom - top)
        view = view.scaled(picture.width / width, picture.height / height)
        values_hw = np.asarray(self.cam.values)
        return overlay(picture, values_hw, view, opacity=style.opacity, colormap=style.colormap)

    def _repr_html_(self) -> str:
        """Show the scores, and the map over the upload if one was attached, in a notebook."""
        from limelight.explanations.overlay import png

        # Not super(): `slots` makes another class, to which it would not belong.
        table = Prediction._repr_html_(self)
        if not hasattr(self, "_picture"):
            return table
        encoded = b64encode(png(self.overlay())).decode()
        return f'{table}<img alt="Map of {_escaped(self.cam.target)}" \
src="data:image/png;base64,{encoded}">'


def _with_size(
    picture: Callable[[], Image.Image], full_size: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    # A function of the module, so that an explanation can be pickled.
    image = picture()
    return image, full_size or image.size


def flags_of(prediction: Prediction) -> tuple[str, ...]:
    """Return the names of the flags that are set in a prediction."""
    return raised(abstain=prediction.abstain, out_of_distribution=prediction.out_of_distribution)


def raised(*, abstain: bool | None, out_of_distribution: bool | None) -> tuple[str, ...]:
    """Return the names of the flags that are set."""
    flags = ("abstain",) if abstain else ()
    return (*flags, "out_of_distribution") if out_of_distribution else flags


def content(result: object) -> Json:
    """Return one level of a result as a JSON object: fields in their order, without absent ones."""
    names, values_of, optional = _fields(cast(Any, type(result)))
    found = dict(zip(names, values_of(result), strict=True))
    for name in optional:
        if found[name] is None:
            del found[name]
    return found


def fields_of(result: object) -> Json:
    """Return one level of a result: all its fields in their order."""
    names, values_of, _ = _fields(cast(Any, type(result)))
    return dict(zip(names, values_of(result), strict=True))


def read(kind: type[_T], answer: object) -> _T:
    """Parse the JSON of an answer as `kind`. Unknown fields are ignored.

    Raises:
        ValueError: the JSON does not match `kind`.
    """
    result: _T = _adapter(cast(Any, kind)).validate_python(answer)
    return result


def json_schemas(*kinds: type, reference: str = "#/components/schemas/{model}") -> Json:
    """Return the JSON schemas of these types and of the types they contain, by name."""
    _, schema = TypeAdapter.json_schemas(
        [(kind, "validation", _adapter(kind)) for kind in kinds], ref_template=reference
    )
    return {name: _simplified(each) for name, each in schema["$defs"].items()}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    # For the docstrings, pydantic parses source. In Python 3.11, that fails with a SystemError if
    # two threads do it at a time (python/cpython#106905).
    with _ONE_AT_A_TIME:
        return _built_adapter(kind)


@cache
def _built_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _fields(
    kind: Any,
) -> tuple[tuple[str, ...], Callable[[object], tuple[Any, ...]], tuple[str, ...]]:
    fields = dataclasses.fields(kind)
    names = tuple(field.name for field in fields)
    return names, attrgetter(*names), tuple(it.name for it in fields if it.default is None)


def _plain(value: object) -> object:
    """Convert to built-in types; a float32 becomes the float of its shortest representation."""
    if dataclasses.is_dataclass(value):
        return {name: _plain(each) for name, each in content(value).items()}
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _simplified(schema: Json) -> Json:
    """Remove titles and defaults; an optional field is either absent or of its type."""
    made = {key: value for key, value in schema.items() if key != "title"}
    made["properties"] = {
        name: _field_schema(field) for name, field in schema["properties"].items()
    }
    return made


def _field_schema(field: Json) -> Json:
    made = {key: value for key, value in field.items() if key not in ("title", "default")}
    if "default" in field and "anyOf" in field:
        (kind,) = (each for each in field["anyOf"] if each != {"type": "null"})
        made = {key: value for key, value in made.items() if key != "anyOf"} | kind
    return made


def _escaped(text: str) -> str:
    return html.escape(text)
