"""Conformance of the service with its OpenAPI document."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from service.oip.rest import Rest
from service.openapi.document import document
from service.openapi.oip import paths
from service.settings import Settings
from tests.serving_kit import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SCHEMA = schemathesis.openapi.from_dict(document(Settings()))
FOUND: Any = SCHEMA.get_all_operations()
OPERATIONS = [operation.ok() for operation in FOUND]
# A schema cannot describe valid images, or that a tensor's content matches its shape.
UNDECIDABLE = [positive_data_acceptance, negative_data_rejection]
SERVED = {"name": "colours", "version": "1"}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: str(operation.label))
def test_every_answer_matches_the_openapi_document(
    server: Server, operation: Any, mode: Any
) -> None:
    """Sends valid and invalid requests, for existing and for random models."""
    names = {parameter.name for parameter in operation.path_parameters}
    served = {name: value for name, value in SERVED.items() if name in names}
    strategies = [operation.as_strategy(mode, path_parameters=each) for each in (None, served)]

    @given(case=st.one_of(strategies))
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    def holds(case: Any) -> None:
        # A short time limit may turn any answer into a 503, which is tested elsewhere.
        patient = {"X-Timeout-Ms": "10000"}
        case.call_and_validate(server.url, headers=patient, excluded_checks=UNDECIDABLE, timeout=20)

    if mode == GenerationMode.NEGATIVE and not (operation.body or "version" in names):
        with pytest.raises(Unsatisfiable):  # every string is a valid name
            holds()
    else:
        holds()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "QUERY"])
def test_other_methods_are_405_everywhere(client: httpx.Client, method: str) -> None:
    for operation in OPERATIONS:
        path = operation.path.format(**SERVED)
        response = client.request(method, path)
        assert response.status_code == 405, path
        assert operation.method.upper() in response.headers["allow"]


def test_openapi_document_is_valid_and_has_every_route_of_the_protocol(
    client: httpx.Client,
) -> None:
    served = client.get("/openapi.json").json()
    validate(served)
    rest = Rest(*[Any] * 3)  # type: ignore[arg-type]  # only its routes are read
    assert {path for path in served["paths"] if path.startswith("/v2")} == set(rest.routes)
    described = {
        (path, method.upper())
        for path, item in paths(Settings()).items()
        for method in item
        if method != "parameters"
    }
    assert described == {(path, method) for path, each in rest.routes.items() for method in each}
    operations = [
        operation["operationId"]
        for item in served["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict)
    ]
    assert len(set(operations)) == len(operations)


def test_log_contains_no_errors(server: Server) -> None:
    """Runs last: no test above caused an internal error of the service."""
    assert "Traceback" not in server.log()
