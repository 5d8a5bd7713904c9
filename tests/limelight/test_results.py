"""Schema of the results: a new field appears everywhere."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import orjson
import pytest
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from limelight import results
from limelight.results import (
    ClassActivationMap,
    Explanation,
    Prediction,
    Score,
    content,
    json_schemas,
    read,
)
from service.http.json_responses import json_response
from service.openapi.schemas import schemas

SCORE = Score("cat", 3, np.float32(0.9))  # type: ignore[arg-type]


def a_prediction(kind: type[Prediction] = Prediction, **more: object) -> Prediction:
    return kind(
        model="m",
        version="1",
        label="cat",
        index=3,
        confidence=np.float32(0.9),  # type: ignore[arg-type]
        abstain=None,
        ood_score=np.float32(-1.1),  # type: ignore[arg-type]
        out_of_distribution=False,
        scores=(SCORE,),
        **more,
    )


def a_map(**more: object) -> ClassActivationMap:
    return ClassActivationMap(
        target="cat",
        index=3,
        method="cam",
        evaluations=1,
        shape=(1, 2),
        values=np.array([[0.1, 2]], np.float32),
        peak=np.float32(2),  # type: ignore[arg-type]
        box=(0.0, 0.0, 4.0, 4.0),
        **more,  # type: ignore[arg-type]
    )


@dataclass(slots=True)
class WithCaption(Prediction):
    """Prediction with one more field."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True)

    caption: Annotated[str, Field(max_length=10)] = ""
    """A word about the image"""


def test_new_field_appears_in_the_json_the_openapi_document_and_the_client() -> None:
    answer = a_prediction(WithCaption, caption="a cat")
    served = orjson.loads(json_response(answer).body)
    assert served["caption"] == "a cat"
    documented = schemas(WithCaption)["WithCaption"]["properties"]["caption"]
    assert documented == {
        "type": "string",
        "maxLength": 10,
        "description": "A word about the image",
    }
    assert read(WithCaption, served) == dataclasses.replace(
        answer,
        confidence=0.9,
        ood_score=-1.1,
        scores=(Score("cat", 3, 0.9),),
    )
    assert answer.to_dict()["caption"] == "a cat"


def test_json_equals_to_dict_and_survives_a_round_trip() -> None:
    explanation = Explanation(
        **{name: getattr(a_prediction(), name) for name in Prediction.__slots__},
        view=(0.0, 0.0, 8.0, 8.0),
        cam=a_map(against="dog"),
        cams=(a_map(), a_map()),
    )
    served = orjson.loads(json_response(explanation).body)
    assert served == explanation.to_dict()
    assert served["confidence"] == 0.9  # not 0.8999999761581421
    again = read(Explanation, served)
    assert again.to_dict() == served
    assert again.cam.values.dtype == np.float32
    assert again.cam == explanation.cam
    assert again.cam != a_map()


def test_optional_field_is_omitted_and_unknown_value_is_null() -> None:
    assert "against" not in content(a_map())
    assert content(a_prediction())["abstain"] is None
    assert "against" in content(a_map(against="dog"))


def test_schemas_list_required_and_nullable_fields() -> None:
    found = json_schemas(Prediction, Explanation)
    assert set(found) == {"Prediction", "Explanation", "Score", "ClassActivationMap"}
    assert set(found["Prediction"]["required"]) == set(found["Prediction"]["properties"])
    explained = found["Explanation"]
    assert set(explained["properties"]) - set(explained["required"]) == {"cams", "zoom"}
    assert explained["properties"]["zoom"]["$ref"] == "#/components/schemas/Explanation"
    null = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}
    assert null.items() <= found["Prediction"]["properties"]["abstain"].items()
    assert found["ClassActivationMap"]["properties"]["against"]["type"] == "string"
    assert "title" not in found["Score"]["properties"]["label"]


def test_unknown_fields_are_ignored_and_invalid_answers_are_rejected() -> None:
    served = a_prediction().to_dict()
    assert read(Prediction, served | {"novelty": 1}) == read(Prediction, served)
    with pytest.raises(ValidationError):
        read(Prediction, {key: value for key, value in served.items() if key != "label"})
    with pytest.raises(ValidationError):
        read(Prediction, served | {"confidence": 1.5})


def test_schemas_are_built_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    present, most = [0], [0]

    def build(kind: Any) -> TypeAdapter[Any]:
        present[0] += 1
        most[0] = max(most[0], present[0])
        time.sleep(0.05)
        present[0] -= 1
        return TypeAdapter(kind)

    monkeypatch.setattr(results, "TypeAdapter", build)
    results._built_adapter.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        kinds = [Score, Prediction, Score, Prediction]
        assert all(pool.map(lambda kind: results._adapter(kind).json_schema(), kinds))
    results._built_adapter.cache_clear()
    assert most == [1]
