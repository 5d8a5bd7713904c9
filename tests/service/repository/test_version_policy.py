"""Version policies: which versions on disk are served."""

import pytest
from pydantic import ValidationError

from service.repository.version_policy import VersionPolicies, VersionPolicy
from service.settings import Settings, settings_problem

ON_DISK = {"12": "c", "3": "b", "1": "a"}


@pytest.mark.parametrize(
    ("text", "served"),
    [
        ("latest", ["12"]),
        ("latest:2", ["12", "3"]),
        ("latest:9", ["12", "3", "1"]),
        ("specific:1", ["1"]),
        ("specific:1,12,7", ["12", "1"]),
    ],
)
def test_policy_selects_versions_newest_first(text: str, served: list[str]) -> None:
    assert list(VersionPolicy.parse(text).select(ON_DISK)) == served


def test_models_may_have_policies_of_their_own() -> None:
    policies = VersionPolicies.parse("cifar10=latest:2; digits = specific:5 ; latest:3")
    assert policies.of("cifar10") == VersionPolicy(latest=2)
    assert policies.of("digits") == VersionPolicy(specific=("5",))
    assert policies.of("other") == VersionPolicy(latest=3)
    assert VersionPolicies.parse("cifar10=latest:2").of("other") == VersionPolicy(latest=1)


@pytest.mark.parametrize("text", ["newest", "latest:0", "latest:", "specific:", "a=specific:x"])
def test_what_is_no_policy_is_refused_in_one_sentence(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMELIGHT_VERSIONS", text)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "is no version policy: write latest, latest:2 or" in settings_problem(refused.value)
