"""Agreement of docs/operations.md with the settings, the alerts and the files that it names."""

import re

import pytest

from limelight.imaging.headers.inspection import inspect
from service.process.memory import needed_bytes
from service.settings import Settings
from tests.deploy.manifests import ROOT, read
from tests.hostile_images import large

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
    assert targets
    for target in targets:
        name, _, anchor = target.partition("#")
        file = ROOT / "docs" / (name or "operations.md")
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file.read_text()), target


def _anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }


def test_named_metrics_are_exposed_or_recorded() -> None:
    known = "".join(
        path.read_text()
        for path in (
            *(ROOT / "service" / "telemetry").glob("*.py"),
            *(ROOT / "deploy" / "prometheus").glob("*.yml"),
        )
    )
    for name in set(re.findall(r"`(limelight[_:][a-z_:0-9]+)`", PAGE)):
        own = name.removeprefix("limelight_").removesuffix("_total")  # the library adds the suffix
        assert name in known or f'"{own}"' in known, name


def test_sizing_rule_names_the_memory_of_two_workers() -> None:
    settings = Settings.model_construct()
    needed = needed_bytes(settings, workers=2)
    assert f"With the defaults and two workers that is {needed / 1e6:,.0f} MB" in PAGE
    assert needed_bytes(settings, workers=3) - needed == needed - needed_bytes(settings, workers=1)


# Rows of the table of memory per pixel, and images of each.
KINDS = {
    "PNG, grey or with a palette; GIF; BMP with a palette": (
        *("png grey", "png palette", "png black and white"),
        *("png palette with a transparent colour", "gif", "bmp black and white"),
    ),
    "PNG, grey, 16 bits": ("png grey 16 bits",),
    "PNG, any other; BMP, any other": (
        *("png colour", "png colour alpha", "png grey alpha", "png interlaced"),
        *("png colour 16 bits", "png grey alpha 16 bits"),
    ),
    "JPEG, in colour": ("jpeg", "jpeg progressive", "jpeg cmyk"),
    "WebP": ("webp lossy", "webp lossless", "webp lossless alpha", "webp lossy alpha"),
}


@pytest.mark.parametrize("row", KINDS)
def test_table_of_memory_per_pixel_is_that_of_the_headers(row: str) -> None:
    table = dict(re.findall(r"^\| ([A-Z][^|]+?) \| (\d+) \| (?:yes|no) \|$", PAGE, re.MULTILINE))
    size = 400, 300
    images = dict(large(size))
    for name in KINDS[row]:
        header = inspect(images[name](), max_pixels=10**6)
        assert header.pixel_bytes == int(table[row]), name


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("jpeg progressive", 3),
        ("jpeg progressive 4:4:4", 6),
        ("webp lossless", 4),
        ("webp lossy alpha", 5),
    ],
)
def test_further_bytes_per_pixel_are_those_of_the_headers(name: str, further: int) -> None:
    size = 1600, 1600
    header = inspect(dict(large(size))[name](), max_pixels=10**7)
    assert header.working_bytes / (size[0] * size[1]) == pytest.approx(further, abs=0.25)
    kind = {"webp lossless": "a lossless WebP 4", "webp lossy alpha": "an alpha channel\n5"}
    assert kind.get(name, f"{further} ({'4:4:4' if '4:4:4' in name else '4:2:0'})") in PAGE
