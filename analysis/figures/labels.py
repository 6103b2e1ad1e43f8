"""Names beside points: short, never on top of each other, never on a marker."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FONT_PT = 7.5
GID = "name of a point"
"""Group id of the texts that :func:`place` adds, by which tests find them."""

_GAP_PT = 3.0
_PAD_PT = (1.5, 0.75)
_RINGS_PT = np.concatenate((np.arange(0, 40, 3.0), np.geomspace(42, 400, 30)))
_REACH = 1 / 3
"""Most distance of a name from its point, as a share of the diagonal of its panel."""
_PASSES = 4
_CONSIDERED = 250
_ANGLES = np.arange(0, 360, 15) * np.pi / 180
_LEADER_PT = 4.0
_SAMPLES = 12
# Costs of what a label should avoid, in pt of distance.
_COST_CROSSING = 8.0
_COST_MARKER = 30.0
_COST_AMBIGUOUS = 2.0
_COST_LINE = 4.0


class _Candidates(NamedTuple):
    """Places for one label: boxes (m, 4) as x0, y0, x1, y1, leaders (m, s, 2), distances (m,)."""

    boxes: Floats
    leaders: Floats
    distances: Floats


def shorten(names: Sequence[str]) -> dict[str, str]:
    """Shorten the first part of dotted names as far as it stays unambiguous.

    >>> shorten(["features.3", "classifier.1", "avgpool"])["features.3"]
    'f.3'
    >>> shorten(["layer1.0", "layer2.0"])["layer1.0"]
    'layer1.0'
    """
    heads = {name.partition(".")[0] for name in names}
    short = {head: _prefix(head, heads) for head in heads}
    parts = [(name, *name.partition(".")) for name in names]
    return {
        name: f"{short[head]}{dot}{rest}" if dot and len(head) - len(short[head]) > 2 else name
        for name, head, dot, rest in parts
    }


def _prefix(head: str, heads: set[str]) -> str:
    """The shortest beginning of `head` with which no other of `heads` begins."""
    others = heads - {head}
    lengths = range(1, len(head))
    return next(
        (head[:n] for n in lengths if not any(other.startswith(head[:n]) for other in others)), head
    )


def place(
    axes: Axes,
    points: Floats,
    names: Sequence[str],
    markers_pt: Sequence[float],
    soft: Floats,
    colours: Sequence[str],
) -> int:
    """Write a name beside each point, with a thin leader where it had to move away.

    Every label goes to the free place nearest to its point. No label overlaps another label or the
    marker of a named point, leaves the axes, or goes so far that its point is hard to find. Where
    there is a choice, a label avoids what is `soft`, leaders, and markers that its own leader would
    cross. The first points choose first.

    Parameters
    ----------
    axes
        Axes whose limits and position in the figure are final.
    points
        Array (n, 2) in data coordinates.
    names
        n texts.
    markers_pt
        Radius of each point's marker in pt (1/72 inch).
    soft
        Array (k, 2) in data coordinates: places along lines, and markers without a name, that
        should not be covered.
    colours
        Colour of each text.

    Returns
    -------
    How many names found no room and were left out.
    """
    if not len(points):
        return 0
    pixel = _figure(axes).dpi / 72
    anchors = axes.transData.transform(points) / pixel
    radii = np.asarray(markers_pt, dtype=np.float64)
    frame = axes.get_window_extent()
    inside = np.array([frame.x0, frame.y0, frame.x1, frame.y1]) / pixel
    discs = np.column_stack((anchors - radii[:, None], anchors + radii[:, None]))
    avoided = axes.transData.transform(soft) / pixel if len(soft) else np.empty((0, 2))
    options = [
        _candidates(anchor, radius, size, inside, discs)
        for anchor, radius, size in zip(anchors, radii, _sizes(axes, names), strict=True)
    ]
    placed = _choose(options, anchors, discs, avoided)
    kept = sorted(placed)
    boxes = np.array([options[index].boxes[placed[index]] for index in kept]).reshape(-1, 4)
    texts = [(names[index], colours[index]) for index in kept]
    _draw(axes, texts, anchors[kept], boxes, radii[kept], inside)
    return len(points) - len(kept)


def _sizes(axes: Axes, names: Sequence[str]) -> Floats:
    """Width and height of each rendered name in pt, with some padding."""
    figure = _figure(axes)
    renderer = RendererAgg(*figure.bbox.size, figure.dpi)  # type: ignore[no-untyped-call]
    sizes = []
    for name in names:
        text = Text(0, 0, name, fontsize=FONT_PT, figure=figure)
        box = text.get_window_extent(renderer)
        sizes.append((box.width, box.height))
    in_points: Floats = np.array(sizes, dtype=np.float64) * 72 / figure.dpi
    in_points += 2 * np.array(_PAD_PT)
    return in_points


def _figure(axes: Axes) -> Figure:
    """The figure that axes are in."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _candidates(
    anchor: Floats, radius: float, size: Floats, inside: Floats, discs: Floats
) -> _Candidates:
    """Boxes on growing rings around a point that stay within reach and cover no marker."""
    reach = _REACH * np.hypot(*(inside[2:] - inside[:2]))
    rings = _RINGS_PT[reach >= _RINGS_PT]
    ring, angle = (grid.ravel() for grid in np.meshgrid(rings, _ANGLES, indexing="ij"))
    direction = np.column_stack((np.cos(angle), np.sin(angle)))
    away = (radius + _GAP_PT + ring)[:, None] + size / 2
    centres = anchor + direction * away
    boxes = np.hstack((centres - size / 2, centres + size / 2))
    keep = (boxes[:, :2] >= inside[:2]).all(axis=1) & (boxes[:, 2:] <= inside[2:]).all(axis=1)
    keep &= ~_overlaps(boxes, discs)
    boxes, nearest = boxes[keep], np.clip(anchor, boxes[keep, :2], boxes[keep, 2:])
    steps = np.linspace(0, 1, _SAMPLES)[None, :, None]
    leaders = anchor + (nearest - anchor)[:, None, :] * steps
    # A box beside its point reads best, then one above it, then one askew.
    askew = 1 - np.abs(direction[keep, 0])
    return _Candidates(boxes, leaders, np.hypot(*(nearest - anchor).T) + 2 * askew)


def _choose(
    options: Sequence[_Candidates], anchors: Floats, discs: Floats, soft: Floats
) -> dict[int, int]:
    """Choose a place for each label in turn, in several passes that know the other labels' places.

    Labels without a free place are not in the result.
    """
    own_cost = [
        option.distances
        + _COST_LINE * _covered(option.boxes, soft)
        + _COST_MARKER * _crossed(option.leaders, _others(discs, anchor))
        + _COST_AMBIGUOUS * _ambiguous(option.boxes, anchors, anchor)
        for option, anchor in zip(options, anchors, strict=True)
    ]
    chosen: dict[int, int] = {}
    for _, index in itertools.product(range(_PASSES), range(len(options))):
        others = [(options[other], best) for other, best in chosen.items() if other != index]
        boxes = np.array([option.boxes[best] for option, best in others]).reshape(-1, 4)
        leaders = np.array([option.leaders[best] for option, best in others])
        leaders = leaders.reshape(-1, _SAMPLES, 2)
        option = options[index]
        free = np.flatnonzero(~_overlaps(option.boxes, boxes))
        if not len(free):
            # A later pass may free a place.
            continue
        near = free[np.argsort(own_cost[index][free], kind="stable")[:_CONSIDERED]]
        crossings = (
            (_covered(option.boxes[near], leaders.reshape(-1, 2)) > 0)
            + _crossed(option.leaders[near], boxes)
            + _tangled(option.leaders[near], leaders)
        )
        cost = own_cost[index][near] + _COST_CROSSING * crossings
        chosen[index] = int(near[np.argmin(cost)])
    return chosen


def _overlaps(boxes: Floats, others: Floats) -> NDArray[np.bool_]:
    """Which of `boxes` (m, 4) overlap any of `others` (k, 4)."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    other_x0, other_y0, other_x1, other_y1 = others.T[:, None, :]
    across = (x0 < other_x1) & (other_x0 < x1)
    result: NDArray[np.bool_] = np.any(across & (y0 < other_y1) & (other_y0 < y1), axis=1)
    return result


def _covered(boxes: Floats, points: Floats) -> NDArray[np.int_]:
    """How many of `points` (k, 2) lie in each of `boxes` (m, 4)."""
    x0, y0, x1, y1 = boxes.T[:, :, None]
    x, y = points.T[:, None, :]
    count: NDArray[np.int_] = np.count_nonzero(
        (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1), axis=1
    )
    return count


def _crossed(leaders: Floats, boxes: Floats) -> NDArray[np.int_]:
    """How many of `boxes` (k, 4) each of `leaders` (m, s, 2) runs through."""
    x, y = np.moveaxis(leaders, -1, 0)[:, :, None, :]
    x0, y0, x1, y1 = boxes.T[:, None, :, None]
    inside = (x0 < x) & (x < x1) & (y0 < y) & (y < y1)
    count: NDArray[np.int_] = np.count_nonzero(np.any(inside, axis=-1), axis=1)
    return count


def _tangled(leaders: Floats, others: Floats) -> NDArray[np.int_]:
    """How many of the lines `others` (k, s, 2) each of `leaders` (m, s, 2) crosses."""
    a, b = leaders[:, None, 0], leaders[:, None, -1]
    c, d = others[None, :, 0], others[None, :, -1]

    def side(p: Floats, q: Floats, r: Floats) -> Floats:
        """On which side of the line from p to q the point r is."""
        turn: Floats = (q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0]
        return np.sign(turn)

    apart = (side(a, b, c) * side(a, b, d) >= 0) | (side(c, d, a) * side(c, d, b) >= 0)
    count: NDArray[np.int_] = np.count_nonzero(~apart, axis=1)
    return count


def _ambiguous(boxes: Floats, anchors: Floats, own: Floats) -> Floats:
    """By how much each box is nearer to another point than to its own, in pt."""
    nearest = np.clip(anchors, boxes[:, None, :2], boxes[:, None, 2:])
    distances = np.hypot(*np.moveaxis(nearest - anchors, -1, 0))
    beside = (anchors != own).any(axis=1)
    if not beside.any():
        return np.zeros(len(boxes))
    own_distance = distances[:, ~beside].min(axis=1)
    result: Floats = np.clip(own_distance + 1 - distances[:, beside].min(axis=1), 0, 6)
    return result


def _others(discs: Floats, anchor: Floats) -> Floats:
    """The markers other than the point's own."""
    beside = (discs[:, :2] >= anchor) | (discs[:, 2:] <= anchor)
    return discs[beside.any(axis=1)]


def _draw(
    axes: Axes,
    texts: Sequence[tuple[str, str]],
    anchors: Floats,
    boxes: Floats,
    radii: Floats,
    inside: Floats,
) -> None:
    """Add texts and leaders in axes coordinates, so that they stay in place."""
    size = inside[2:] - inside[:2]
    for (name, colour), anchor, box, radius in zip(texts, anchors, boxes, radii, strict=True):
        centre = ((box[:2] + box[2:]) / 2 - inside[:2]) / size
        axes.text(
            float(centre[0]),
            float(centre[1]),
            name,
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontsize=FONT_PT,
            color=colour,
            zorder=6,
            gid=GID,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        )
        end = np.clip(anchor, box[:2] + np.array(_PAD_PT), box[2:] - np.array(_PAD_PT))
        gap = float(np.hypot(*(end - anchor)))
        if gap - radius > _LEADER_PT:
            start = anchor + (end - anchor) * radius / gap
            line = (np.array([start, end]) - inside[:2]) / size
            axes.plot(*line.T, transform=axes.transAxes, color="0.55", lw=0.5, zorder=2)
