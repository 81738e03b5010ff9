"""Training's curve as result files keep it: few points, the same ones everywhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

DIGITS = 6
"""Significant digits of a point: it is drawn, not computed with."""


def thinned(curve: Mapping[str, np.ndarray], most: int) -> dict[str, tuple[float, ...]]:
    """At most so many steps of a curve, evenly spread, the first and the last among them.

    Columns without any number, such as the margin of a method that has none, are left out; then
    steps at which another column has none.

    Args:
        curve: column -> float64 [steps], "step" among them; or {}.
        most: steps, two or more.
    """
    columns = {name: values for name, values in curve.items() if np.isfinite(values).any()}
    if not columns:
        return {}
    whole = np.flatnonzero(np.all([np.isfinite(values) for values in columns.values()], axis=0))
    if len(whole) > most:
        whole = whole[np.arange(most) * (len(whole) - 1) // (most - 1)]
    if not len(whole):
        return {}
    return {
        name: tuple(map(float if name == "step" else _short, values[whole]))
        for name, values in columns.items()
    }


def weight_distance(curve: Mapping[str, np.ndarray]) -> float | None:
    """The relative weight change of the last step, as training reported it; None if it did not."""
    change = curve.get("relative_weight_change", np.zeros(0))[-1:]
    return float(change[0]) if len(change) and np.isfinite(change[0]) and change[0] >= 0 else None


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
