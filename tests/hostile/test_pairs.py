"""Preference pairs that cannot be trained on."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests import toy
from tests.hostile.harness import RUN, Case, Content, World, judge, little_memory, sample


def rows(count: int = 6, **columns: object) -> dict[str, object]:
    """Pick-a-Pic's columns, some of them replaced; None takes one away."""
    rng = np.random.default_rng(3)
    data: dict[str, object] = {
        "caption": [f"picture {i}" for i in range(count)],
        "jpg_0": [toy.jpeg(rng) for _ in range(count)],
        "jpg_1": [toy.jpeg(rng) for _ in range(count)],
        "label_0": [float(i % 2) for i in range(count)],
    }
    return {name: held for name, held in (data | columns).items() if held is not None}


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(rows(**columns)).to_parquet(buffer)  # type: ignore[arg-type]
    return buffer.getvalue()


def bad(name: str, content: Content, *says: str, file: str = "mine.parquet") -> Case:
    """A set of pairs that a run must refuse, by its name."""
    return Case(
        id=name,
        command=f"{RUN} --set pairs=./{file}",
        files={file: content},
        # Some of these read without end where nobody looks what they are.
        where="fork",
        before=little_memory,
        ends="refused",
        says=(Path(file).name, *says),
    )


def data(name: str, command: str, *says: str, **more: object) -> Case:
    """`bench data` that must be refused."""
    return Case(id=name, command=f"data {command}", ends="refused", says=says, **more)  # type: ignore[arg-type]


BOMB = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x01\x86\xa0\x00\x01\x86\xa0\x08\x02\x00\x00\x00"
    b"\x8a\x1d\x0c\x08"
)
"""The head of a PNG of 100,000 x 100,000 pixels."""

CASES = [
    bad("empty-file", b""),
    bad("junk", b"PAR1 junk PAR1"),
    bad("cut", parquet()[:4000]),
    bad("cut-at-the-end", parquet()[:-4]),
    bad("no-rows", parquet(count=0)),
    bad("no-caption", parquet(caption=None), "caption"),
    bad("no-image", parquet(jpg_1=None), "jpg_1"),
    bad("no-label", parquet(label_0=None), "label_0"),
    bad("caption-numbers", parquet(caption=[1, 2, 3, 4, 5, 6])),
    bad("caption-null", parquet(caption=["a", None, "c", "d", "e", "f"])),
    bad("label-nan", parquet(label_0=[1.0, float("nan"), 0, 1, 0, 1])),
    bad("label-inf", parquet(label_0=[1.0, float("inf"), 0, 1, 0, 1])),
    bad("label-two", parquet(label_0=[1.0, 2.0, 0, 1, 0, 1])),
    bad("label-negative", parquet(label_0=[1.0, -1.0, 0, 1, 0, 1])),
    bad("label-words", parquet(label_0=["yes", "no", "yes", "no", "yes", "no"])),
    bad("label-null", parquet(label_0=[1.0, None, 0, 1, 0, 1])),
    bad("images-null", parquet(jpg_0=[None] * 6)),
    bad("images-empty", parquet(jpg_0=[b""] * 6)),
    bad("images-junk", parquet(jpg_1=[b"not a picture"] * 6)),
    bad("images-texts", parquet(jpg_0=["a.png"] * 6)),
    bad("images-cut", parquet(jpg_0=[toy.jpeg(np.random.default_rng(0))[:200]] * 6)),
    bad("images-bombs", parquet(jpg_0=[BOMB] * 6)),
    Case(
        id="all-tied",
        command=f"{RUN} --set pairs=./mine.parquet",
        files={"mine.parquet": parquet(label_0=[0.5] * 6)},
        ends="refused",
        says=("no pair is left",),
    ),
    bad("a-folder-of-nothing", lambda path: path.mkdir(), file="mine"),
    bad("a-pipe", lambda path: os.mkfifo(path)),
    bad("a-dead-link", lambda path: path.symlink_to("gone")),
    bad("a-looping-link", lambda path: path.symlink_to("mine.parquet")),
    bad("csv-empty", "", file="mine.csv"),
    bad("csv-no-columns", "a,b\n1,2\n", file="mine.csv"),
    bad("csv-images-gone", "prompt,chosen,rejected\na,gone.png,gone.png\n", file="mine.csv"),
    bad("csv-passwd", "prompt,chosen,rejected\na,/etc/passwd,/etc/passwd\n", file="mine.csv"),
    bad("csv-zero", "prompt,chosen,rejected\na,/dev/zero,/dev/zero\n", file="mine.csv"),
    bad("csv-climbs", "prompt,chosen,rejected\na,../../x.png,../../y.png\n", file="mine.csv"),
    bad("csv-folder", "prompt,chosen,rejected\na,pipeline,pipeline\n", file="mine.csv"),
    bad("csv-open-quote", 'prompt,chosen,rejected\n"a,b,c\n', file="mine.csv"),
    bad("jsonl-cut", '{"prompt": "a", "chosen": ', file="mine.jsonl"),
    bad("jsonl-deep", "[" * 100_000, file="mine.jsonl"),
    bad("jsonl-surrogate", '{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', file="m.jsonl"),
    bad("json-hpd-empty", "[]", file="train.json"),
    bad("json-hpd-objects", '[{"prompt": "a"}]', file="train.json"),
    bad("json-deep", "[" * 100_000 + "]" * 100_000, file="train.json"),
    bad("json-hpd-nothing", "null", file="train.json"),
    bad(
        "json-hpd-wrong-types",
        '[{"prompt": 1, "image_path": 2, "human_preference": 3}]',
        file="train.json",
    ),
    bad("unknown-suffix", b"x", file="mine.xlsx"),
    data("check-gone", "check ./gone.parquet", "gone.parquet"),
    data("check-itself", "check pairs.parquet --out pairs.parquet", "pairs.parquet"),
    data("check-over-a-recipe", "check pairs.parquet --out recipe.yaml", "recipe.yaml"),
    data("check-over-notes", "check pairs.parquet --out notes.txt", "notes.txt"),
    data("check-into-a-folder", "check pairs.parquet --out pipeline", "pipeline"),
    data("check-below-a-file", "check pairs.parquet --out notes.txt/a.png", "notes.txt"),
    data("check-share-nan", "check pairs.parquet --max-broken-share nan", "max-broken-share"),
    data("check-share-two", "check pairs.parquet --max-broken-share 2", "max-broken-share"),
    data("check-prompts-gone", "check pairs.parquet --prompts ./gone.txt", "gone.txt"),
    data("check-markup", "check '[/red]'"),
    data("check-long", f"check ./{'x' * 5000}"),
    data("convert-itself", "convert ./pairs.parquet pairs.parquet", "pairs.parquet"),
    data("convert-over-notes", "convert ./pairs.parquet notes.txt", "notes.txt"),
    data("convert-into-a-folder", "convert ./pairs.parquet pipeline", "pipeline"),
    data("convert-gone", "convert ./gone.parquet new.parquet", "gone.parquet"),
    data(
        "convert-link-to-itself",
        "convert ./pairs.parquet alias.parquet",
        files={"alias.parquet": lambda path: path.symlink_to("pairs.parquet")},
    ),
    Case(
        id="check-json",
        command="data check ./pairs.parquet --json --out look.png",
        ends="well",
    ),
    Case(
        id="one-broken-pair",
        command=f"{RUN} --set pairs=./mine.parquet --set max_broken_share=0.5 --methods base",
        files={"mine.parquet": parquet(jpg_0=[b"x", *rows()["jpg_0"][1:]])},  # type: ignore[index]
        ends="well",
    ),
    Case(
        id="set-changed-since",
        files={"pairs.parquet": parquet()},
    ),
    Case(
        id="filters-leave-nothing",
        command=f"{RUN} --set filters.min_resolution=100000 --methods sft",
        ends="refused",
        says=("min_resolution",),
    ),
    Case(
        id="captions-with-markup",
        command=f"{RUN} --dry-run --set pairs=./mine.parquet",
        files={"mine.parquet": parquet(caption=["[/red]", "\x1b[31m", "\n", "=cmd", "a", "b"])},
    ),
]


@pytest.mark.parametrize("case", sample(CASES))
def test_pairs(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
