"""Which images of several subjects belong together: the same prompt and, where known, noise."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.comparison.subjects import Kind, Part, Subject
from bench.lib.errors import BenchError
from bench.lib.wording import listed, quoted
from bench.recipe.prompt_table import PromptTable, stratified


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Where one subject has the prompts of one table."""

    parts: tuple[int, ...]
    """[prompts]: number of the part."""
    rows: tuple[int, ...]
    """[prompts]: row in that part."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The prompts that every subject has images of, and which images of them are paired."""

    tables: tuple[PromptTable, ...]
    matched: tuple[tuple[Matched, ...], ...]
    """[subjects][tables]."""
    images: tuple[tuple[int, ...], ...]
    """[subjects]: positions among a prompt's images; as many for each subject."""
    seeds: tuple[int, ...]
    """What the paired images are called: image seeds, where all have them."""
    notes: tuple[str, ...]
    """What was left out, and what is not known, a sentence each."""


def pair(
    subjects: Sequence[Subject], given: PromptTable | None, limit: int | None = None
) -> Pairing:
    """Pair all subjects by prompt and noise.

    Args:
        subjects: two or more.
        given: the prompts of --prompts; None: those of the first subject, in the prompt sets that
            every run among them has.
        limit: prompts of each table at most, in the shares of their groups.

    Raises:
        BenchError: they share no prompt.
    """
    notes: list[str] = []
    tables, matched = [], []
    for whole in _tables(subjects, given):
        table = stratified(whole, limit) if limit else whole
        found = [_match(subject, table) for subject in subjects]
        kept = [row for row in range(len(table.texts)) if all(row in rows for rows in found)]
        notes += _left_out(table, subjects, found, kept)
        if kept:
            tables.append(
                PromptTable(
                    name=table.name,
                    texts=tuple(table.texts[row] for row in kept),
                    groups=tuple(table.groups[row] for row in kept),
                )
            )
            places = [[rows[row] for row in kept] for rows in found]
            matched.append([_matched(each) for each in places])
    if not tables:
        raise BenchError(_nothing_shared(subjects))
    images, seeds, said = _images(subjects)
    return Pairing(
        tables=tuple(tables),
        matched=tuple(zip(*matched, strict=True)),
        images=images,
        seeds=seeds,
        notes=(*notes, *said),
    )


def _matched(places: Sequence[tuple[int, int]]) -> Matched:
    parts, rows = zip(*places, strict=True)
    return Matched(parts=parts, rows=rows)


def _tables(subjects: Sequence[Subject], given: PromptTable | None) -> Iterator[PromptTable]:
    if given is not None:
        yield given
        return
    runs = [subject for subject in subjects if subject.kind is Kind.ROW]
    names = [{part.prompt_set for part in subject.parts} for subject in runs]
    shared = set.intersection(*names) if names else set()
    if names and not shared:
        raise BenchError(
            f"{runs[0].name} and {runs[1].name} share no prompt set: they have "
            f"{listed(sorted(names[0]))} and {listed(sorted(names[1]))}; say with --prompts over "
            f"which to compare"
        )
    first = runs[0] if runs else subjects[0]
    for part in first.parts:
        if not runs or part.prompt_set in shared:
            yield PromptTable(
                name=part.prompt_set or "prompts", texts=part.texts, groups=part.groups
            )


def _match(subject: Subject, table: PromptTable) -> dict[int, tuple[int, int]]:
    """Row of the table -> part and row of the subject; the n-th of equal texts is the n-th."""
    numbered = list(enumerate(subject.parts))
    named = [item for item in numbered if item[1].prompt_set == table.name]
    places: dict[str, deque[tuple[int, int]]] = {}
    for number, part in named or numbered:
        for row, text in enumerate(part.texts):
            places.setdefault(_plain(text), deque()).append((number, row))
    found = {}
    for row, text in enumerate(table.texts):
        if own := places.get(_plain(text)):
            found[row] = own.popleft()
    return found


def _plain(text: str) -> str:
    return " ".join(text.split())


def _left_out(
    table: PromptTable,
    subjects: Sequence[Subject],
    found: Sequence[dict[int, tuple[int, int]]],
    kept: Sequence[int],
) -> Iterator[str]:
    total = len(table.texts)
    if len(kept) == total:
        return
    for subject, rows in zip(subjects, found, strict=True):
        missing = [quoted(table.texts[row]) for row in range(total) if row not in rows]
        if missing:
            yield (
                f"{table.name}: {len(missing):,} of {total:,} prompts are left out, of which "
                f"{subject.name} has no image: {listed(missing, 3)}"
            )


def _nothing_shared(subjects: Sequence[Subject]) -> str:
    first, second = (quoted(subject.parts[0].texts[0]) for subject in subjects[:2])
    return (
        f"there is no prompt of which all have an image: {subjects[0].name} begins with {first}, "
        f"{subjects[1].name} with {second}; say with --prompts what the images show"
    )


def _images(
    subjects: Sequence[Subject],
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...], list[str]]:
    """Positions of the paired images of each subject, what they are called, and notes."""
    parts = [_one(subject) for subject in subjects]
    notes: list[str] = []
    unknown = [s.name for s, part in zip(subjects, parts, strict=True) if not part.noise_known]
    if not unknown:
        shared = sorted(set.intersection(*(set(part.seeds) for part in parts)))
        if shared:
            for subject, part in zip(subjects, parts, strict=True):
                if extra := sorted(set(part.seeds) - set(shared)):
                    notes.append(
                        f"image seeds {listed(extra)} of {subject.name} are left out: not all "
                        f"have them"
                    )
            chosen = tuple(tuple(part.seeds.index(seed) for seed in shared) for part in parts)
            return chosen, tuple(shared), notes
        notes.append("no image seed is common to all: images are paired by prompt, not by noise")
    elif len(unknown) < len(subjects):
        notes.append(
            f"from which noise the images of {listed(unknown)} come is not known: they are paired "
            f"by prompt"
        )
    count = min(len(part.seeds) for part in parts)
    for subject, part in zip(subjects, parts, strict=True):
        if len(part.seeds) > count:
            notes.append(
                f"{subject.name} has {len(part.seeds)} images a prompt, of which the first "
                f"{count} count: not all have more"
            )
    return tuple(tuple(range(count)) for _ in parts), tuple(range(count)), notes


def _one(subject: Subject) -> Part:
    return subject.parts[0]
