"""What must be known to read a section's tables, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bench.leaderboard.columns import GAP, Style, method_name
from bench.leaderboard.standings import Row, Section
from bench.statistics.model import LEVEL

KEY = (
    f"Win rate against the base [{LEVEL:.0%} interval]; ties count one half. *: in-loop, the "
    "method reads this scorer."
)
GENERAL = (
    "A win rate is the share of prompts whose image a scorer rates strictly above the "
    "untouched backbone's for the same prompt and noise. Ties count 0.5; where there are any, "
    "their share is given (`leaderboard.csv` has the rate without ties too). Images of a prompt, "
    "and scorers of a mean, are averaged within the prompt; every prompt set weighs the same.",
    f"[low, high]: {LEVEL:.0%} interval of the method where it was trained with two seeds or "
    "more: over prompts (equal texts are one) and trainings, both random. With one seed it is "
    "of this checkpoint: over prompts alone, without rank and p, since another training may "
    "come out otherwise. docs/statistics.md has the model and how often it covers the truth.",
    "rank: the ranks that the comparisons of all pairs, base included, leave open; with 95% all "
    "of them hold at once. Rows that share a letter are not separated. Ranks and head-to-heads "
    "are over the scorers that are held out for every row.",
    "p: of this comparison with the base alone, from the model that makes its interval; behind it, "
    "in brackets, of all pairs together (max-t), by which rows are called separated: an interval "
    "may exclude 50% by itself, and its row not be separated from the base. Means over a row's "
    "own held-out scorers, where these differ from row to row, rank nothing. Groups are "
    "descriptive.",
    "\\*: in-loop, the scorer's rewards labelled the method's training pairs, or the method "
    "reads the scorer otherwise.",
    "seconds: labelling and training, with encoding and inversion (mean over seeds). "
    "NFE: denoiser evaluations (number of function evaluations, one latent through the "
    "denoiser once), counted where the denoiser is asked: of training, inversion and "
    "references included, and of sampling all images, guidance and a method's own inference "
    "included. memory: peak of training.",
    "Beside the win rates, as far as results have it: difference, mean over prompts in standard "
    "deviations (sd) of the base's scores; a method may win less often and still lead in the mean. "
    "worst scorer: the one with the smallest difference. dominates / dominated: share of prompts "
    "where the image is at least as good by every scorer and better by one, and the reverse (joint "
    "domination and collapse rates). strength: log-odds against the base, ± its standard error, in "
    "a Bradley-Terry model over all scorers that the method has held out, each with a "
    "discrimination of its own. diversity: how much the images of one prompt differ, over the "
    "base's. looks: drift of the images' saturation, contrast, sharpness and clipping. at equal "
    "looks: the win rate where these are the base's. weights moved: distance of the weights from "
    "the start's, over their norm.",
    "Scorers that share a backbone agree more than independent judges would.",
)


def section_notes(section: Section, style: Style) -> list[str]:
    """What holds for this section alone: prompts, budgets, seeds, gaps."""
    text = style.text
    distinct = section.distinct_prompts
    sets = ", ".join(f"{text(name)} ({n})" for name, n in section.prompt_sets.items())
    notes = [f"Recipe: {text(', '.join(section.recipes))}."]
    if section.backbone not in section.heading:
        notes.append(f"Start model: {style.code(section.backbone)}.")
    if section.differs:
        notes.append(
            "Methods are ranked only with those of the same protocol; this section's differs from "
            f"that of others here: {text(section.differs)}."
        )
    notes.append(
        f"n = {sum(section.prompt_sets.values())} prompts ({distinct} distinct), "
        f"{section.images_per_prompt} image(s) each: {sets}."
    )
    # Pipes are escaped for tables; here they would show the escape, and no copy could be read.
    notes.append(f"Signature: {style.code(section.signature)}.".replace("\\|", "|"))
    if section.best_of_many is not None:
        notes.append(
            f"If no method differed from the base, the best of them would still show "
            f"{100 * section.best_of_many:.1f}% on average."
        )
    done = [row for row in section.rows if row.seeds]
    notes += _by_value("Budget", done, _budget, style)
    notes += _by_value("Train seeds", done, lambda row: ", ".join(map(str, row.seeds)), style)
    notes += _seed_rates(done, style)
    notes += _by_value(
        "Own held-out scorers",
        done,
        lambda row: text(", ".join(row.held_out_scorers) or "none"),
        style,
    )
    if declared := text(", ".join(section.declared_held_out)):
        notes.append(f"†: declared held out ({declared}), never used to label.")
    for key in sorted({key for row in section.rows for key in row.provenance}):
        made_with = partial(_made_with, key)
        made = [row for row in section.rows if made_with(row)]
        if len(set(map(made_with, made))) > 1:
            notes += _by_value(f"Not all made alike, {key}", made, made_with, style)
    notes += [f"{text(sentence)}." for sentence in section.variants]
    notes += [
        f"{style.code(row.shown)} is {style.code(row.method)}."
        for row in section.rows
        if not row.shown.startswith(row.method)
    ]
    for row in section.rows:
        for mark in row.panel.marks if row.panel else ():
            notes.append(f"Beware of {method_name(row, style)}: {text(mark)}.")
    if section.agreement:
        notes += [f"{text(warning)}." for warning in section.agreement.warnings]
        correlation = section.agreement.correlation
        notes.append(
            f"By how they agree, the {len(correlation.scorers)} scorers are worth "
            f"{correlation.effective:.1f} independent ones."
        )
    for row in section.rows:
        gaps = list(row.failures)
        if missing := [s for s in section.scorers if row.seeds and s not in row.scores]:
            every = "every image of it or of the base"
            gaps.insert(0, f"{', '.join(missing)} did not score {every}")
        notes += [f"{GAP} {method_name(row, style)}: {text(gap)}." for gap in gaps]
    return notes


def _seed_rates(rows: Sequence[Row], style: Style) -> list[str]:
    """Each training's rate: with few of them, nothing sums them up."""
    several = [row for row in rows if row.common and len(row.seeds) > 1]
    if not several:
        return []
    each = "; ".join(
        f"{method_name(row, style)} "
        f"{', '.join(f'{100 * rate:.1f}' for rate in row.common.seed_rates)}"
        for row in several
        if row.common
    )
    spread = several[0].common
    pooled = spread is not None and spread.pooled
    sd = (
        f"{100 * (spread.seed_sd or 0.0):.1f} points, pooled"
        if pooled and spread
        else ", ".join(f"{100 * (row.common.seed_sd or 0.0):.1f}" for row in several if row.common)
    )
    return [f"Of each train seed, in %: {each}. Standard deviation between trainings: {sd}."]


def _made_with(key: str, row: Row) -> str:
    """The devices, or the versions of a library, that the seeds of a row were made with."""
    # Two GPUs of a machine are alike.
    return ", ".join(sorted({text.split(":")[0] for text in row.provenance.get(key, ())}))


def _by_value(
    what: str, rows: Sequence[Row], value: Callable[[Row], str], style: Style
) -> list[str]:
    """One note where all rows agree, else one naming the rows of each value."""
    methods: dict[str, list[str]] = {}
    for row in rows:
        methods.setdefault(value(row), []).append(method_name(row, style))
    if len(methods) == 1:
        return [f"{what}: {next(iter(methods))}."]
    return [f"{what}: {text} ({', '.join(names)})." for text, names in sorted(methods.items())]


def _budget(row: Row) -> str:
    budget = row.budget
    if budget is None or not budget.steps:
        return "none"
    text = f"{budget.steps:,} steps, {budget.pairs_seen:,} pairs seen"
    return f"{text} of {budget.pairs_kept:,} kept and {budget.pairs_dropped:,} dropped"
