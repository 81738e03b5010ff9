"""Numbers as the report prints them, the same on every machine."""

from __future__ import annotations

from bench.statistics.model import WinRate

GAP = "–"
ODDLY_SMALL = 0.001


def rounded(value: float, digits: int = 6) -> float:
    """Six digits: finer than any interval, coarser than differences between platforms."""
    return float(f"{value:.{digits}g}")


def percent(share: float) -> str:
    """A share as 61.2."""
    return f"{100 * rounded(share):.1f}"


def span(low: float, high: float) -> str:
    """An interval of shares as [57.1, 65.2]."""
    return f"[{percent(low)}, {percent(high)}]"


def p_value(p: float | None) -> str:
    """A probability to two digits; the very small ones as a bound."""
    if p is None:
        return GAP
    return "< 0.001" if p < ODDLY_SMALL else f"{rounded(p):.2g}"


def duration(seconds: float) -> str:
    """Seconds as 41 s, 3.2 min or 5.1 h."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{rounded(seconds / size):,.1f} {unit}"
    return f"{rounded(seconds):,.0f} s" if seconds >= 1 else f"{rounded(seconds):.1f} s"


def count(number: float) -> str:
    """Large numbers as 63.7 k, 1.2 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{rounded(number / size):.3g}{unit}"
    return f"{rounded(number):.3g}"


def in_words(rate: WinRate) -> str:
    """A win rate, its interval and what it speaks of."""
    seeds = "1 train seed" if rate.seeds == 1 else f"{rate.seeds} train seeds"
    n = f"n = {rate.prompts:,}"
    return f"{percent(rate.win_rate)}% {span(rate.low, rate.high)}, {seeds}, {n}"
