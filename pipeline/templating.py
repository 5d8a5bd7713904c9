"""Jinja templates of pages and cards, with the wording of the command line as filters."""

from pathlib import Path
from typing import Any

import jinja2

from pipeline.wording import amount, duration, percent


def render_template(name: str, /, *folders: Path, **values: Any) -> str:
    """Render the template `name`, which is in one of `folders`; values are escaped in HTML.

    Raises:
        jinja2.UndefinedError: the template uses a value that is not given.

    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"amount": amount, "duration": duration, "percent": percent}
    return environment.get_template(name).render(**values)
