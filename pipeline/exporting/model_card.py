"""Model card: the manifest as a page of Markdown."""

from pathlib import Path

import jinja2

from limelight.artifact.manifest import Manifest
from pipeline.wording import amount, percent

_TEMPLATES = Path(__file__).parent / "templates"


def card(manifest: Manifest) -> str:
    """Write the model card: intended use, measurements and data, as Markdown.

    Raises:
        jinja2.UndefinedError: the manifest lacks a measurement, as those of older exports do.

    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,  # noqa: S701  # Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"amount": amount, "percent": percent}
    return environment.get_template("card.md").render(m=manifest)
