"""Settings from the environment: what is refused, and the sentence that says so."""

import pytest
from pydantic import ValidationError

from service.settings import Settings, settings_problem


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TRACE_ENDPOINT", "", "LIMELIGHT_TRACE_ENDPOINT is '': it is empty: give it a value"),
        ("MODELS", "", "LIMELIGHT_MODELS is '': it is empty"),
        ("TRACE_ENDPOINT", "collector:4318", "it is no URL: give one that begins with http://"),
        ("TRACE_ENDPOINT", "http://", "it is no URL"),
        ("TIMEOUT_S", "soon", "LIMELIGHT_TIMEOUT_S is 'soon': input should be a valid number"),
        ("WORKER_TIMEOUT_S", "-1", "LIMELIGHT_WORKER_TIMEOUT_S is '-1': input should be greater"),
    ],
)
def test_value_without_sense_is_refused_in_one_sentence(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LIMELIGHT_{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert sentence in settings_problem(refused.value)
    assert "\n" not in settings_problem(refused.value)


def test_endpoint_of_a_collector_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMELIGHT_TRACE_ENDPOINT", "http://collector:4318/v1/traces")
    assert Settings().trace_endpoint == "http://collector:4318/v1/traces"
