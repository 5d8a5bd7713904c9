"""Output of figures as SVG or PNG; the same arrays give the same bytes."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pipeline.atomic_files import writing
from pipeline.figure_files import check_figure_file
from pipeline.report.figures.style import INK

DOTS_PER_INCH = 200
# Text stays text, in the page's font.
_TEXT_AS_TEXT = "none"
_NO_DATE = {"Date": None, "Creator": None, "Format": None, "Type": None}
_NO_SOFTWARE = {"Software": None}
_PREAMBLE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_GROUP_IDS = re.compile(r' id="[A-Za-z0-9.]+_\d+"')


def to_svg(figure: Figure) -> str:
    """Render an `<svg>` element for a page, with the page's text colour and font."""
    stream = io.StringIO()
    salt = f"limelight {figure.get_label()}"
    with rc_context({"svg.fonttype": _TEXT_AS_TEXT, "svg.hashsalt": salt}), _any_glyph():
        # `savefig` draws twice.
        FigureCanvasSVG(figure).print_svg(stream, metadata=_NO_DATE)  # type: ignore[no-untyped-call]
    svg = _PREAMBLE.sub("", stream.getvalue())
    # Each figure numbers its groups from 1, so the ids would repeat on a page of many figures.
    svg = _GROUP_IDS.sub("", svg)
    return svg.replace(INK, "currentColor").strip()


@contextmanager
def _any_glyph() -> Iterator[None]:
    """Silence warnings about glyphs that matplotlib's font lacks; the reader's fonts have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure to `path`, as .svg or .png by its suffix; its folder is made.

    Raises:
        PipelineError: the suffix is another.
        UnwritableError: `path` cannot be written.

    """
    check_figure_file(path)
    with writing(path, "make room, or choose another file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".svg":
            path.write_text(to_svg(figure) + "\n", encoding="utf-8")
        else:
            with _any_glyph():
                figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white", metadata=_NO_SOFTWARE)
