"""In what protocols differ: of boards, of their sections, and of what papers report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.leaderboard import published, results
from bench.leaderboard.protocol import Protocol, differences, headings, shown
from bench.leaderboard.results import Cell
from bench.lib.errors import BenchError


@dataclass(frozen=True, kw_only=True)
class Side:
    """One section of a board."""

    name: str
    protocol: Protocol
    prompts: Mapping[str, int]
    """Prompt set -> prompts."""
    train_seeds: tuple[int, ...]
    """Of all its methods together."""


def sides(folder: Path) -> list[Side]:
    """The sections of a board, by the digest of their protocols.

    Raises:
        BenchError: a result is not valid.
    """
    cells = results.load_cells(folder)
    counts = {digest: len(t.texts) for digest, t in results.load_prompts(folder).items()}
    protocols: dict[str, Protocol] = {}
    for cell in cells.values():
        protocols.setdefault(cell.protocol.digest, cell.protocol)
    evaluated = {p.evaluation.digest for p in protocols.values() if p.training}
    own = [
        protocol
        for _, protocol in sorted(protocols.items())
        # What was not trained stands beside all that was evaluated in the same way.
        if protocol.training or protocol.evaluation.digest not in evaluated
    ]
    titles = headings([folder.name] * len(own), own)
    return [
        Side(
            name=title,
            protocol=protocol,
            prompts={n: counts.get(d, 0) for n, d in protocol.evaluation.prompts.items()},
            train_seeds=_train_seeds(cells, protocol),
        )
        for (title, _), protocol in zip(titles, own, strict=True)
    ]


def _train_seeds(cells: Mapping[Path, Cell], protocol: Protocol) -> tuple[int, ...]:
    return tuple(sorted({c.seed for c in cells.values() if c.training and c.protocol == protocol}))


def lines(folders: Sequence[Path], papers: Path | None) -> Iterator[str]:
    """Each difference between sections of boards, and with what papers report.

    Args:
        folders: boards.
        papers: the folder of what was published, or None.

    Raises:
        BenchError: there is nothing to compare, or a file is not valid.
    """
    found = [side for folder in folders for side in sides(folder)]
    if papers is None and len(found) < 2:
        raise BenchError(
            f"{folders[0]}: has one section; name another board to compare it with, or --published"
        )
    first, *others = found
    for other in others:
        away = between(first, other)
        yield f"{first.name} against {other.name}:"
        yield from (f"  {line}" for line in away or ["no difference: one protocol"])
    if papers is not None:
        document = published.load(papers)
        for side in found:
            for table in document.tables:
                yield f"{side.name} against {document.called(table)}:"
                yield from (f"  {line}" for line in with_paper(side, table))


def between(ours: Side, theirs: Side) -> list[str]:
    """In what two sections differ: "sampling.steps (20 against 50)", ..."""
    a, b = ours.protocol, theirs.protocol
    return differences(
        {"training": a.training, **_evaluation(a)}, {"training": b.training, **_evaluation(b)}
    )


def _evaluation(protocol: Protocol) -> dict[str, object]:
    of = protocol.evaluation
    return {
        "backbone": of.backbone,
        "sampling": of.sampling,
        "image_seeds": of.image_seeds,
        "prompts": of.prompts,
        "scorers": of.scorers,
    }


def with_paper(side: Side, table: published.Table) -> list[str]:
    """In what a section differs from a published table, and what nobody knows of the table."""
    evaluation = side.protocol.evaluation
    sampling = evaluation.sampling
    ours = {
        "quantity": "win rate",
        "against": "the untouched backbone",
        "judged by": ", ".join(sorted(evaluation.scorers)),
        "backbone": evaluation.backbone.get("name", ""),
        "prompts": ", ".join(f"{name} ({n})" for name, n in sorted(side.prompts.items())),
        "images per prompt": len(evaluation.image_seeds),
        "image seeds": ", ".join(map(str, evaluation.image_seeds)),
        "ties": "one half",
        "scheduler": sampling.get("scheduler", ""),
        "steps": sampling.get("steps", ""),
        "guidance": sampling.get("guidance", ""),
        "train seeds": len(side.train_seeds),
    }
    theirs = {"quantity": table.quantity, **table.facts}
    differ = [
        f"{key} ({shown(value)} against {shown(theirs[key])})"
        for key, value in ours.items()
        if theirs[key] not in (value, published.UNKNOWN)
    ]
    unknown = [key for key in ours if theirs[key] == published.UNKNOWN]
    return [*differ, *([f"unknown there: {', '.join(unknown)}"] if unknown else [])]
