"""What is swept for each variant, such as a learning rate: the best value, and whether a better one may lie beyond."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.declaration import Experiment, points_of

__all__ = ["Point", "at_edge", "best_point", "points"]

Point = tuple[tuple[str, float], ...]  # settings by dotted name, and their values


def best_point(tried: Mapping[Point, float | None], experiment: Experiment) -> Point:
    """The point with the best figure, the lowest of several; where a figure is not known, the middle point."""
    figures = {point: figure for point, figure in tried.items() if figure is not None}
    if len(figures) < len(tried):
        return sorted(tried)[len(tried) // 2]
    return (min if experiment.figure.better == "lower" else max)(sorted(figures), key=figures.__getitem__)


def at_edge(best: Point, swept: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """For each setting whose best value is the first or last that was tried: the next value, by the same ratio."""
    beyond = {}
    for name, value in best:
        values = swept[name]
        if len(values) > 1 and value in (values[0], values[-1]):
            neighbour = values[1] if value == values[0] else values[-2]
            beyond[name] = [float(f"{value * value / neighbour:.3g}")]
    return beyond


def points(swept: Mapping[str, list[float]]) -> list[Point]:
    """All combinations of the values, in order."""
    return [tuple(point.items()) for point in points_of(swept)]
