"""How long a large board's statistics take: `python benchmarks/board_statistics.py`.

Made up are the scores of METHODS methods and their base, under SCORERS scorers, with SEEDS train
seeds over PROMPTS prompts of two sets, some of equal text: 3.8 million scores by default. Each part
is timed alone, and the process's peak memory is printed at the end. OMP_NUM_THREADS=1 keeps it on
one core.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bench.statistics.adjustment import adjusted_rate
from bench.statistics.bradley_terry import count, fit, standard_errors
from bench.statistics.correlation import spearman
from bench.statistics.effects import effect, worst_scorer
from bench.statistics.joint import diversity, joint
from bench.statistics.model import Design, Floats, design, outcomes

FACTS = ("clipping", "contrast", "saturation", "sharpness")


@dataclass(frozen=True)
class Board:
    """Scores as result files hold them, by scorer, with the base apart."""

    design: Design
    scores: dict[str, Floats]
    """scorer -> [methods, train seeds, prompts, images]."""
    base: dict[str, Floats]
    """scorer -> [prompts, images]."""
    facts: dict[str, Floats]
    base_facts: dict[str, Floats]
    diversity: Floats
    """[methods, train seeds, prompts]."""
    base_diversity: Floats
    """[prompts]."""

    @property
    def methods(self) -> range:
        return range(len(self.diversity))


def made_up(methods: int, prompts: int, scorers: int, seeds: int) -> Board:
    rng = np.random.default_rng(0)
    quality, hardness = rng.normal(0, 0.2, (methods, 1, 1)), rng.normal(size=prompts)

    def columns(names: tuple[str, ...]) -> tuple[dict[str, Floats], dict[str, Floats]]:
        base = {n: hardness + rng.normal(size=prompts) for n in names}
        ours = {n: base[n] + quality + rng.normal(0, 0.8, (methods, seeds, prompts)) for n in names}
        return (
            {n: values[..., None] for n, values in ours.items()},
            {n: values[..., None] for n, values in base.items()},
        )

    scores, base = columns(tuple(f"scorer {i}" for i in range(scorers)))
    facts, base_facts = columns(FACTS)
    texts = [f"prompt {i % (prompts * 19 // 20)}" for i in range(prompts)]
    sets = ["one" if i % 2 else "other" for i in range(prompts)]
    return Board(
        design=design(texts, sets),
        scores=scores,
        base=base,
        facts=facts,
        base_facts=base_facts,
        diversity=rng.gamma(5, size=(methods, seeds, prompts)),
        base_diversity=rng.gamma(5, size=prompts),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", type=int, default=50)
    parser.add_argument("--prompts", type=int, default=3200)
    parser.add_argument("--scorers", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    board = made_up(**vars(parser.parse_args()))
    start = time.perf_counter()
    second_views(board)
    print(f"{'all':<22} {time.perf_counter() - start:6.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{'peak memory':<22} {peak / (2**20 if sys.platform == 'darwin' else 2**10):6.0f} MB")


def second_views(board: Board) -> None:
    """What stands beside win rate and rank: sizes, panels, adjusted rates, strengths."""
    plan, methods = board.design, board.methods
    with lap("sizes"):
        for m in methods:
            worst_scorer({s: effect(v[m], board.base[s], plan) for s, v in board.scores.items()})
    with lap("drift of facts"):
        for m in methods:
            for name, values in board.facts.items():
                effect(values[m], board.base_facts[name], plan)
    with lap("scorer correlation"):
        spearman({s: v.mean(axis=(1, 3)) - board.base[s][:, 0] for s, v in board.scores.items()})
    with lap("domination, collapse"):
        for m in methods:
            joint({s: v[m] for s, v in board.scores.items()}, board.base, plan)
    with lap("diversity"):
        for m in methods:
            diversity(board.diversity[m], board.base_diversity, plan)
    with lap("adjusted win rates"):
        for m in methods:
            facts = {name: values[m] for name, values in board.facts.items()}
            won = [
                outcomes(v[m], np.broadcast_to(board.base[s], v[m].shape))
                for s, v in board.scores.items()
            ]
            adjusted_rate(np.mean(won, axis=0), facts, board.base_facts, plan)
    with lap("Bradley-Terry"):
        players = np.stack(
            [
                np.concatenate([np.broadcast_to(board.base[s], v[:1].shape), v]).swapaxes(0, 1)
                for s, v in board.scores.items()
            ]
        )
        compared = count(players, plan)
        fitted = fit(compared.wins)
        if fitted is not None:
            standard_errors(fitted, compared, plan)


@contextmanager
def lap(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{what:<22} {time.perf_counter() - start:6.2f} s", flush=True)


if __name__ == "__main__":
    main()
