"""Charts as SVG text, drawn on the server: lines with bands, stacked bars, bars of shares.

Colours are classes (`s0` to `s5`, `all`) of the style sheet, so that a chart is right in light and dark; there is no
inline style, which the pages' security policy forbids. Every chart says in words what it shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape

WIDTH, HEIGHT = 420, 190  # units of the drawing: about the pixels of a third of a wide page, so texts keep their size
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 16, 26  # room for labels
COLOURS = 6  # classes s0 to s5; a seventh series starts again
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # a tick is one of these times a power of ten
SMALLEST = 1e-12  # a span below this is none: rates and sums end far above it
BAR_SHARE = 0.7  # of the room between two windows that a bar fills
CHARACTER = 6.2  # width of a small letter in units, for labels that must stay inside


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one layer of bars: a value for each time, None where there is none."""

    name: str
    values: tuple[float | None, ...]
    band: tuple[tuple[float, float] | None, ...] = ()  # lower and upper bound of each value
    colour: int = 0  # of `colour_class`


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment worth a vertical line."""

    at: float  # Unix s
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What a drawing shows, apart from its kind."""

    name: str  # unique on its page: the drawing's own ids are made from it
    title: str
    description: str  # what is seen, for those who cannot see it
    times: tuple[float, ...]  # Unix s, rising
    series: tuple[Series, ...]
    unit: str = ""
    marks: tuple[Mark, ...] = field(default=())


def line_chart(chart: Chart) -> str:
    """The series as lines with their bands, on a scale around the values.

    Raises:
        ValueError: times do not rise, or a series has another number of values.
    """
    _check(chart)
    values = [value for series in chart.series for value in series.values if value is not None]
    bounds = [bound for series in chart.series for band in series.band if band is not None for bound in band]
    known = values + [bound for bound in bounds if math.isfinite(bound)]
    plot = _Plot(chart.times, ticks(min(known), max(known)) if known else [0.0, 1.0])
    parts = [_band(plot, chart.times, series) for series in chart.series if series.band]
    parts += [_line(plot, chart, series) for series in chart.series]
    return _drawing(chart, plot, "".join(parts))


def stacked_bars(chart: Chart) -> str:
    """The series as bars on top of each other, from zero.

    Raises:
        ValueError: times do not rise, a series has another number of values, or a value is negative.
    """
    _check(chart)
    if any(value < 0 for series in chart.series for value in series.values if value is not None):
        raise ValueError(f"{chart.name}: bars cannot be stacked below zero")
    totals = [sum(series.values[at] or 0 for series in chart.series) for at in range(len(chart.times))]
    plot = _Plot(chart.times, ticks(0.0, max(totals, default=0.0) or 1.0), inset=True)
    gaps = [after - before for before, after in zip(chart.times, chart.times[1:], strict=False)]
    width = max(1.0, BAR_SHARE * (plot.x(chart.times[0] + min(gaps)) - plot.x(chart.times[0])) if gaps else 40.0)
    parts = []
    for at, time in enumerate(chart.times):
        below = 0.0
        for series in chart.series:
            value = series.values[at] or 0.0
            if value:
                top, foot = plot.y(below + value), plot.y(below)
                parts.append(
                    f'<rect class="bar {colour_class(series.colour)}" x="{_n(plot.x(time) - width / 2)}" y="{_n(top)}" '
                    f'width="{_n(width)}" height="{_n(max(foot - top, 0.5))}">{_tip(chart, series, time, value)}</rect>'
                )
            below += value
    return _drawing(chart, plot, "".join(parts))


def share_bar(shares: Sequence[tuple[str, float, int]]) -> str:
    """Traffic by release as one bar: (name, share from 0 to 1, colour) each."""
    parts, at = [], 0.0
    for name, share, colour in shares:
        tip = f"<title>{escape(name)}: {share:.0%}</title>"
        parts.append(
            f'<rect class="bar {colour_class(colour)}" x="{_n(at * 100)}%" width="{_n(share * 100)}%" height="10">'
            f"{tip}</rect>"
        )
        at += share
    words = ", ".join(f"{name} {share:.0%}" for name, share, _ in shares) or "no traffic"
    return f'<svg class="shares" height="10" role="img" aria-label="{escape(words)}">{"".join(parts)}</svg>'


def colour_class(colour: int) -> str:
    """The style sheet's name of a colour; below zero is the colour of what stands for all.

    >>> colour_class(0), colour_class(7), colour_class(-1)
    ('s0', 's1', 'all')
    """
    return "all" if colour < 0 else f"s{colour % COLOURS}"


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`.

    >>> ticks(0.712, 0.748)
    [0.71, 0.72, 0.73, 0.74, 0.75]
    >>> ticks(0, 1034)
    [0.0, 500.0, 1000.0, 1500.0]
    """
    span, size = high - low, max(abs(low), abs(high))
    if span <= 1e-9 * size:  # one value: room around it
        span = size
    if span < SMALLEST:
        span = 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(step * power for step in STEPS if step * power * about >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, max(last, first + 1) + 1)]


def tick_label(value: float) -> str:
    """A number as an axis shows it.

    >>> tick_label(1500), tick_label(0.75), tick_label(-2e6), tick_label(0)
    ('1.5k', '0.75', '-2M', '0')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def time_labels(times: Sequence[float], most: int = 5) -> list[tuple[float, str]]:
    """Some of the times with a text each, as exact as their span asks.

    >>> time_labels([1357041600.0, 1359720000.0, 1362139200.0])
    [(1357041600.0, '1 Jan'), (1359720000.0, '1 Feb'), (1362139200.0, '1 Mar')]
    """
    if not times:
        return []
    span = times[-1] - times[0]
    every = max(1, math.ceil(len(times) / most))
    return [(time, _moment(time, span)) for time in times[::every]]


def _moment(time: float, span: float) -> str:
    moment = datetime.fromtimestamp(time, UTC)
    if span < 2 * 86400:
        return f"{moment:%H:%M}"
    return f"{moment.day} {moment:%b}" if span < 500 * 86400 else f"{moment:%b %Y}"


class _Plot:
    """From times and values to units of the drawing."""

    def __init__(self, times: Sequence[float], scale: Sequence[float], *, inset: bool = False) -> None:
        edge = (WIDTH - LEFT - RIGHT) / (2 * max(len(times), 1)) if inset else 4.0  # bars need half their room outside
        self._left, self._right = LEFT + edge, WIDTH - RIGHT - edge
        self._start, self._span = (times[0], times[-1] - times[0]) if times else (0.0, 0.0)
        self.scale, self.low, self.high = scale, scale[0], scale[-1]

    def x(self, time: float) -> float:
        """The place of a time; a single one is in the middle."""
        if not self._span:
            return (self._left + self._right) / 2
        return self._left + (time - self._start) / self._span * (self._right - self._left)

    def y(self, value: float) -> float:
        """The place of a value, cut to the axis."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _check(chart: Chart) -> None:
    if any(after <= before for before, after in zip(chart.times, chart.times[1:], strict=False)):
        raise ValueError(f"{chart.name}: the times must rise")
    for series in chart.series:
        if len(series.values) != len(chart.times) or len(series.band) not in (0, len(chart.times)):
            raise ValueError(f"{chart.name}: {series.name} has not one value for each of {len(chart.times)} times")


def _line(plot: _Plot, chart: Chart, series: Series) -> str:
    """Lines between neighbours; a value that is missing leaves a gap."""
    steps, dots, is_drawn = [], [], False
    for time, value in zip(chart.times, series.values, strict=True):
        if value is None:
            is_drawn = False
            continue
        x, y = _n(plot.x(time)), _n(plot.y(value))
        steps.append(f"{'L' if is_drawn else 'M'}{x} {y}")
        dots.append(f'<circle cx="{x}" cy="{y}" r="2.6">{_tip(chart, series, time, value)}</circle>')
        is_drawn = True
    colour = colour_class(series.colour)
    return f'<path class="line {colour}" d="{"".join(steps)}"/><g class="dots {colour}">{"".join(dots)}</g>'


def _band(plot: _Plot, times: Sequence[float], series: Series) -> str:
    """The area between the bounds, in as many pieces as there are gaps."""
    pieces: list[list[tuple[float, tuple[float, float]]]] = [[]]
    for time, bounds in zip(times, series.band, strict=True):
        if bounds is None:
            pieces.append([])
        else:
            pieces[-1].append((time, bounds))
    drawn = []
    for piece in (piece for piece in pieces if piece):
        upper = [f"{_n(plot.x(time))} {_n(plot.y(high))}" for time, (_, high) in piece]
        lower = [f"{_n(plot.x(time))} {_n(plot.y(low))}" for time, (low, _) in reversed(piece)]
        drawn.append(f"M{'L'.join(upper + lower)}Z")
    return f'<path class="band {colour_class(series.colour)}" d="{"".join(drawn)}"/>'


def _tip(chart: Chart, series: Series, time: float, value: float) -> str:
    """What the pointer is told at a value."""
    moment = datetime.fromtimestamp(time, UTC)
    shown = f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
    return f"<title>{escape(f'{moment:%Y-%m-%d %H:%M}, {series.name}: {shown} {chart.unit}'.rstrip())}</title>"


def _drawing(chart: Chart, plot: _Plot, content: str) -> str:
    name = escape(chart.name)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(chart.title)}</title>'
        f'<desc id="{name}-desc">{escape(chart.description)}</desc>'
        f"{_axes(chart, plot)}{_marks(chart, plot)}{content}</svg>"
    )


def _axes(chart: Chart, plot: _Plot) -> str:
    parts = []
    for value in plot.scale:
        y = _n(plot.y(value))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(LEFT - 6, plot.y(value) + 3.5, tick_label(value), "end"))
    for time, label in time_labels(chart.times):
        half = len(label) * CHARACTER / 2
        parts.append(_text(min(max(plot.x(time), half), WIDTH - half), HEIGHT - 8, label, "middle"))
    if chart.unit:
        parts.append(_text(LEFT, TOP - 6, chart.unit, "start"))
    return "".join(parts)


def _marks(chart: Chart, plot: _Plot) -> str:
    """Vertical lines at moments inside the drawing."""
    if not chart.times:
        return ""
    return "".join(
        f'<line class="mark" x1="{_n(plot.x(mark.at))}" x2="{_n(plot.x(mark.at))}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
        f"<title>{escape(mark.label)}</title></line>"
        for mark in chart.marks
        if chart.times[0] <= mark.at <= chart.times[-1]
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(words)}</text>'


def _n(value: float) -> str:
    """A coordinate, to a tenth.

    >>> _n(12.34), _n(3.0)
    ('12.3', '3')
    """
    return f"{value:.1f}".removesuffix(".0")
