"""What lies beside the win rates: sizes, joint wins, variety, looks, strengths, agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.leaderboard.compared import Compared, parts
from bench.leaderboard.results import CellResult
from bench.leaderboard.standings import Agreement, Panel, Strength
from bench.leaderboard.towers import shared_towers
from bench.statistics import bradley_terry, correlation
from bench.statistics.adjustment import Adjusted, adjusted_rate
from bench.statistics.crossed import Interval
from bench.statistics.effects import effect, in_range, worst_scorer
from bench.statistics.joint import Diversity, diversity, joint, proxy_up_gold_down
from bench.statistics.model import Design, Floats, WinRate


def panel(
    method: Compared,
    base: Compared,
    rates: Mapping[str, WinRate],
    ranked_by: Sequence[str],
    design: Design,
) -> Panel:
    """What lies beside the win rates of one method.

    Args:
        method: its cells, one or more.
        base: the base's.
        rates: scorer -> the method's win rate.
        ranked_by: scorers that are held out for every method.
        design: of the prompts.
    """
    theirs = {scorer: values[0] for scorer, values in base.scores.items()}
    effects = {s: effect(values, theirs[s], design) for s, values in method.scores.items()}
    looks, base_looks = _facts(method.cells), _facts(base.cells)
    common = {fact: values for fact, values in looks.items() if fact in base_looks}
    drift = {fact: effect(values, base_looks[fact][0], design) for fact, values in common.items()}
    variety = _diversity(method.cells, base.cells, design)
    proxies = {s: _interval(rate) for s, rate in rates.items() if s in method.in_loop}
    judges = {s: _interval(rate) for s, rate in rates.items() if s not in method.in_loop}
    return Panel(
        effects=effects,
        worst_scorer=worst_scorer(effects),
        joint=joint(method.scores, {s: theirs[s] for s in method.scores}, design)
        if len(method.scores) > 1
        else None,
        diversity=variety,
        drift=drift,
        adjusted=_adjusted(method.outcomes, ranked_by, common, base_looks, design),
        weight_distance=_mean([cell.weight_distance for cell in method.cells]),
        marks=proxy_up_gold_down(proxies, judges, variety.ratio if variety else None),
    )


def _adjusted(
    outcomes: Mapping[str, Floats],
    ranked_by: Sequence[str],
    looks: Mapping[str, Floats],
    base_looks: Mapping[str, Floats],
    design: Design,
) -> Adjusted | None:
    if not looks or not ranked_by:
        return None
    mean = np.mean([outcomes[scorer] for scorer in ranked_by], axis=0)
    theirs = {fact: base_looks[fact][0] for fact in looks}
    return adjusted_rate(mean, looks, theirs, design)


def _interval(rate: WinRate) -> Interval:
    return Interval(estimate=rate.win_rate, low=rate.low, high=rate.high)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _facts(cells: Sequence[CellResult]) -> dict[str, Floats]:
    """fact -> [cells, prompts, images], of those that every cell has for all prompt sets."""
    known = [set(part.facts) for cell in cells for part in cell.evaluations]
    names = sorted(set.intersection(*known)) if known else []
    return {
        name: np.stack(
            [
                np.concatenate(
                    [np.array(p.facts[name]).reshape(p.prompts, -1) for p in parts(cell)]
                )
                for cell in cells
            ]
        )
        for name in names
    }


def _diversity(
    cells: Sequence[CellResult], base: Sequence[CellResult], design: Design
) -> Diversity | None:
    evaluations = [part for cell in (*cells, *base) for part in cell.evaluations]
    if not all(part.diversity for part in evaluations):
        return None

    def of(cell: CellResult) -> Floats:
        return np.concatenate([part.diversity for part in parts(cell)])

    return diversity(np.stack([of(cell) for cell in cells]), of(base[0]), design)


def strengths(
    methods: Mapping[tuple[str, str], Compared], base: Compared, design: Design
) -> tuple[tuple[Strength, ...], Mapping[str, float]]:
    """Bradley-Terry strengths of all methods, judged by every scorer that each has held out.

    Returns:
        Of each method, in their order, and scorer -> how well it tells methods apart (mean 1).
        Both empty where there is nothing to fit.
    """
    # Who has nothing held out is judged by nobody.
    methods = {name: one for name, one in methods.items() if one.held_out_scorers}
    scorers = sorted(
        {s for m in methods.values() for s in m.scores if s not in m.in_loop and s in base.scores}
    )
    seeds = sorted({cell.seed for m in methods.values() for cell in m.cells})
    if not scorers or not methods:
        return (), {}
    shape = next(iter(base.scores.values())).shape[1:]
    scores = np.full((len(scorers), len(seeds), 1 + len(methods), *shape), np.nan)
    for k, scorer in enumerate(scorers):
        scores[k, :, 0] = base.scores[scorer]
        for i, method in enumerate(methods.values(), start=1):
            if scorer in method.scores and scorer not in method.in_loop:
                places = [seeds.index(cell.seed) for cell in method.cells]
                scores[k, places, i] = method.scores[scorer]
    compared = bradley_terry.count(scores, design)
    fitted = bradley_terry.fit(compared.wins)
    if fitted is None:
        return (), {}
    errors = bradley_terry.standard_errors(fitted, compared, design)
    spreads = errors.strength if errors else (None,) * len(fitted.strength)
    found = tuple(
        Strength(method=name, variant=variant, log_odds=value, standard_error=error)
        for (name, variant), value, error in zip(
            methods, fitted.strength[1:], spreads[1:], strict=True
        )
    )
    return found, dict(zip(scorers, fitted.discrimination, strict=True))


def _changes(methods: Sequence[Compared], base: Compared, scorer: str) -> Floats:
    """[methods, prompts]: mean difference from the base."""
    counts = np.cumsum([len(method.cells) for method in methods])[:-1]
    together = np.concatenate([method.scores[scorer] for method in methods])
    difference = np.subtract(*in_range(together, base.scores[scorer]))
    return np.stack([part.mean(axis=(0, 2)) for part in np.split(difference, counts)])


def agreement(
    methods: Sequence[Compared], base: Compared, described: Mapping[str, Mapping[str, object]]
) -> Agreement | None:
    """How alike the scorers see what methods change; None of fewer than two."""
    everywhere = [set(method.scores) for method in methods]
    scorers = sorted(set.intersection(*everywhere)) if everywhere else []
    if len(scorers) < 2:
        return None
    found = correlation.spearman({s: _changes(methods, base, s) for s in scorers})
    cells = [cell for method in (base, *methods) for cell in method.cells]
    declared = {scorer: tower for cell in cells for scorer, tower in cell.towers.items()}
    shared = shared_towers({s: described[s] for s in scorers if s in described}, declared)
    pairs = correlation.dependent(found, shared)
    return Agreement(correlation=found, warnings=correlation.warnings(pairs))
