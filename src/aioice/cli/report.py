"""The report of a session as one page: no script, nothing from elsewhere, and every text escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .output import shown
from .story import PAIR_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .story import Story

_WIDTH, _HEIGHT, _LEFT, _TOP = 960, 180, 80, 20
_LANES = ("gathering", "checks", "selection", "consent", "state", "trouble")
_COLOURS = {
    "gathering": "#3b7dd8",
    "checks": "#8a63d2",
    "selection": "#2e9e5b",
    "consent": "#c58a00",
    "state": "#444444",
    "trouble": "#c0392b",
}
_SERIES = ("#3b7dd8", "#2e9e5b", "#c58a00", "#8a63d2", "#c0392b", "#16858a")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 2rem auto; max-width: 64rem;
  padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
.sub { color: #666; margin-top: 0 }
table { border-collapse: collapse; font-size: .86rem; width: 100% }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #e4e4e4; vertical-align: top;
  overflow-wrap: break-word }
th { color: #666; font-weight: 600; white-space: nowrap }
td.time { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.finding { border-left: 4px solid #c0392b; background: #fbf3f2; padding: .6rem 1rem; margin: .6rem 0 }
.finding.weak { border-color: #c58a00; background: #fcf8ee }
.finding h3 { margin: 0; font-size: 1rem }
.finding code { color: #666; font-weight: 400 }
.finding p { margin: .2rem 0; font-size: .9rem }
.good { border-left: 4px solid #2e9e5b; background: #f0f8f3; padding: .6rem 1rem }
table.lines td { overflow-wrap: anywhere }
.key { font-size: .8rem; color: #444; margin-right: 1rem }
svg { width: 100%; height: auto; background: #fafafa; border: 1px solid #e4e4e4 }
"""


def page(story: Story) -> str:
    """The whole page."""
    header = story.trace.header.get("trace")
    point = header.get("vantage_point") if isinstance(header, dict) else None
    origin = point.get("name", "") if isinstance(point, dict) else ""
    zoom = 0 < 4 * story.settled < story.end
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>ICE session: {_text(story.state)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>ICE session: {_text(story.state)}</h1>",
        f'<p class="sub">{story.end / 1000:.3f} s, {story.inputs} inputs, {story.outputs} outputs; {_text(origin)}</p>',
        "<h2>Findings</h2>",
        _findings(story),
        "<h2>Timeline</h2>",
        _timeline(story, story.end),
        *([f"<h2>Until {story.settled:.0f} ms</h2>", _timeline(story, story.settled)] if zoom else []),
        "<h2>Candidate pairs</h2>",
        _table(PAIR_HEADERS, story.pair_rows) if story.pair_rows else "<p>There were none.</p>",
        "<h2>Round-trip time</h2>",
        _round_trips(story),
        "<h2>Requests without an answer</h2>",
        _plot([("requests", [(time, float(count)) for time, count in story.unanswered])], story.end, "", steps=True),
    ]
    if story.drops:
        parts += ["<h2>Dropped datagrams</h2>", _table(("datagrams", "why"), [(n, w) for w, n in story.drops.items()])]
    parts += ["<h2>What happened</h2>", _lines(story), "</body></html>"]
    return "\n".join(parts)


def _text(value: object, limit: int = 300) -> str:
    return escape(shown(value, limit))


def _findings(story: Story) -> str:
    parts = []
    if story.difference:
        parts.append(
            f'<div class="finding"><h3>The replay ended early</h3><p>{_text(story.difference, 2000)}</p></div>'
        )
    for finding in story.findings:
        evidence = "".join(f"<p>{_text(line)}</p>" for line in finding.evidence)
        weak = "" if finding.weight >= 60 else " weak"
        parts.append(
            f'<div class="finding{weak}"><h3>{_text(finding.cause, 500)} <code>{_text(finding.code)}</code></h3>'
            f"{evidence}<p><b>To do:</b> {_text(finding.advice, 500)}</p></div>"
        )
    return "\n".join(parts) or '<p class="good">None: the session was healthy.</p>'


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{_text(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _lines(story: Story) -> str:
    rows = "".join(
        f'<tr><td class="time">{line.time:.1f} ms</td><td style="color:{_COLOURS[line.kind]}">{line.kind}</td>'
        f"<td>{_text(line.text)}</td></tr>"
        for line in story.lines
    )
    omitted = f"<p>{story.lines.omitted} lines in the middle are left out.</p>" if story.lines.omitted else ""
    return f'{omitted}<table class="lines"><tbody>{rows}</tbody></table>'


# ------------------------------------------------------------------------------------------------------------ drawings


def _x(time: float, end: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - 20) * (time / end if end else 0), 1)


def _axis(end: float, height: int) -> str:
    marks = []
    for part in range(6):
        x = _x(end * part / 5, end)
        label = f"{end * part / 5:.0f} ms" if end < 10_000 else f"{end * part / 5000:.1f} s"
        marks.append(f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{height - 24}" stroke="#e4e4e4"/>')
        marks.append(f'<text x="{x}" y="{height - 8}" font-size="11" text-anchor="middle" fill="#666">{label}</text>')
    return "".join(marks)


def _svg(height: int, label: str, content: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}">'
        f"{content}</svg>"
    )


def _timeline(story: Story, end: float) -> str:
    height = _TOP + 30 * len(_LANES) + 30
    marks = [_axis(end, height)]
    for number, lane in enumerate(_LANES):
        y = _TOP + 30 * number + 15
        marks.append(f'<text x="6" y="{y + 4}" font-size="12" fill="{_COLOURS[lane]}">{lane}</text>')
        marks.append(f'<line x1="{_LEFT}" y1="{y}" x2="{_WIDTH - 20}" y2="{y}" stroke="#d8d8d8"/>')
    for line in [line for line in story.lines if line.time <= end]:
        y = _TOP + 30 * _LANES.index(line.kind) + 15
        told = f"{line.time:.1f} ms: {_text(line.text)}"
        marks.append(
            f'<circle cx="{_x(line.time, end)}" cy="{y}" r="5" fill="{_COLOURS[line.kind]}" fill-opacity=".75">'
            f"<title>{told}</title></circle>"
        )
    return _svg(height, "timeline", "".join(marks))


def _round_trips(story: Story) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for time, pair, seconds in story.round_trips:
        series.setdefault(pair, []).append((time, 1000 * seconds))
    return _plot(list(series.items()), story.end, " ms")


def _plot(series: list[tuple[str, list[tuple[float, float]]]], end: float, unit: str, *, steps: bool = False) -> str:
    points = [value for _, values in series for _, value in values]
    if not points:
        return "<p>There were none.</p>"
    top = max(points) or 1.0
    marks, keys = [_axis(end, _HEIGHT)], []
    for part in (0.0, 0.5, 1.0):
        y = round(_HEIGHT - 24 - (_HEIGHT - 24 - _TOP) * part, 1)
        marks.append(
            f'<text x="{_LEFT - 6}" y="{y + 4}" font-size="11" text-anchor="end" fill="#666">'
            f"{top * part:.3g}{unit}</text>"
        )
        marks.append(f'<line x1="{_LEFT}" y1="{y}" x2="{_WIDTH - 20}" y2="{y}" stroke="#e4e4e4"/>')
    for number, (name, values) in enumerate(series[:20]):
        colour = _SERIES[number % len(_SERIES)]
        path = ""
        for time, value in values:
            x, y = _x(time, end), round(_HEIGHT - 24 - (_HEIGHT - 24 - _TOP) * value / top, 1)
            path += f"H{x}V{y}" if steps and path else f"{'L' if path else 'M'}{x} {y}"
            if not steps:
                marks.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>')
        if steps and path:
            path += f"H{_x(end, end)}"
        marks.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        keys.append(f'<span class="key"><span style="color:{colour}">&#9632;</span> {_text(name)}</span>')
    return _svg(_HEIGHT, "plot", "".join(marks)) + ("" if steps else f"<p>{''.join(keys)}</p>")
