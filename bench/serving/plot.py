"""Images per second over connections as an SVG: a panel a workload, a line a contestant."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.serving.results import Results
from bench.serving.summary import Row, ceiling, rows

_WIDTH, _HEIGHT = 300, 300  # of a panel's axes
_LEFT, _TOP, _GAP, _BOTTOM = 60, 50, 90, 60
_LEGEND_ROW = 20
# Okabe and Ito's colours, which people who see few colours can tell apart.
_COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#8C6D31", "#666666")


def render_svg(results: Results) -> str:
    """Both axes are logarithmic; a bar on a point spans the repeats, the dashes are the ceiling."""
    # Where every answer of a repeat was an error there is no point on a logarithmic axis.
    made = [row for row in rows(results) if row.images_per_s.least > 0]
    workloads = [name for name in results.workloads if any(row.workload == name for row in made)]
    names = list(dict.fromkeys(row.participant.name for row in made))
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}
    titles = {row.participant.name: row.participant.title for row in made}
    parts = []
    for at, workload in enumerate(workloads):
        here = [row for row in made if row.workload == workload]
        top = ceiling(results, results.models[workload])
        left = _LEFT + at * (_WIDTH + _GAP)
        title = results.workloads[workload]
        parts.append(f'<g transform="translate({left},{_TOP})">{_text(0, -14, title, "start")}')
        parts += _panel(here, names, colours, results.connections, top)
        parts.append("</g>")
    legend_top = _TOP + _HEIGHT + _BOTTOM
    for at, name in enumerate(names):
        x, y = _LEFT + (at % 3) * (_WIDTH + _GAP), legend_top + at // 3 * _LEGEND_ROW
        parts.append(f'<circle cx="{x + 5}" cy="{y - 4}" r="4" fill="{colours[name]}"/>')
        parts.append(_text(x + 16, y, titles[name].replace("`", ""), "start"))
    width = _LEFT + max(3, len(workloads)) * (_WIDTH + _GAP)
    height = legend_top + math.ceil(len(names) / 3) * _LEGEND_ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13" fill="#222">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _panel(
    made: Sequence[Row],
    names: Sequence[str],
    colours: dict[str, str],
    connections: Sequence[int],
    top: float | None,
) -> list[str]:
    values = [row.images_per_s.least for row in made] + [row.images_per_s.most for row in made]
    highest = max([*values, top or 0.0]) * 1.3
    lowest = min(values) / 1.15

    def x(count: int) -> float:
        at = sorted(connections).index(count)
        return _WIDTH * (at + 0.5) / len(connections)

    def y(rate: float) -> float:
        return _HEIGHT * (1 - math.log(rate / lowest) / math.log(highest / lowest))

    parts = [f'<path d="M0,0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="#222"/>']
    for tick in _ticks(lowest, highest):
        line = f'<path d="M0,{y(tick):.1f}H{_WIDTH}" stroke="#ddd"/>'
        parts += [line, _text(-6, y(tick) + 4, f"{tick:,}", "end")]
    parts += [_text(x(count), _HEIGHT + 18, str(count), "middle") for count in connections]
    parts.append(_text(_WIDTH / 2, _HEIGHT + 36, "connections (up: images/s)", "middle"))
    if top is not None:
        line = f'<path d="M0,{y(top):.1f}H{_WIDTH}" stroke="#222" stroke-dasharray="5 4"/>'
        parts += [line, _text(_WIDTH, y(top) - 5, "ONNX Runtime alone", "end")]
    for name in names:
        own = sorted((r for r in made if r.participant.name == name), key=lambda r: r.connections)
        points = [(x(row.connections), row.images_per_s) for row in own]
        path = "L".join(f"{at:.1f},{y(rate.median):.1f}" for at, rate in points)
        parts.append(f'<g stroke="{colours[name]}" fill="none" stroke-width="2">')
        parts.append(f'<path d="M{path}"/>' if path else "")
        for at, rate in points:
            parts.append(f'<path d="M{at:.1f},{y(rate.least):.1f}V{y(rate.most):.1f}"/>')
            centre = f'cx="{at:.1f}" cy="{y(rate.median):.1f}"'
            parts.append(f'<circle {centre} r="3" fill="{colours[name]}"/>')
        parts.append("</g>")
    return parts


def _ticks(lowest: float, highest: float) -> list[int]:
    """1, 2 and 5 times the powers of ten between the two."""
    powers = range(int(math.log10(lowest)), int(math.log10(highest)) + 1)
    every = [digit * 10**power for power in powers for digit in (1, 2, 5)]
    return [tick for tick in every if lowest <= tick <= highest]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
