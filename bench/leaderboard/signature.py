"""A signature on every number: by what it was made, in one short line that can be read back.

As sacreBLEU prints one beside every score: two numbers of one signature may be compared, and
whoever wants a number again knows what to run.

    protocol:1a2b3c4d|scorer:gold@8dc2424f|prompts:parti:160+hpd:160|n:320|images:1|seeds:0,1,2|
    sampler:ddim-30-g5|bench:0.1.0
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

from bench.leaderboard.protocol import Protocol
from bench.leaderboard.results import CellResult
from bench.lib.errors import BenchError
from bench.lib.wording import quoted

_DIGITS = 8
"""Of a digest, as everywhere where one is shown."""
_RESERVED = re.compile(r"[|:@+,%\s]")
"""Characters that part a signature; in names they stand as %XX, as in addresses of the web."""
_PARTS = re.compile(r"[|%\s]")
NONE = "none"
_FIELDS = ("protocol", "scorer", "prompts", "n", "images", "seeds", "sampler", "bench")


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What made one number."""

    protocol: str
    """First digits of `Protocol.digest`."""
    scorers: Mapping[str, str]
    """Scorer -> first digits of the fingerprint of its weights, or its version where it has none;
    several where the number is a mean over them."""
    prompts: Mapping[str, int]
    """Prompt set -> prompts."""
    images: int
    """Images a prompt."""
    seeds: tuple[int, ...]
    """Train seeds; () where nothing was trained."""
    sampler: str
    """Scheduler, denoising steps and guidance, such as "ddim-30-g5"."""
    bench: str
    """The version that made the number of the scores."""

    @property
    def n(self) -> int:
        """Prompts of all sets."""
        return sum(self.prompts.values())

    def narrowed(self, scorers: Iterable[str], seeds: Iterable[int]) -> Signature:
        """The signature of a number of the same section over fewer scorers and train seeds."""
        return replace(
            self,
            scorers={name: self.scorers[name] for name in sorted(scorers)},
            seeds=tuple(sorted(seeds)),
        )

    def __str__(self) -> str:
        """The line."""
        values = (
            self.protocol,
            "+".join(f"{_escaped(name)}@{_escaped(of)}" for name, of in self.scorers.items())
            or NONE,
            "+".join(f"{_escaped(name)}:{count}" for name, count in self.prompts.items()),
            self.n,
            self.images,
            ",".join(map(str, self.seeds)) or NONE,
            _escaped(self.sampler, _PARTS),
            self.bench,
        )
        return "|".join(f"{key}:{value}" for key, value in zip(_FIELDS, values, strict=True))

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The signature in a text.

        Raises:
            BenchError: it is none; says which part.
        """
        parts = [part.partition(":") for part in text.strip().split("|")]
        keys = tuple(key for key, _, _ in parts)
        if keys != _FIELDS:
            raise BenchError(
                f"{quoted(text)} is no signature; its parts are {', '.join(_FIELDS)}, in this order"
            )
        said = {key: value for key, _, value in parts}
        try:
            signature = cls(
                protocol=said["protocol"],
                scorers={
                    unquote(name): unquote(of)
                    for name, _, of in (each.partition("@") for each in said["scorer"].split("+"))
                    if name != NONE or of
                },
                prompts={
                    unquote(name): int(count)
                    for name, _, count in (s.rpartition(":") for s in said["prompts"].split("+"))
                },
                images=int(said["images"]),
                seeds=tuple(int(s) for s in said["seeds"].split(",") if s != NONE),
                sampler=unquote(said["sampler"]),
                bench=said["bench"],
            )
        except ValueError as error:
            raise BenchError(f"{quoted(text)} is no signature ({error})") from error
        if str(signature) != text.strip():
            raise BenchError(f"{quoted(text)} is no signature; its parts would read {signature}")
        return signature


def signature(
    protocol: Protocol,
    scorers: str | Iterable[str],
    *,
    prompts: Mapping[str, int],
    seeds: Sequence[int],
) -> str:
    """The signature of a number that scorers of a protocol gave.

    Args:
        protocol: of the section in which the number stands.
        scorers: one, or those over which the number is a mean; of `protocol.evaluation.scorers`.
        prompts: prompt set -> prompts.
        seeds: train seeds that the number is over; empty for what was not trained.
    """
    evaluation = protocol.evaluation
    names = [scorers] if isinstance(scorers, str) else sorted(scorers)
    return str(
        Signature(
            protocol=protocol.digest[:_DIGITS],
            scorers={name: _fingerprint(evaluation.scorers[name]) for name in names},
            prompts=dict(sorted(prompts.items())),
            images=len(evaluation.image_seeds),
            seeds=tuple(sorted(seeds)),
            sampler=_sampler(evaluation.sampling),
            bench=version("diffusion-preference-bench"),
        )
    )


def of_cell(cell: CellResult, scorers: str | Iterable[str]) -> str:
    """The signature of a number of one cell."""
    return signature(
        cell.protocol,
        scorers,
        prompts={part.prompt_set: part.prompts for part in cell.evaluations},
        seeds=(cell.seed,) if cell.training else (),
    )


def _fingerprint(described: Mapping[str, Any]) -> str:
    fingerprint = str(described.get("fingerprint") or "")
    return fingerprint[:_DIGITS] or f"v{described.get('version', '')}"


def _sampler(sampling: Mapping[str, Any]) -> str:
    """ "ddim-30-g5"; what else a protocol says of sampling follows with its key."""
    rest = dict(sampling)
    parts = [str(rest.pop(key)) for key in ("scheduler", "steps") if key in rest]
    if "guidance" in rest:
        parts.append(f"g{_number(rest.pop('guidance'))}")
    return "-".join([*parts, *(f"{key}={_number(rest[key])}" for key in sorted(rest))])


def _number(value: Any) -> str:
    return str(value).removesuffix(".0")


def _escaped(text: str, reserved: re.Pattern[str] = _RESERVED) -> str:
    return reserved.sub(lambda match: "".join(f"%{b:02X}" for b in match[0].encode()), text)
