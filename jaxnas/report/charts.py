"""Charts as SVG text: they take their colours from the page's CSS variables, so that they follow its dark mode."""

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of one colour.

    Attributes:
      name: for the legend and the tooltips.
      colour: a CSS colour, such as "var(--k0)".
      x: [N] numbers.
      y: [N] numbers; gaps are NaN.
      labels: [N] texts beside the points; none if empty.
      tips: [N] tooltips of the points; their coordinates if empty.
    """

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()
    tips: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class _Axes:
    """Where data lie on the drawing; ticks are shown with an SI prefix where numbers are large."""

    low: tuple[float, float]
    high: tuple[float, float]

    def x(self, value: float) -> float:
        share = (value - self.low[0]) / (self.high[0] - self.low[0])
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low[1]) / (self.high[1] - self.low[1])
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def text(x: float, y: float, content: str, style: str = "") -> str:
    """A text element; `style` is a CSS class."""
    name = f' class="{style}"' if style else ""
    return f'<text x="{x:.4g}" y="{y:.4g}"{name}>{html.escape(content)}</text>'


def figure(body: str, label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """An SVG element that scales to the width of the page; `label` is read out by screen readers."""
    style = f"min-width:{min(width, 430):.5g}px;max-width:{width * 1.25:.5g}px"
    return (
        f'<svg viewBox="0 0 {width:.5g} {height:.5g}" style="{style}" role="img" '
        f'aria-label="{html.escape(label, quote=True)}">{body}</svg>'
    )


def legend(series: Sequence[Series]) -> str:
    """Names with their colours, as HTML."""
    items = "".join(
        f'<span><i style="background:{one.colour}"></i>{html.escape(one.name)}</span>'
        for one in {one.name: one for one in series}.values()
    )
    return f'<div class="legend">{items}</div>'


def lines(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Lines over a common axis, broken where y is NaN."""
    axes = _axes(series)
    body = [_frame(axes, x_label, y_label)]
    for one in series:
        points = [(axes.x(x), axes.y(y)) if math.isfinite(y) else None for x, y in zip(one.x, one.y)]
        body.append(
            f'<path d="{_path(points)}" fill="none" stroke="{one.colour}" stroke-width="1.8" stroke-linejoin="round">'
            f"<title>{html.escape(one.name)}</title></path>"
        )
    return figure("".join(body), f"{y_label} over {x_label}")


def front(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Points with labels; a line joins those of a series that no other of it beats, less being better on both axes."""
    axes = _axes(series, margin=0.08)
    body = [_frame(axes, x_label, y_label)]
    for one in series:
        points = np.array([one.x, one.y], float).T
        best = sorted(tuple(p) for p in points if not any((q <= p).all() and (q < p).any() for q in points))
        steps = [(axes.x(x), axes.y(y)) for x, y in best]
        body.append(
            f'<path d="{_path(steps)}" fill="none" stroke="{one.colour}" stroke-width="1.5" stroke-dasharray="4 3"/>'
        )
    for one in series:
        for index, (x, y) in enumerate(zip(one.x, one.y)):
            tip = one.tips[index] if one.tips else f"{one.name}: {short(x)}, {y:.4g}"
            colour = f"var(--k{index % 8})" if len(series) == 1 else one.colour
            body.append(
                f'<circle cx="{axes.x(x)}" cy="{axes.y(y)}" r="6" fill="{colour}" class="point">'
                f"<title>{html.escape(tip)}</title></circle>"
            )
            if one.labels:
                body.append(text(axes.x(x) + 9, axes.y(y) - 7, one.labels[index], "strong"))
    return figure("".join(body), f"{y_label} against {x_label}")


def bars(categories: Sequence[str], series: Sequence[Series], y_label: str) -> str:
    """A group of bars for each category, one of each series; `y` holds their heights, `x` is not read."""
    most = max((max(one.y) for one in series), default=1) or 1
    axes = _Axes((0, 0), (len(categories), most * 1.05))
    body = [_frame(axes, "", y_label, x_ticks=False)]
    width = (axes.x(1) - axes.x(0)) * 0.8 / max(len(series), 1)
    turned = len(categories) > 9
    for index, category in enumerate(categories):
        middle, below = axes.x(index + 0.5), HEIGHT - _BOTTOM + 16
        turn = f' transform="rotate(-40 {middle} {below})" text-anchor="end"' if turned else ' text-anchor="middle"'
        body.append(f'<text x="{middle}" y="{below}" class="tick"{turn}>{html.escape(category)}</text>')
        for place, one in enumerate(series):
            left, top = axes.x(index + 0.1) + place * width, axes.y(one.y[index])
            tip = html.escape(f"{one.name}, {category}: {one.y[index]:,.0f}")
            body.append(
                f'<rect x="{left:.4g}" y="{top:.4g}" width="{width * 0.9:.3g}" height="{axes.y(0) - top:.4g}" rx="1" '
                f'fill="{one.colour}"><title>{tip}</title></rect>'
            )
    return figure("".join(body), f"{y_label} by decision")


def bands(series: Sequence[tuple[Series, Sequence[float], Sequence[float]]], x_label: str, y_label: str) -> str:
    """Lines with a band around each: (series, lower [N], upper [N])."""
    everything = [dataclasses.replace(one, y=edge) for one, *edges in series for edge in edges]
    axes = _axes([*(one for one, *_ in series), *everything])
    body = [_frame(axes, x_label, y_label)]
    for one, lower, upper in series:
        forth = [(axes.x(x), axes.y(y)) for x, y in zip(one.x, upper)]
        back = [(axes.x(x), axes.y(y)) for x, y in zip(one.x, lower)][::-1]
        body.append(f'<path d="{_path(forth + back)}Z" fill="{one.colour}" opacity="0.15"/>')
    for one, *_ in series:
        points = [(axes.x(x), axes.y(y)) for x, y in zip(one.x, one.y)]
        body.append(f'<path d="{_path(points)}" fill="none" stroke="{one.colour}" stroke-width="1.8"/>')
    return figure("".join(body), f"{y_label} over {x_label}")


def areas(
    names: Sequence[str],
    steps: Sequence[float],
    shares: np.ndarray,
    colour: Callable[[int, int], str],
) -> str:
    """A grid of small charts of shares that add up to 1, over a common time.

    Args:
      names: [D] titles.
      steps: [T] times, ascending.
      shares: float [T, D, C]; 0 where a decision has fewer choices.
      colour: (d, c) -> CSS colour.
    """
    rows = -(-len(names) // 8)
    columns = -(-len(names) // rows)
    width, height, gap, head = 760 / columns - 12, 56.0, 12.0, 18.0
    span = max(steps[-1] - steps[0], 1)
    across = [round((step - steps[0]) / span * width, 1) for step in steps]
    body = []
    for d, name in enumerate(names):
        left, top = (d % columns) * (width + gap), (d // columns) * (height + head + gap)
        body.append(f'<g transform="translate({left:.5g} {top + head:.5g})">{text(0, -5, name, "tick")}')
        edges = np.concatenate([np.zeros((len(steps), 1)), np.cumsum(shares[:, d], axis=-1)], axis=-1)
        for c in range(shares.shape[-1]):
            if shares[:, d, c].any():
                upper = [(x, round(height * (1 - share), 1)) for x, share in zip(across, edges[:, c + 1])]
                lower = [(x, round(height * (1 - share), 1)) for x, share in zip(across, edges[:, c])]
                body.append(f'<path d="{_path(upper + lower[::-1])}Z" fill="{colour(d, c)}"/>')
        body.append("</g>")
    return figure(
        "".join(body), "probabilities over time", columns * (width + gap) - gap, rows * (height + head + gap) - gap
    )


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """An SVG path through points; None lifts the pen."""
    commands, down = [], False
    for point in points:
        if point is not None:
            commands.append(f"{'L' if down else 'M'}{point[0]:.5g} {point[1]:.5g}")
        down = point is not None
    return "".join(commands)


def _axes(series: Sequence[Series], margin: float = 0.04) -> _Axes:
    low, high = [], []
    for values in ([x for one in series for x in one.x], [y for one in series for y in one.y]):
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        span = (max(finite) - min(finite)) or abs(max(finite)) or 1.0
        low.append(min(finite) - margin * span)
        high.append(max(finite) + margin * span)
    return _Axes(tuple(low), tuple(high))


def _frame(axes: _Axes, x_label: str, y_label: str, x_ticks: bool = True) -> str:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    for value in _ticks(axes.low[1], axes.high[1]):
        y = axes.y(value)
        parts.append(f'<path d="M{_LEFT} {y}H{right}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4}" class="tick" text-anchor="end">{short(value)}</text>')
    for value in _ticks(axes.low[0], axes.high[0]) if x_ticks else ():
        parts.append(
            f'<text x="{axes.x(value)}" y="{bottom + 17}" class="tick" text-anchor="middle">{short(value)}</text>'
        )
    parts.append(f'<path d="M{_LEFT} {bottom}H{right}" class="axis"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 6}" class="label" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(13 {(bottom + _TOP) / 2}) rotate(-90)" class="label" text-anchor="middle">'
        f"{html.escape(y_label)}</text>"
    )
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    return [float(value) for value in MaxNLocator(5).tick_values(low, high) if low <= value <= high]


def short(value: float) -> str:
    """A number for people, with an SI prefix where it is large.

    >>> short(30e6), short(0.25)
    ('30 M', '0.25')
    """
    return EngFormatter(sep=" ")(value) if abs(value) >= 1000 else f"{value:.4g}"
