"""Model card: the manifest as a page of Markdown."""

from pathlib import Path

from limelight.artifact.manifest import Manifest
from models.ood_scores import SCORES
from pipeline.templating import render_template

_TEMPLATES = Path(__file__).parent / "templates"


def card(manifest: Manifest) -> str:
    """Write the model card: intended use, measurements and data, as Markdown.

    Raises:
        jinja2.UndefinedError: the manifest lacks a measurement, as those of older exports do.

    """
    return render_template("card.md", _TEMPLATES, m=manifest, ood_scores=SCORES)
