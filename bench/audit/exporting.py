"""A run made into a blind page: what is drawn, what is shown, and the key beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from bench.audit import sampling
from bench.audit.compared import Compared, Pairing
from bench.audit.page import PageItem, Picture, render
from bench.audit.records import AuditKey, Item, Pair, Stratum, key_text
from bench.leaderboard.compared import parts
from bench.lib.canonical_json import sha256
from bench.lib.errors import BenchError
from bench.lib.files import write_atomic
from bench.lib.images import decode
from bench.lib.reading import MOST_IMAGE, read_bytes

QUESTION = "Which picture would you rather have for this prompt?"
_NAME = 8
"""Digits of the audit's digest in the names of its items."""


@dataclass(frozen=True)
class Audit:
    """What an export writes."""

    key: AuditKey
    files: Mapping[str, bytes]
    """Path below the page's folder -> content."""


@dataclass(frozen=True)
class _Question:
    """An item before it has a name."""

    pair: int
    place: int
    """Of the prompt, among those of all sets."""
    image_seed: int
    train_seed: int
    first_left: bool
    stratum: int
    chance: float


ImagePath = Callable[[str, str, int, int], Path]
"""Identity of the cell, prompt set, row and image seed -> the file."""


def prepare(
    compared: Compared,
    image_of: ImagePath,
    *,
    count: int,
    seed: int = 0,
    image_seeds: Sequence[int] = (),
    by_disagreement: bool = True,
    question: str = QUESTION,
    single_file: bool = False,
) -> Audit:
    """Draw what is asked, and make page and key.

    Args:
        compared: the methods; every pair of them is asked about.
        image_of: where images lie.
        count: questions in all, shared evenly by the pairs.
        seed: of prompts, sides and order.
        image_seeds: those whose images may be shown; all if none are named.
        by_disagreement: show more prompts of those where scorers disagree.
        question: what people are asked.
        single_file: put the pictures into the page.

    Raises:
        BenchError: too little is asked for, or an image is missing.
    """
    seeds = _image_seeds(compared, image_seeds)
    couples = list(combinations(range(len(compared.methods)), 2))
    shares = [count // len(couples) + (i < count % len(couples)) for i in range(len(couples))]
    if min(shares) < 2:
        raise BenchError(
            f"--sample {count}: gives {len(couples)} pairs of methods fewer than 2 questions each; "
            f"ask more, or name fewer --methods"
        )
    pairs, questions = [], []
    for number, ((first, second), share) in enumerate(zip(couples, shares, strict=True)):
        pairing = compared.pair(first, second)
        drawn, strata = _drawn(
            compared, pairing, number, share, seed, seeds, by_disagreement=by_disagreement
        )
        pairs.append(Pair(first=first, second=second, strata=strata))
        questions += drawn
    questions = [questions[i] for i in sampling.shuffled(len(questions), seed, "order")]
    shown = [_shown(compared, pairs, image_of, q) for q in questions]
    digest = sha256(
        {"question": question, "items": [[text, *(_digest(p) for p in two)] for text, two in shown]}
    )
    width = max(3, len(str(len(questions))))
    names = [f"{digest[:_NAME]}-{number + 1:0{width}d}" for number in range(len(questions))]
    key = AuditKey(
        audit=digest[:_NAME],
        items_sha256=digest,
        protocol=compared.protocol,
        prompts={name: table.sha256 for name, table in compared.tables.items()},
        seed=seed,
        question=question,
        image_seeds=seeds,
        methods=compared.methods,
        pairs=tuple(pairs),
        items=tuple(
            Item(
                item=name,
                pair=q.pair,
                prompt_set=compared.rows[q.place][0],
                row=compared.rows[q.place][1],
                image_seed=q.image_seed,
                train_seed=q.train_seed,
                first_left=q.first_left,
                stratum=q.stratum,
                chance=q.chance,
            )
            for name, q in zip(names, questions, strict=True)
        ),
    )
    items = [
        PageItem(
            name,
            text,
            Picture(f"images/{name}-left.png", two[0]),
            Picture(f"images/{name}-right.png", two[1]),
        )
        for name, (text, two) in zip(names, shown, strict=True)
    ]
    return Audit(key, render(key.audit, question, items, single_file=single_file))


def write(audit: Audit, out: Path) -> Path:
    """Write the page's folder, and the key beside it; where the key lies.

    Raises:
        BenchError: something is there already, or it cannot be written.
    """
    key = key_path(out)
    check_free(out)
    try:
        for name, data in audit.files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out / name, data)
        write_atomic(key, key_text(audit.key).encode())
    except OSError as error:
        raise BenchError(f"--out {out}: cannot be written ({error.strerror})") from error
    return key


def key_path(out: Path) -> Path:
    """Where the key of a page's folder lies: beside it, so that it is not sent along."""
    return out.with_name(f"{out.name}-key.json")


def check_free(out: Path) -> None:
    """Refuse to write over anything: an older page's votes need its key.

    Raises:
        BenchError: says what is there.
    """
    if out.name in ("", "..", "."):
        raise BenchError(f"--out {out}: name the folder itself, since its key lies beside it")
    try:
        taken = key_path(out).exists() or out.is_symlink()
        taken |= out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise BenchError(f"--out {out}: cannot be read ({error.strerror})") from error
    if taken:
        raise BenchError(
            f"--out {out}, or its key {key_path(out).name}, is there already, and the votes of an "
            f"earlier audit need its key; choose another name"
        )


def _image_seeds(compared: Compared, asked: Sequence[int]) -> tuple[int, ...]:
    unknown = [seed for seed in asked if seed not in compared.image_seeds]
    if unknown:
        known = ", ".join(map(str, compared.image_seeds))
        raise BenchError(f"--image-seeds {unknown[0]}: there are images of {known}")
    return tuple(seed for seed in compared.image_seeds if not asked or seed in asked)


def _drawn(
    compared: Compared,
    pairing: Pairing,
    number: int,
    count: int,
    seed: int,
    image_seeds: Sequence[int],
    *,
    by_disagreement: bool,
) -> tuple[list[_Question], tuple[Stratum, ...]]:
    """The questions about one pair, and the strata that they were drawn from.

    Each distinct prompt first draws which of its images would be shown, then the prompts are drawn.
    """
    cluster, weights = compared.design.cluster, compared.weights
    chances = sampling.draws(3 * len(cluster), seed, number, "images").reshape(3, -1) / 2.0**64
    # Of the rows of one text, each in its weight: the highest u^(1/w) (Efraimidis & Spirakis 2006).
    luck = np.log(np.maximum(chances[0], 2.0**-64)) / weights
    order = np.lexsort((-luck, cluster))
    rows = order[np.unique(cluster[order], return_index=True)[1]]
    trained = (chances[1][rows] * len(pairing.train_seeds)).astype(np.int64)
    allowed = np.array([compared.image_seeds.index(s) for s in image_seeds])
    drawn = allowed[(chances[2][rows] * len(allowed)).astype(np.int64)]
    outcomes = np.stack([o[rows, trained, drawn] for o in pairing.outcomes.values()])
    stratum = sampling.strata(outcomes) if by_disagreement else np.zeros(len(rows), np.int64)
    sample = sampling.stratified(stratum, count, seed, number)
    sides = sampling.shuffled(len(sample.rows), seed, number, "sides")
    questions = [
        _Question(
            pair=number,
            place=int(rows[i]),
            image_seed=compared.image_seeds[int(drawn[i])],
            train_seed=pairing.train_seeds[int(trained[i])],
            first_left=side % 2 == 0,
            stratum=int(h),
            chance=float(chance),
        )
        for i, h, chance, side in zip(
            sample.rows, sample.stratum, sample.chance, sides, strict=True
        )
    ]
    return questions, tuple(
        Stratum(name=name, prompts=prompts, sampled=sampled)
        for name, prompts, sampled in sample.strata
    )


def _shown(
    compared: Compared, pairs: Sequence[Pair], image_of: ImagePath, question: _Question
) -> tuple[str, tuple[bytes, bytes]]:
    """The prompt of a question, and its pictures, left and right."""
    prompt_set, row = compared.rows[question.place]
    pair, seed = pairs[question.pair], str(question.train_seed)
    two = []
    for number in (pair.first, pair.second):
        identity = compared.methods[number].cells[seed]
        path = image_of(identity, prompt_set, row, question.image_seed)
        try:
            data = read_bytes(path, MOST_IMAGE)
            decode(data)
        except (BenchError, ValueError) as error:
            why = "is not there" if not path.exists() else f"cannot be shown ({error})"
            raise BenchError(
                f"{path}: the image of prompt {row} of {prompt_set} {why}; name the store that the "
                f"run used with --store, or run the same `bench run` again, which draws what is "
                f"missing"
            ) from error
        two.append(data)
    left, right = two if question.first_left else reversed(two)
    return compared.tables[prompt_set].texts[row], (left, right)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def images_in(store: Path, compared: Compared) -> ImagePath:
    """Where the images of a run lie in its store.

    Raises:
        BenchError: a result does not say; names the file.
    """
    from bench.stages.sample import SampleStage, image_in
    from bench.store.store import Store

    opened = Store(store)

    def path(identity: str, prompt_set: str, row: int, image_seed: int) -> Path:
        file, cell = compared.cells[identity]
        part = next(p for p in parts(cell) if p.prompt_set == prompt_set)
        if not part.samples:
            raise BenchError(
                f"{file}: does not say where its images are (an earlier version wrote it); run the "
                f"same `bench run` again, which trains nothing that is finished"
            )
        key = part.samples[part.image_seeds.index(image_seed)]
        return image_in(opened.path(SampleStage.name, key), row)

    return path
