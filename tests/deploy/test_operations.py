"""Agreement of docs/operations.md with the settings, the alerts and the files that it names."""

import re

import pytest

from service.settings import Settings
from tests.deploy.manifests import ROOT, read

PAGE = (ROOT / "docs" / "operations.md").read_text()
ALERTS = [
    rule
    for document in read(ROOT / "deploy" / "prometheus" / "limelight.alerts.yml")
    for group in document["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


def _sections() -> dict[str, str]:
    """Return the text below each heading of the third level."""
    parts = re.split(r"^### (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_table_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(re.findall(r"^\| `(LIMELIGHT_[A-Z_]+)` \| (\S+) \|", PAGE, re.MULTILINE))
    assert set(rows) == {f"LIMELIGHT_{field.upper()}" for field in Settings.model_fields}
    defaults = Settings.model_construct()
    for variable, shown in rows.items():
        field = variable.removeprefix("LIMELIGHT_").lower()
        default = getattr(defaults, field)
        if shown == "unset":
            assert default is None, variable
        elif field == "models":
            assert default == ROOT / shown.strip("`")
        else:
            with monkeypatch.context() as environment:
                environment.setenv(variable, shown.strip("`"))
                assert getattr(Settings(), field) == default, variable


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    sections = _sections()
    assert list(sections) == [rule["alert"] for rule in ALERTS]
    for name, text in sections.items():
        assert "\n1. " in text, f"{name} has no first step"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_the_alert_links_to_its_section(rule: dict[str, dict[str, str]]) -> None:
    anchor = rule["annotations"]["runbook_url"].rpartition("#")[2]
    assert anchor in {heading.lower() for heading in _sections()}


def test_every_link_has_a_target() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", PAGE)
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    }
    assert targets
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (ROOT / "docs" / target).exists(), target


def test_named_metrics_are_exposed_or_recorded() -> None:
    known = "".join(
        path.read_text()
        for path in (
            ROOT / "service" / "telemetry" / "metrics.py",
            ROOT / "service" / "telemetry" / "gpu.py",
            *(ROOT / "deploy" / "prometheus").glob("*.yml"),
        )
    )
    for name in set(re.findall(r"`(limelight[_:][a-z_:0-9]+)`", PAGE)):
        own = name.removeprefix("limelight_").removesuffix("_total")  # the library adds the suffix
        assert name in known or f'"{own}"' in known, name
