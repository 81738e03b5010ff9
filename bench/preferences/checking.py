"""What a preference set holds, at a glance: counts, duplicates, sizes, leakage, a picture."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from bench.api.contracts import read_pairs
from bench.api.kinds import PreferencePair, PreferenceSet, Prompt
from bench.lib.images import decode
from bench.lib.prefetch import ahead
from bench.preferences.inspecting import BrokenRow, look, same_model, threads, too_many

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLES = 8
"""Pairs in the picture."""
_AHEAD = 32
_NAMED = 5
"""Rows and captions that are named as examples."""
_PREFERRED, _TIED, _OTHER = "#2e9e4f", "#b8b8b8", "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many pairs something is true of, and the first of them."""

    count: int
    first: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Captions:
    """What the prompts are like."""

    distinct: int
    empty: Rows
    most_pairs: int
    """Pairs of the caption that has most."""
    longest: int
    """Characters."""
    longest_row: int


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Images and pairs that come more than once; images are compared byte by byte."""

    same_images: Rows
    """Pairs whose two images are the same."""
    repeated: Rows
    """Pairs whose caption and images, in either order, stood in an earlier pair."""
    images: int
    """Distinct images."""
    shared: int
    """Images that stand in more than one pair."""
    most_shared: int
    """Pairs of the image that stands in most."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Captions that also stand in a prompt set to evaluate on."""

    prompt_set: str
    prompts: int
    """Distinct prompts of the set."""
    exact: int
    """Of them, those that are a caption letter by letter."""
    close: int
    """Of them, those that are a caption but for case and white space; `exact` ones included."""
    pairs: int
    """Pairs with such a caption."""
    first: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What `check` found."""

    source: str
    pairs: int
    usable: bool
    """Whether few enough pairs are broken, and any is left."""
    broken: tuple[BrokenRow, ...]
    ties: int
    """Of the pairs that are not broken, as all that follows."""
    preferred_0: int
    preferred_1: int
    same_model: int
    """Pairs whose two images come from the same known model."""
    captions: Captions
    duplicates: Duplicates
    sizes: Mapping[str, int]
    """"512x768" (width x height) -> images, most frequent first."""
    aspects: Mapping[str, int]
    """"2:3" (width:height) -> images, most frequent first."""
    models: Mapping[str, int]
    """Model -> images, most frequent first."""
    leaks: tuple[Leak, ...]


def check(
    pairs: PreferenceSet,
    prompt_sets: Mapping[str, Iterable[Prompt]],
    *,
    max_broken_share: float,
    advance: Callable[[int], None],
) -> tuple[Check, list[PreferencePair]]:
    """Look at every pair once.

    Args:
        pairs: the preference set.
        prompt_sets: name -> prompts that should not be among the captions.
        max_broken_share: the set is unusable if more pairs than this share are broken.
        advance: called with the number of pairs done.

    Returns:
        What was found, and a few pairs drawn with a fixed seed.
    """
    tally = _Tally()
    for seen in ahead(_look_closely, read_pairs(pairs), _AHEAD, threads()):
        tally.add(*seen)
        advance(1)
    usable = not too_many(len(tally.broken), tally.pairs, max_broken_share)
    leaks = [_leak(name, prompts, tally.captions) for name, prompts in prompt_sets.items()]
    facts = Check(
        source=pairs.source,
        pairs=tally.pairs,
        usable=usable and tally.pairs > len(tally.broken),
        broken=tuple(tally.broken),
        ties=tally.labels[0.5],
        preferred_0=sum(n for label, n in tally.labels.items() if label > 0.5),
        preferred_1=sum(n for label, n in tally.labels.items() if label < 0.5),
        same_model=tally.same_model,
        captions=tally.caption_facts(),
        duplicates=tally.duplicates(),
        sizes=_ranked({f"{w}x{h}": count for (w, h), count in tally.sizes.items()}),
        aspects=_ranked(_aspects(tally.sizes)),
        models=_ranked(tally.models),
        leaks=tuple(leaks),
    )
    return facts, sorted(tally.sample, key=lambda pair: pair.row)


def _look_closely(
    pair: PreferencePair,
) -> tuple[PreferencePair, tuple[tuple[int, int], ...], str, tuple[int, ...]]:
    """The pair, the sizes of its images, its problem, and digests of its images."""
    # 64 bits: two of ten million images agree by chance once in 400,000 sets.
    hashes = (hashlib.blake2b(image.data, digest_size=8) for image in pair.images)
    return pair, *look(pair), tuple(int.from_bytes(hashed.digest(), "big") for hashed in hashes)


class _Tally:
    """Counts what was seen; some 50 bytes a pair, and the captions."""

    def __init__(self) -> None:
        self.pairs = self.same_model = 0
        self.broken: list[BrokenRow] = []
        self.labels: Counter[float] = Counter()
        self.captions: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.models: Counter[str] = Counter()
        self.sample: list[PreferencePair] = []
        self._rows, self._images, self._pairs = array("q"), array("Q"), array("Q")
        self._empty: list[int] = []
        self._same: list[int] = []
        self._longest = (0, 0)
        self._rng = random.Random(0)

    def add(
        self,
        pair: PreferencePair,
        sizes: tuple[tuple[int, int], ...],
        problem: str,
        digests: tuple[int, ...],
    ) -> None:
        self.pairs += 1
        if problem:
            self.broken.append(BrokenRow(row=pair.row, reason=problem))
            return
        self._keep_sample(pair)
        self._rows.append(pair.row)
        self.labels[pair.human] += 1
        self.same_model += same_model(pair)
        self.captions[pair.caption] += 1
        self.sizes.update(sizes)
        self.models.update(image.model for image in pair.images if image.model)
        if not pair.caption.strip():
            self._empty.append(pair.row)
        self._longest = max(self._longest, (len(pair.caption), -pair.row))
        if digests[0] == digests[1]:
            self._same.append(pair.row)
        self._images.extend(sorted(set(digests)))
        key = repr((pair.caption, sorted(digests))).encode()
        self._pairs.append(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big"))

    def _keep_sample(self, pair: PreferencePair) -> None:
        """Reservoir sampling: every pair is as likely to stay as any other."""
        number = len(self._rows)
        place = number if number < SAMPLES else self._rng.randrange(number + 1)
        if number < SAMPLES:
            self.sample.append(pair)
        elif place < SAMPLES:
            self.sample[place] = pair

    def caption_facts(self) -> Captions:
        return Captions(
            distinct=len(self.captions),
            empty=_rows(self._empty),
            most_pairs=max(self.captions.values(), default=0),
            longest=self._longest[0],
            longest_row=-self._longest[1],
        )

    def duplicates(self) -> Duplicates:
        counts = np.unique(np.frombuffer(self._images, np.uint64), return_counts=True)[1]
        keys = np.frombuffer(self._pairs, np.uint64)
        repeated = np.ones(len(keys), bool)
        repeated[np.unique(keys, return_index=True)[1]] = False
        rows = np.frombuffer(self._rows, np.int64)[repeated]
        return Duplicates(
            same_images=_rows(self._same),
            repeated=_rows(rows.tolist()),
            images=len(counts),
            shared=int((counts > 1).sum()),
            most_shared=int(counts.max(initial=0)),
        )


def _rows(rows: Sequence[int]) -> Rows:
    return Rows(count=len(rows), first=tuple(rows[:_NAMED]))


def _ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """Most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _aspects(sizes: Mapping[tuple[int, int], int]) -> Counter[str]:
    """Images by width:height, as small numbers where they are."""
    counts: Counter[str] = Counter()
    for (width, height), count in sizes.items():
        divisor = gcd(width, height)
        w, h = width // divisor, height // divisor
        counts[f"{w}:{h}" if max(w, h) <= 32 else f"{width / height:.2f}:1"] += count
    return counts


def normalised(text: str) -> str:
    """A prompt without case, and with single spaces."""
    return " ".join(text.casefold().split())


def _leak(name: str, prompts: Iterable[Prompt], captions: Mapping[str, int]) -> Leak:
    texts = {prompt.text for prompt in prompts}
    by_form: dict[str, int] = {}
    for caption, count in captions.items():
        by_form[normalised(caption)] = by_form.get(normalised(caption), 0) + count
    close = sorted(text for text in texts if normalised(text) in by_form)
    return Leak(
        prompt_set=name,
        prompts=len(texts),
        exact=sum(text in captions for text in texts),
        close=len(close),
        pairs=sum(by_form[form] for form in {normalised(text) for text in close}),
        first=tuple(close[:_NAMED]),
    )


def picture(sample: Sequence[PreferencePair]) -> Image:
    """Pairs side by side under their captions; a green frame is the preferred image.

    Tied images have a grey frame each.
    """
    from bench.lib.contact_sheet import contact_sheet

    with TemporaryDirectory() as folder:
        rows = []
        for pair in sample:
            files = []
            shares = (pair.human, 1 - pair.human)
            for side, (encoded, share) in enumerate(zip(pair.images, shares, strict=True)):
                colour = _PREFERRED if share > 0.5 else _TIED if share == 0.5 else _OTHER
                files.append(Path(folder) / f"{pair.row}-{side}.png")
                _framed(decode(encoded.data), colour).save(files[-1])
            rows.append((f"{pair.row}: {pair.caption}", files))
        return contact_sheet(rows, ["image 0", "image 1"])


def _framed(image: Image, colour: str) -> Image:
    from PIL import ImageOps

    return ImageOps.expand(image, max(1, max(image.size) // 24), colour)
