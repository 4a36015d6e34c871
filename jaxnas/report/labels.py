"""Names beside points, where they cover least of other names, points and lines."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

# Where a name may stand, seen from its point, in points: across (from the edge that faces the point) and up.
_OFFSETS = ((9, 12), (9, -12), (-9, 12), (-9, -12), (0, 19), (0, -19), (14, -25), (14, 25), (-14, -25), (-14, 25))
_OUTSIDE = 1e3  # how many pixels that are covered one outside the axes is worth


def place_labels(
    axes: Axes, points: np.ndarray, names: Sequence[str], lines: Sequence[np.ndarray] = (), **style: object
) -> None:
    """Writes names beside points; the limits of the axes must not change afterwards.

    Args:
      axes: with everything else drawn.
      points: float [N, 2]; all are kept clear.
      names: [N], "" for none.
      lines: float [.., 2] each, the corners of lines that are kept clear.
      style: of the texts.
    """
    axes.figure.draw_without_rendering()  # settles the layout: from here on, places in pixels are final
    scale = axes.figure.dpi / 72
    pixels = axes.transData.transform(np.reshape(points, (-1, 2)))
    taken = [np.concatenate([pixels - 7 * scale, pixels + 7 * scale], axis=1)]
    taken += [_along(axes.transData.transform(line), 3 * scale) for line in lines if len(line) > 1]
    if axes.get_legend() is not None:
        taken.append(axes.get_legend().get_window_extent().extents[None])
    frame = axes.get_window_extent().extents
    for point, pixel, name in zip(points, pixels, names):
        if not name:
            continue
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", va="center", **style)
        box = text.get_window_extent()
        left = {1: 0.0, -1: -box.width, 0: -box.width / 2}
        corners = np.array([[scale * dx + left[np.sign(dx)], scale * dy - box.height / 2] for dx, dy in _OFFSETS])
        boxes = np.concatenate([pixel + corners, pixel + corners + [box.width, box.height]], axis=1)
        outside = np.maximum(frame[:2] - boxes[:, :2], 0).sum(1) + np.maximum(boxes[:, 2:] - frame[2:], 0).sum(1)
        best = int(np.argmin(_overlap(boxes, np.concatenate(taken)) + _OUTSIDE * outside))
        text.set_position(_OFFSETS[best])
        text.set_horizontalalignment({1: "left", -1: "right", 0: "center"}[np.sign(_OFFSETS[best][0])])
        taken.append(boxes[best : best + 1])


def _along(corners: np.ndarray, reach: float) -> np.ndarray:
    """Small boxes along a line, float [.., 4]."""
    parts = [
        np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / (2 * reach)))
        for start, end in zip(corners, corners[1:])
    ]
    places = np.concatenate(parts)
    return np.concatenate([places - reach, places + reach], axis=1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area of each box [N, 4] that others [M, 4] cover, float [N]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=-1).sum(1)
