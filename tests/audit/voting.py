"""A run whose pictures can be voted on: drawn shapes, three methods that spoil fewer or more."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_plugins.shapes import draw, grammar, population
from PIL import Image

from bench.audit.records import AuditKey
from bench.leaderboard.results import PromptSetScores, save_record
from bench.lib.files import content_key
from bench.lib.images import png
from bench.recipe.prompt_table import PromptTable
from bench.store.store import Store
from tests.leaderboard import small_board

SPOILT = {"base": 0.8, "dpo": 0.5, "smpo": 0.2}
"""Method -> share of its pictures that are degraded."""
SEEDS = (0, 1)
TRAIN_SEEDS = (0, 1)
SCORERS = ("alignment", "vividness", "gold")


def scenes(count: int, seed: int) -> list[grammar.Scene]:
    rng = random.Random(seed)
    return [grammar.fill(grammar.sample_scene(rng), rng) for _ in range(count)]


def _table(name: str, drawn: Sequence[grammar.Scene]) -> PromptTable:
    texts = tuple(map(grammar.caption, drawn))
    return PromptTable(name=name, texts=texts, groups=({},) * len(texts))


@dataclass(frozen=True)
class World:
    """A run's folder, its store, and what is truly in its pictures."""

    run: Path
    store: Path
    measures: Mapping[bytes, np.ndarray]
    """File of a picture -> its measures."""

    def votes(self, key: AuditKey, page: Path, people: int, seed: int = 0) -> list[list[str]]:
        """Rows of people from the population, who look at the page's files."""
        rows = []
        for person in random.Random(seed).sample(population.people(), people):
            rng = random.Random(f"{seed} {person.user_id}")
            for item in key.items:
                left, right = (
                    self.measures[(page / "images" / f"{item.item}-{side}.png").read_bytes()]
                    for side in ("left", "right")
                )
                said = population.choice(person, left, right, rng.random())
                vote = {1.0: "left", 0.0: "right", 0.5: "tie"}[said]
                rows.append([item.item, vote, "2.5", f"person {person.user_id}"])
        return rows


def write_votes(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    lines = ["item,vote,seconds,rater", *map(",".join, rows)]
    path.write_text("\r\n".join([*lines, ""]), newline="")
    return path


def make(folder: Path, prompts: int = 40) -> World:
    """Two prompt sets of which one is half as large and shares a prompt with the other."""
    parti, styles = scenes(prompts, 1), scenes(prompts // 2, 2)
    drawn = {"parti": parti, "styles": [*styles[:-1], parti[0]]}
    tables = {name: _table(name, some) for name, some in drawn.items()}
    store = Store(folder / "store")
    measures: dict[bytes, np.ndarray] = {}
    evaluation = replace(
        small_board.EVALUATION,
        image_seeds=SEEDS,
        prompts={name: table.sha256 for name, table in tables.items()},
        scorers={s: {"name": s, "version": "1", "options": {}, "fingerprint": ""} for s in SCORERS},
    )

    def parts(method: str, train_seed: int) -> Iterator[PromptSetScores]:
        for name, some in drawn.items():
            keys = []
            values: list[np.ndarray] = []
            for seed in SEEDS:
                key = content_key({"of": [method, train_seed, name, seed]})
                keys.append(key)
                images = store.path("sample", key) / "images"
                images.mkdir(parents=True)
                for row, scene in enumerate(some):
                    rng = random.Random(f"{name} {row} {seed}")
                    picture = draw.render(scene, rng)
                    own = random.Random(f"{method} {train_seed} {name} {row} {seed}")
                    if own.random() < SPOILT[method]:
                        picture = draw.degrade(picture, own)
                    image = Image.fromarray(picture)
                    data = png(image)
                    (images / f"{row:05d}.png").write_bytes(data)
                    # Looking at it takes longer than drawing it.
                    if data not in measures:
                        measures[data] = population.measures(image, grammar.caption(scene))
                    values.append(measures[data])
            # [seeds, prompts, measures] -> prompts, then seeds.
            said = np.stack(values).reshape(len(SEEDS), len(some), 3).swapaxes(0, 1).reshape(-1, 3)
            columns = (said[:, 0], said[:, 1], population.gold_of(said))
            yield PromptSetScores(
                prompt_set=name,
                prompts_sha256=tables[name].sha256,
                prompts=len(some),
                image_seeds=SEEDS,
                scores={s: tuple(c.tolist()) for s, c in zip(SCORERS, columns, strict=True)},
                samples=tuple(keys),
            )

    cells = [
        replace(
            small_board.cell(method, seed=seed),
            evaluation=evaluation,
            evaluations=tuple(parts(method, seed)),
            in_loop=("vividness",) if method == "smpo" else (),
            label="Diffusion-DPO" if method == "dpo" else "",
        )
        for method in SPOILT
        for seed in (TRAIN_SEEDS if method != "base" else (0,))
    ]
    for record in (*tables.values(), *cells):
        save_record(folder / "run", record)
    return World(folder / "run", store.root, measures)
