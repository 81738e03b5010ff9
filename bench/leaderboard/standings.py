"""The standings of a board: records, as `bench.leaderboard.comparing` makes them of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bench.leaderboard.names import called
from bench.leaderboard.results import Budget, Cost
from bench.statistics.adjustment import Adjusted
from bench.statistics.correlation import ScorerCorrelation
from bench.statistics.effects import Effect
from bench.statistics.joint import Diversity, Joint
from bench.statistics.model import Estimand, WinRate

HELD_OUT = "held-out"
"""Stands for the held-out mean where a scorer's name is expected."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What lies beside a method's win rates."""

    effects: Mapping[str, Effect]
    """scorer -> size of the difference."""
    worst_scorer: str | None
    """The scorer with the lowest mean difference."""
    joint: Joint | None
    """How often it dominates the base by all its scorers, and is dominated; None with one."""
    diversity: Diversity | None
    """Of a prompt's images, over the base's; None with one image seed."""
    drift: Mapping[str, Effect]
    """fact of an image ("saturation", ...) -> size of its difference from the base's."""
    adjusted: Adjusted | None
    """`Row.common` at equal looks; None where looks or common scorers are not known."""
    weight_distance: float | None
    """Of the weights from the start's, over theirs; mean over seeds, None where not known."""
    marks: tuple[str, ...]
    """Where what it was trained on rose while something held out fell, a clause each."""


@dataclass(frozen=True, kw_only=True)
class Strength:
    """A method's Bradley-Terry strength, under scorers of which each discriminates as it does."""

    method: str
    variant: str
    log_odds: float
    """Against the base, under an average scorer."""
    standard_error: float | None
    """None: too few prompts to tell."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike a section's scorers see what methods change."""

    correlation: ScorerCorrelation
    warnings: tuple[str, ...]
    """Pairs that are no two judges, a clause each."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method under one protocol, over one or all of its train seeds."""

    method: str
    """Its whole spec."""
    variant: str = ""
    """Tells methods of one spec apart that were not made of the same; '' where there is one."""
    shown: str
    """What tables call it: the spec with long paths cut, and the variant."""
    label: str
    base: bool = False
    """True: the untouched backbone; it stands at 50% by definition and has no win rates."""
    seeds: tuple[int, ...] = ()
    """Train seeds that finished; () where all failed."""
    in_loop: tuple[str, ...] = ()
    scores: Mapping[str, WinRate] = field(default_factory=dict)
    """scorer -> win rate; a scorer missing here is a gap."""
    held_out: WinRate | None = None
    """Mean over its own `held_out_scorers`, which may be other ones than another row's."""
    held_out_scorers: tuple[str, ...] = ()
    common: WinRate | None = None
    """Mean over `Section.ranked_by`, held out for every row; None where there are none."""
    adjusted_p: float | None = None
    """Of `common`, among all pairs that are compared; None for a checkpoint."""
    rank_set: tuple[int, int] | None = None
    """Best and worst rank that the comparisons of all pairs leave; None: not ranked."""
    letters: str = ""
    """Rows that share one are not separated."""
    panel: Panel | None = None
    """None for the base and where nothing finished."""
    budget: Budget | None
    """Steps and pairs of one seed (kept and dropped: of the lowest seed)."""
    cost: Cost | None
    """Means over seeds; memory is the maximum."""
    provenance: Mapping[str, tuple[str, ...]]
    """"device", "torch", ... -> on what its seeds were made."""
    failures: tuple[str, ...] = ()
    """Why seeds are missing."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells the row from the others."""
        return self.method, self.variant

    @property
    def standing(self) -> float | None:
        """What unranked rows are ordered by: `common`; 0.5 for the base."""
        if self.base:
            return 0.5
        return self.common.win_rate if self.common else None

    @property
    def estimand(self) -> Estimand | None:
        """What its numbers speak of; None for the base and where nothing finished."""
        return next((rate.estimand for rate in self.scores.values()), None)


def names_of_rows(rows: Iterable[Row]) -> dict[tuple[str, str], str]:
    """Key of a row -> what it is called in a sentence or a heading; no two are called the same."""
    return called((row.key, row.label, row.shown) for row in rows)


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """A win rate on part of the prompts, all train seeds of a method pooled."""

    method: str
    variant: str
    prompt_set: str
    dimension: str
    """What the group is a value of, e.g. "category"; '' for the whole prompt set."""
    group: str
    scorer: str
    """A scorer's name or `HELD_OUT`."""
    in_loop: bool
    result: WinRate


@dataclass(frozen=True, kw_only=True)
class HeadToHead:
    """One method against another on the same prompts, noise and train seeds."""

    method: str
    variant: str
    other: str
    other_variant: str
    rate: WinRate
    """Of `method` over `other`, over `Section.ranked_by`. Where methods are tested, its interval
    holds for all pairs of the section at once."""
    adjusted_p: float | None
    """Among all pairs of the section; None of checkpoints."""

    @property
    def turned(self) -> HeadToHead:
        """The same pair, said of the other."""
        rate = self.rate
        turned = replace(
            rate,
            win_rate=1 - rate.win_rate,
            low=1 - rate.high,
            high=1 - rate.low,
            centre=1 - rate.centre,
            seed_rates=tuple(1 - value for value in rate.seed_rates),
            wins=rate.losses,
            losses=rate.wins,
        )
        return replace(
            self,
            method=self.other,
            variant=self.other_variant,
            other=self.method,
            other_variant=self.variant,
            rate=turned,
        )

    @property
    def separated(self) -> bool:
        """Whether one is better, with 5% for any error among all pairs."""
        return self.adjusted_p is not None and not self.rate.low <= 0.5 <= self.rate.high


@dataclass(frozen=True, kw_only=True)
class Section:
    """All methods under one protocol, best first."""

    heading: str
    """Names of backbone and pairs, and in what it differs from sections of the same names."""
    differs: str
    """All in which it differs from those, in words; '' where there are none."""
    protocol: str
    """Digest of all that its cells have in common."""
    signature: str
    """By what its numbers were made, see `bench.leaderboard.signature`: of all its scorers and
    train seeds; `Signature.narrowed` has that of one number."""
    evaluation: str
    """Digest of what was evaluated how: sections that share it share their base."""
    backbone: str
    pairs: str
    """'' where nothing was trained."""
    recipes: tuple[str, ...]
    scorers: tuple[str, ...]
    """Columns: by name, those declared held out last."""
    declared_held_out: tuple[str, ...]
    ranked_by: tuple[str, ...]
    """Scorers that are held out for every row: what methods are compared by."""
    unranked_because: str
    """Why no row has a rank, a clause; '' where some have."""
    answer: str
    """Which method is better, in a sentence or two."""
    head_to_head: tuple[HeadToHead, ...]
    """Every pair of rows that share train seeds, the base's aside."""
    strengths: tuple[Strength, ...]
    """A second view: over all scorers that a method has held out, judged by how each judges."""
    discriminations: Mapping[str, float]
    """scorer -> how well it tells methods apart, 1 on average."""
    agreement: Agreement | None
    best_of_many: float | None
    """Win rate that the best of as many methods shows by chance if all equal the base; None where
    fewer than two are compared."""
    rows: tuple[Row, ...]
    seed_rows: tuple[Row, ...]
    """The same rows, one a train seed."""
    groups: tuple[GroupRow, ...]
    prompt_sets: Mapping[str, int]
    """prompt set -> prompts."""
    images_per_prompt: int
    distinct_prompts: int
    variants: tuple[str, ...]
    """In what methods of one spec differ, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A whole board."""

    sections: tuple[Section, ...]
