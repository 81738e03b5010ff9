"""The prompts of the shapes world, in the files of the real benchmarks; all sets disjoint.

`parti.tsv` is in PartiPrompts' format and `hpd/` in that of HPDv2's benchmark. The captions of
the training pairs and the development prompts are in neither, so that nothing is trained or
tuned on what it is judged by.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench_plugins.shapes import files, grammar
from bench_plugins.shapes.files import Report
from bench_plugins.shapes.grammar import Scene, Thing


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Every number that decides the prompts; the defaults made the shipped ones."""

    seed: int = 51
    per_style: int = 40
    pairs: int = 1200
    dev: int = 128


@dataclass(frozen=True, kw_only=True)
class PartiRow:
    """One row of the TSV file."""

    prompt: str
    category: str
    challenge: str
    note: str


@dataclass(frozen=True, kw_only=True)
class PromptLists:
    """All prompts of the world; no prompt occurs twice."""

    parti: tuple[PartiRow, ...]
    hpd: dict[str, tuple[str, ...]]
    """Style -> prompts."""
    dev: tuple[str, ...]
    pairs: tuple[str, ...]


def _single(rng: random.Random) -> Scene:
    return grammar.fill(Scene(things=(Thing(shape=rng.choice(grammar.SHAPES)),)), rng)


def _plain(scene: Scene) -> Scene:
    """Only the shape and colour of each thing are named."""
    things = tuple(replace(t, size=None) for t in scene.things)
    return replace(scene, things=things, background=None, style=None)


def _basic(rng: random.Random) -> Scene:
    return _plain(_single(rng))


def _simple(rng: random.Random) -> Scene:
    full = _single(rng)
    bare = _plain(full)
    kept = rng.choice(("size", "background", "style"))
    if kept == "size":
        return replace(bare, things=full.things)
    return replace(bare, **{kept: getattr(full, kept)})


def _quantity(rng: random.Random) -> Scene:
    full = replace(_single(rng), count=rng.choice((2, 3)))
    plain = replace(_plain(full), background=full.background)
    return plain if rng.random() < 0.5 else replace(plain, things=full.things)


def _two(rng: random.Random) -> Scene:
    first, second = _single(rng), _single(rng)
    while _plain(first).things == _plain(second).things:
        second = _single(rng)
    things = first.things + second.things
    return replace(first, things=things, relation=rng.choice(grammar.RELATIONS))


def _positioned(rng: random.Random) -> Scene:
    full = _two(rng)
    bare = _plain(full)
    return bare if rng.random() < 0.5 else replace(bare, background=full.background)


def _styled(rng: random.Random) -> Scene:
    full = _single(rng) if rng.random() < 0.5 else _two(rng)
    return replace(_plain(full), style=full.style, background=full.background)


_PARTI: tuple[tuple[int, str, str, str, Callable[[random.Random], Scene]], ...] = (
    (16, "Single object", "Basic", "Colour and shape of one object", _basic),
    (20, "Single object", "Simple Detail", "One more attribute of one object", _simple),
    (20, "Single object", "Fine-grained Detail", "Every attribute of one object", _single),
    (36, "Counting", "Quantity", "Two or three objects of one kind", _quantity),
    (32, "Two objects", "Properties & Positioning", "Two objects and their relation", _positioned),
    (16, "Two objects", "Complex", "Every attribute of two objects", _two),
    (20, "Style", "Style & Format", "A style of drawing", _styled),
)


def prompt_lists(config: PromptsConfig) -> PromptLists:
    """All prompts, from the seed alone; the evaluation sets do not depend on the others' sizes."""
    taken: set[str] = set()

    def fresh(name: str, count: int, scene: Callable[[random.Random], Scene]) -> list[str]:
        rng = random.Random(f"{config.seed}/{name}")
        captions: list[str] = []
        for _ in range(1000 * count):
            if len(captions) == count:
                break
            text = grammar.caption(scene(rng))
            if text not in taken:
                taken.add(text)
                captions.append(text)
        if len(captions) < count:
            raise ValueError(f"the grammar has fewer than {count} fresh captions for {name}")
        return captions

    def in_style(style: str) -> Callable[[random.Random], Scene]:
        return lambda rng: replace(grammar.sample_scene(rng), style=style)

    parti = tuple(
        PartiRow(prompt=text, category=category, challenge=challenge, note=note)
        for count, category, challenge, note, scene in _PARTI
        for text in fresh(f"parti/{category}/{challenge}", count, scene)
    )
    hpd = {
        style: tuple(fresh(f"hpd/{style}", config.per_style, in_style(style)))
        for style in grammar.STYLES
    }
    return PromptLists(
        parti=parti,
        hpd=hpd,
        dev=tuple(fresh("dev", config.dev, grammar.sample_scene)),
        pairs=tuple(fresh("pairs", config.pairs, grammar.sample_scene)),
    )


def build_prompts(config: PromptsConfig, assets: Path, report: Report) -> None:
    """Write the prompt files into `assets/prompts`; seconds."""
    folder = assets / "prompts"
    stamp = folder / "provenance.json"
    facts = {"made_by": f"{__name__}.build_prompts", "config": asdict(config)}
    text = json.dumps(facts, indent=2) + "\n"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == text:
        report("prompts: there already")
        return
    lists = prompt_lists(config)
    rows = ["Prompt\tCategory\tChallenge\tNote"]
    rows += ["\t".join((r.prompt, r.category, r.challenge, r.note)) for r in lists.parti]
    files.write_text(folder / "parti.tsv", "\n".join(rows) + "\n")
    for style, texts in lists.hpd.items():
        files.write_text(folder / "hpd" / f"{style}.json", _json_list(texts))
    files.write_text(folder / "dev.json", _json_list(lists.dev))
    # Last, so that an interrupted build is seen to be unfinished.
    files.write_text(stamp, text)
    report(f"prompts: {len(lists.parti)} rows, {len(lists.hpd)} styles, {len(lists.dev)} to tune")


def _json_list(texts: tuple[str, ...]) -> str:
    # One prompt a line and no indent, as the files of HPDv2 are.
    return json.dumps(list(texts), indent=0) + "\n"
