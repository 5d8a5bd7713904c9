"""Registry of explanation methods: a new method needs an entry and a function."""

import numpy as np
import pytest
from numpy.typing import NDArray

import limelight
from limelight.explanations.map_request import MapRequest
from limelight.explanations.methods import METHODS, ExplanationMethod, supported
from service.http.parameters import ExplainParameters
from service.openapi.bentoml import bentoml_schema
from service.openapi.document import document
from service.settings import Settings
from tests.serving_kit import write_artifact


async def negated(request: MapRequest) -> NDArray[np.float32]:
    """Return the negated map: the evidence against the class."""
    result: NDArray[np.float32] = -request.outputs["cams"][request.index]
    return result


def test_new_method_needs_only_one_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    entry = ExplanationMethod(explain=negated, output="cams", summary="what speaks against it")
    monkeypatch.setitem(METHODS, "negated", entry)
    folder = tmp_path_factory.mktemp("zoo")
    write_artifact(folder, methods=["cam", "negated"])
    classifier = limelight.load(folder / "colours")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    plain, found = (classifier.explain(pixels, method=it) for it in ("cam", "negated"))
    np.testing.assert_array_equal(found.cam.values, -plain.cam.values)
    assert found.cam.method == "negated"
    assert ExplainParameters.parse({"method": "negated"}, "*/*").options.method == "negated"
    told = document(Settings())
    (parameter,) = [
        it for it in told["paths"]["/explain"]["post"]["parameters"] if it["name"] == "method"
    ]
    assert "negated" in parameter["schema"]["enum"]
    assert "what speaks against it" in parameter["description"]
    schema = told["components"]["schemas"]["ClassActivationMap"]
    assert "negated" in schema["properties"]["method"]["enum"]
    (route,) = [it for it in bentoml_schema()["routes"] if it["name"] == "explain"]
    assert "negated" in route["input"]["properties"]["method"]["enum"]
    assert "negated" in supported({"cams"})


def test_a_network_supports_the_methods_whose_outputs_it_has() -> None:
    assert supported({"logits", "probabilities", "cams"}) == ("cam", "contrast", "occlusion")
    assert supported({"cams", "features", "layercams", "logits"}) == tuple(METHODS)
