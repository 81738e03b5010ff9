"""What a result was made by, as data: the protocol that the cells of one ranking share.

Plugins stand here as `Registry.describe` gives them: name, version, options, fingerprint of
weights or data, and package. Their code does not count, so that boards outlive a refactoring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.lib.canonical_json import plain, sha256

_NAMED = 3
"""So many differences are named in a heading; a note has all."""


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """What must be equal for two cells' images and scores to be compared at all."""

    backbone: Mapping[str, Any]
    """The start model, described."""
    sampling: Mapping[str, Any]
    """Whatever changes images (scheduler, steps, guidance); image seeds aside."""
    image_seeds: tuple[int, ...]
    prompts: Mapping[str, str]
    """prompt set -> `PromptTable.sha256` of its prompts."""
    scorers: Mapping[str, Mapping[str, Any]]
    """scorer -> the scorer, described."""

    @cached_property
    def digest(self) -> str:
        """Equal for the same protocol."""
        return sha256(self)


@dataclass(frozen=True, kw_only=True)
class TrainingProtocol:
    """What must be equal besides for two trained methods to be ranked together."""

    pairs: Mapping[str, Any]
    """The preference set, described."""
    filters: Mapping[str, Any]
    """Which of the pairs are used."""
    framing: Mapping[str, Any]
    """How their images are cropped."""
    options: Mapping[str, Any]
    """The budget and what else every trained method gets alike."""


@dataclass(frozen=True)
class Protocol:
    """All that the cells of one section of a board share."""

    evaluation: EvaluationProtocol
    training: TrainingProtocol | None
    """None: nothing was trained."""

    @cached_property
    def digest(self) -> str:
        """Equal for the same protocol."""
        return sha256((self.evaluation, self.training))

    @cached_property
    def facts(self) -> dict[str, dict[str, str]]:
        """What it says: a phrase for each key of each of its parts ("sampling", a scorer, ...)."""
        evaluation, training = self.evaluation, self.training
        parts: dict[str, tuple[str, Mapping[str, Any]]] = {}
        if training:
            parts |= {
                "training": ("", training.options),
                "pairs": ("pairs", training.pairs),
                "filters": ("filters", training.filters),
                "framing": ("framing", training.framing),
            }
        named = {
            "image seeds": ", ".join(map(str, evaluation.image_seeds)),
            "prompts": ", ".join(sorted(evaluation.prompts)),
            "scorers": ", ".join(sorted(evaluation.scorers)),
        }
        parts |= {
            "backbone": ("start model's", evaluation.backbone),
            "sampling": ("sampling", evaluation.sampling),
            "evaluation": ("", named),
        }
        parts |= {
            f"prompts {n}": ("prompts", {n: d}) for n, d in sorted(evaluation.prompts.items())
        }
        parts |= {f"scorer {n}": (n, scorer) for n, scorer in sorted(evaluation.scorers.items())}
        return {
            part: {
                key: _PHRASES.get((part, key), "{1} {2} {0}")
                .format(shown(value), prefix, key)
                .strip()
                for key, value in sorted(flat(data).items())
            }
            for part, (prefix, data) in parts.items()
        }


_PHRASES = {
    ("training", "steps"): "{} steps",
    ("training", "batch_size"): "batches of {}",
    ("pairs", "fingerprint"): "pairs {}",
    ("backbone", "fingerprint"): "start weights {}",
    ("sampling", "scheduler"): "{}",
    ("sampling", "steps"): "{} sampling steps",
    ("sampling", "guidance"): "guidance {}",
    ("evaluation", "scorers"): "scored by {}",
}
"""Part and key -> how its value is said; other keys are named."""


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested data as dotted keys and scalars (or lists)."""
    leaves: dict[str, Any] = {}
    for key, item in plain(value).items():
        name = f"{prefix}{key}"
        leaves |= flat(item, f"{name}.") if isinstance(item, dict) and item else {name: item}
    return leaves


def differences(ours: Any, theirs: Any) -> list[str]:
    """Where two nested records differ: "sampling.steps (20 against 50)", ..."""
    left, right = flat(ours), flat(theirs)
    return [
        f"{key} ({shown(left.get(key))} against {shown(right.get(key))})"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def shown(value: Any) -> str:
    """A value in words; of hashes the first 8 digits."""
    if value is None or value == "":
        return "none"
    if isinstance(value, str) and len(value) >= 16 and not set(value) - set("0123456789abcdef"):
        return value[:8]
    if isinstance(value, list):
        return "+".join(map(shown, value)) or "none"
    return str(value)


def distinctions(protocols: Sequence[Protocol]) -> list[tuple[str, ...]]:
    """In words and for each protocol, what not all of them say alike.

    A part that some lack (a scorer) is compared among the others; that some lack it is said by
    the list of scorers.
    """
    phrases: list[list[str]] = [[] for _ in protocols]
    for part in dict.fromkeys(part for protocol in protocols for part in protocol.facts):
        having = {i: p.facts[part] for i, p in enumerate(protocols) if part in p.facts}
        for key in sorted({key for facts in having.values() for key in facts}):
            words = {i: facts.get(key, f"no {key}") for i, facts in having.items()}
            if len(set(words.values())) > 1:
                for i, phrase in words.items():
                    phrases[i].append(phrase)
    return [tuple(some) for some in phrases]


def headings(titles: Sequence[str], protocols: Sequence[Protocol]) -> list[tuple[str, str]]:
    """A heading for each section, and a note of all in which those of one title differ."""
    words: dict[int, tuple[str, ...]] = {}
    for title in dict.fromkeys(titles):
        same = [i for i, other in enumerate(titles) if other == title]
        words |= dict(zip(same, distinctions([protocols[i] for i in same]), strict=True))
    short = [
        ", ".join((title, *words[i][:_NAMED], *(["..."] if len(words[i]) > _NAMED else [])))
        for i, title in enumerate(titles)
    ]
    twice = Counter(short)
    return [
        (f"{text} ({protocols[i].digest[:8]})" if twice[text] > 1 else text, ", ".join(words[i]))
        for i, text in enumerate(short)
    ]
