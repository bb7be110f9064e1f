"""Line charts as SVG. Text is real text, and colours come from the style sheet of the page.

Each chart has one drawing for phones and one for desktops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from metarl_jax.reports.markup import Html, join, tag

COLOURS = 8
"""The number of colours of lines. Their classes in the style sheet are ``.c0`` .. ``.c7``."""
DASHES = 5
"""The number of dash patterns of lines, by which readers who do not see colours can distinguish lines. Their classes in
the style sheet are ``.d0`` .. ``.d4``."""
MOST_DOTS = 40
"""The largest number of points of a line with a dot at each point."""
LARGEST = 1e100
"""The largest absolute value of a number that is drawn. Larger numbers are left out, because they would distort the
scale."""
WIDE, NARROW = (560.0, 330.0), (340.0, 250.0)
"""The width and the height of a chart in pixels, on a desktop and on a phone."""

Value = float | None


class Series(NamedTuple):
    """A series of points in a chart, drawn as a line or as separate points."""

    name: str
    """The name in the legend."""
    x: Sequence[float]
    """The horizontal coordinates."""
    y: Sequence[Value]
    """The vertical coordinates; None where there is no value."""
    style: int
    """The number that determines colour and dashes. The style 0 is drawn thick and on top."""
    low: Sequence[Value] = ()
    """The lower edge of the band; empty if there is no band."""
    high: Sequence[Value] = ()
    """The upper edge of the band; empty if there is no band."""
    kind: Literal["line", "points"] = "line"
    """Whether the series is drawn as a line or as separate points."""


class Level(NamedTuple):
    """A horizontal line in a chart."""

    name: str
    """The name in the legend."""
    value: float
    """The vertical coordinate."""
    style: int
    """The number that determines colour and dashes."""


class Chart(NamedTuple):
    """The content of a chart."""

    title: str
    """The title above the chart."""
    x_label: str
    """The label of the horizontal axis."""
    y_label: str
    """The label of the vertical axis."""
    series: Sequence[Series]
    """The series of points. The first one is drawn on top."""
    levels: Sequence[Level] = ()
    """The horizontal lines."""
    whole_x: bool = False
    """Whether horizontal coordinates are integers, so that ticks must be integers as well."""


def number(value: Value, decimals: int) -> str:
    """Format a number with separators of thousands and a minus sign.

    None stands for a mean of scores one of which diverged; its text is "diverged".
    """
    if value is None:
        return "diverged"
    if abs(value) >= 1e7:
        return f"{value:.2e}".replace("-", "−")
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.removeprefix("-")


def short(value: float) -> str:
    """Format a number with few characters, such as 1.5M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.4g}{unit}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def drawable(value: object) -> Value:
    """Return the value as a float if it is a number that can be drawn; otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None  # The comparison is also false for NaN.


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Return the positions of ticks: round numbers from ``low`` to ``high``.

    Args:
        low: the minimum.
        high: the maximum, which must be larger than ``low``.
        most: the approximate largest number of ticks.
        whole: whether ticks must be integers.
    """
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12 - math.floor(math.log10(step))) for n in range(first, last + 1)]


def _range(values: list[float], margin: float) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    space = (high - low) * margin
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        space = 0.5 * abs(low) or 0.5
    return low - space, high + space


class _Frame:
    """The map from numbers to pixels in a drawing."""

    def __init__(self, chart: Chart, width: float, height: float) -> None:
        self.width, self.height = width, height
        xs = [x for s in chart.series for x, y in zip(s.x, s.y, strict=True) if y is not None]
        ys = [level.value for level in chart.levels]
        for series in chart.series:
            ys += [y for values in (series.y, series.low, series.high) for y in values if y is not None]
        self.x_range, self.y_range = _range(xs, 0.0), _range(ys, 0.06)
        self.x_ticks = ticks(*self.x_range, most=8 if width > 400 else 5, whole=chart.whole_x)
        self.y_ticks = ticks(*self.y_range, most=6 if height > 300 else 5)
        # A character of the ticks is about 6.5 pixels wide.
        self.left = 12 + 6.5 * max(len(short(tick)) for tick in [*self.y_ticks, 0.0])
        self.right, self.top, self.bottom = width - 16, 30.0, height - 44

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)


def _pieces(*columns: Sequence[Value]) -> Iterator[list[tuple[float, ...]]]:
    """Yield the sequences of consecutive rows of the columns in which no value is None."""
    piece: list[tuple[float, ...]] = []
    for row in zip(*columns, strict=True):
        if None not in row:
            piece.append(row)  # type: ignore[arg-type]
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _style(style: int) -> str:
    # Styles of one colour have different dashes, because the numbers of colours and of dashes have no common factor.
    return f"c{style % COLOURS} d{style % DASHES}{' first' if style == 0 else ''}"


def _drawn_series(frame: _Frame, series: Series, chart: Chart) -> Html:
    parts: list[Html] = []
    if series.low:
        for piece in _pieces(series.x, series.low, series.high):
            edge = [(x, high) for x, _, high in piece] + [(x, low) for x, low, _ in reversed(piece)]
            parts.append(tag("path", class_="band", d=frame.path(edge) + "Z"))
    pieces = list(_pieces(series.x, series.y))
    if series.kind == "line":
        parts += [tag("path", class_="line", d=frame.path([(x, y) for x, y in piece])) for piece in pieces]
    if series.kind == "points" or sum(map(len, pieces)) <= MOST_DOTS:
        for x, y in (point for piece in pieces for point in piece):
            said = tag("title", f"{series.name}: {short(y)} at {chart.x_label} {short(x)}")
            where = {"cx": f"{frame.x(x):.1f}", "cy": f"{frame.y(y):.1f}", "r": 4 if series.kind == "points" else 3}
            parts.append(tag("circle", said, class_="dot", **where))
    return tag("g", parts, class_=_style(series.style))


def _drawing(chart: Chart, size: tuple[float, float], which: str) -> Html:
    frame = _Frame(chart, *size)
    parts: list[Html] = []
    for tick in frame.y_ticks:
        y = f"{frame.y(tick):.1f}"
        parts.append(tag("line", class_="grid", x1=f"{frame.left:.1f}", x2=frame.right, y1=y, y2=y))
        where = {"x": f"{frame.left - 6:.1f}", "y": f"{frame.y(tick) + 4:.1f}"}
        parts.append(tag("text", short(tick), class_="tick", text_anchor="end", **where))
    for tick in frame.x_ticks:
        x = f"{frame.x(tick):.1f}"
        parts.append(tag("line", class_="mark", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 4))
        parts.append(tag("text", short(tick), class_="tick", text_anchor="middle", x=x, y=frame.bottom + 17))
    parts.append(tag("line", class_="mark", x1=f"{frame.left:.1f}", x2=frame.right, y1=frame.bottom, y2=frame.bottom))
    parts.append(tag("text", chart.y_label, class_="axis", x=4, y=16))
    parts.append(tag("text", chart.x_label, class_="axis", text_anchor="end", x=frame.right, y=frame.height - 8))
    for level in chart.levels:
        y = f"{frame.y(level.value):.1f}"
        said = tag("title", f"{level.name}: {short(level.value)}")
        line = tag("line", said, class_="level", x1=f"{frame.left:.1f}", x2=frame.right, y1=y, y2=y)
        parts.append(tag("g", line, class_=_style(level.style)))
    # The first series is drawn last, so that it is on top.
    parts += [_drawn_series(frame, series, chart) for series in reversed(chart.series)]
    box = f"0 0 {size[0]:g} {size[1]:g}"
    return tag("svg", parts, class_=which, viewBox=box, role="img", aria_label=_described(chart))


def _ends(chart: Chart) -> Iterator[tuple[Series | Level, Value]]:
    for series in chart.series:
        yield series, next((y for y in reversed(series.y) if y is not None), None)
    for level in chart.levels:
        yield level, level.value


def _described(chart: Chart) -> str:
    """Describe the chart in words, for readers who do not see it."""
    ends = "; ".join(f"{line.name} {'has none' if y is None else short(y)}" for line, y in _ends(chart))
    return f"{chart.title}: {chart.y_label} against {chart.x_label}. At the end: {ends}."


def _legend(chart: Chart) -> Html:
    items = []
    for line, end in _ends(chart):
        swatch = [tag("line", class_="level" if isinstance(line, Level) else "line", x1=1, x2=29, y1=6, y2=6)]
        if isinstance(line, Series) and line.kind == "points":
            swatch = [tag("circle", class_="dot", cx=15, cy=6, r=4)]
        drawn = tag("svg", swatch, viewBox="0 0 30 12", aria_hidden="true")
        value = tag("span", "no value" if end is None else short(end), class_="value")
        items.append(tag("li", drawn, tag("span", line.name), " ", value, class_=_style(line.style)))
    return tag("ul", items, class_="legend")


def figure(chart: Chart, caption: str, *, small: bool = False) -> Html:
    """Return a chart with its title, a legend with the last value of each line, and a caption.

    Args:
        chart: the chart.
        caption: the text below the chart.
        small: whether to use the drawing for phones on all screens, without a legend.
    """
    drawings = [_drawing(chart, NARROW, "any" if small else "narrow")]
    if not small:
        drawings.append(_drawing(chart, WIDE, "wide"))
    head = [tag("h4", chart.title), None if small else _legend(chart)]
    below = tag("figcaption", caption) if caption else None
    return tag("figure", head, join(drawings), below, aria_label=chart.title)


class Row(NamedTuple):
    """A row of a figure of scores."""

    name: str
    """The name above the row."""
    scores: Sequence[tuple[Value, Sequence[float], Sequence[Value]]]
    """One entry for each kind of score: the summary, the single scores, and the ends of an interval or nothing."""


_LINE, _KIND = 30.0, 20.0
"""The heights in pixels of the name of a row, and of one kind of score in it."""


def _rows_drawing(rows: Sequence[Row], label: str, width: float, which: str, described: str) -> Html:
    values = [x for row in rows for one, many, ends in row.scores for x in (one, *many, *ends) if x is not None]
    low, high = _range(values, 0.06)
    left, right = 14.0, width - 14.0
    height_of_row = _LINE + _KIND * max(len(row.scores) for row in rows)
    bottom = 8 + height_of_row * len(rows)

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts: list[Html] = []
    for tick in ticks(low, high, 8 if width > 400 else 5):
        x = f"{at(tick):.1f}"
        parts.append(tag("line", class_="grid", x1=x, x2=x, y1=8, y2=bottom))
        parts.append(tag("text", short(tick), class_="tick", text_anchor="middle", x=x, y=bottom + 17))
    most = int((right - left) / 6.5)
    for place, row in enumerate(rows):
        top = 8 + height_of_row * place
        name = row.name if len(row.name) <= most else f"{row.name[: most - 1]}…"
        parts.append(tag("text", tag("title", row.name), name, class_="axis", x=left, y=top + 20))
        for kind, (one, many, ends) in enumerate(row.scores):
            y = top + _LINE + _KIND * (kind + 0.4)
            drawn: list[Html] = []
            if ends and None not in ends:
                x1, x2 = (f"{at(end or 0.0):.1f}" for end in ends)
                drawn.append(tag("line", class_="level", x1=x1, x2=x2, y1=y, y2=y))
            drawn += [tag("circle", class_="dot", cx=f"{at(x):.1f}", cy=y, r=3) for x in many]
            if one is not None:
                x = f"{at(one):.1f}"
                said = tag("title", f"{row.name}: {short(one)}")
                drawn.append(tag("line", said, class_="line", x1=x, x2=x, y1=y - 8, y2=y + 8))
            parts.append(tag("g", drawn, class_=f"c{kind} first"))
    parts.append(tag("line", class_="mark", x1=left, x2=right, y1=bottom, y2=bottom))
    parts.append(tag("text", label, class_="axis", text_anchor="end", x=right, y=bottom + 36))
    box = f"0 0 {width:g} {bottom + 44:g}"
    return tag("svg", parts, class_=which, viewBox=box, role="img", aria_label=described)


def rows_figure(title: str, label: str, kinds: Sequence[str], rows: Sequence[Row], caption: str) -> Html:
    """Return a figure with a row for each learner and a horizontal axis of scores.

    Args:
        title: the title.
        label: the label of the axis.
        kinds: the name of each kind of score.
        rows: the rows, at least one.
        caption: the text below the figure.
    """
    items = []
    for kind, name in enumerate(kinds):
        drawn = tag("svg", tag("circle", class_="dot", cx=15, cy=6, r=4), viewBox="0 0 30 12", aria_hidden="true")
        items.append(tag("li", drawn, tag("span", name), class_=f"c{kind}"))
    each = "; ".join(
        f"{row.name}: " + ", ".join("none" if one is None else short(one) for one, _, _ in row.scores) for row in rows
    )
    described = f"{title}: {label}, on {' and on '.join(kinds)}. {each}."
    drawings = [
        _rows_drawing(rows, label, size[0], which, described) for size, which in ((NARROW, "narrow"), (WIDE, "wide"))
    ]
    head = [tag("h4", title), tag("ul", items, class_="legend")]
    return tag("figure", head, join(drawings), tag("figcaption", caption), aria_label=title)
