from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from bench.leaderboard import board as boards
from bench.leaderboard import tables
from bench.leaderboard.protocol import Protocol
from bench.leaderboard.signature import Signature, of_cell, signature
from bench.lib.errors import BenchError
from tests.leaderboard import small_board

PROTOCOL = Protocol(small_board.EVALUATION, small_board.TRAINING)
PROMPTS = {"styles": 20, "parti": 40}


def of(scorers: str | list[str] = "gold", protocol: Protocol = PROTOCOL) -> str:
    return signature(protocol, scorers, prompts=PROMPTS, seeds=(1, 0))


def test_a_signature_says_by_what_a_number_was_made() -> None:
    protocol, *rest, bench = of().split("|")
    assert protocol == f"protocol:{PROTOCOL.digest[:8]}"
    assert rest == [
        "scorer:gold@v1",
        "prompts:parti:40+styles:20",
        "n:60",
        "images:2",
        "seeds:0,1",
        "sampler:ddim-20-g7.5",
    ]
    assert bench.startswith("bench:")


def test_of_a_cell_it_is_what_its_file_says() -> None:
    assert of_cell(small_board.cell("dpo"), "gold") == signature(
        PROTOCOL, "gold", prompts=PROMPTS, seeds=(0,)
    )
    assert "|seeds:none|" in of_cell(small_board.cell("base"), "gold")


def test_weights_stand_for_a_scorer_that_has_some() -> None:
    described = {"name": "clip:a|b", "version": "1", "options": {}, "fingerprint": "c0ffee" * 4}
    evaluation = dataclasses.replace(small_board.EVALUATION, scorers={"clip:a|b": described})
    text = of("clip:a|b", Protocol(evaluation, None))
    assert "|scorer:clip%3Aa%7Cb@c0ffeec0|" in text
    assert Signature.parse(text).scorers == {"clip:a|b": "c0ffeec0"}


@pytest.mark.parametrize("scorers", ["gold", ["shape", "gold"]])
def test_it_reads_back(scorers: str | list[str]) -> None:
    found = Signature.parse(of(scorers))
    assert str(found) == of(scorers)
    assert (found.n, found.prompts, found.seeds) == (60, {"parti": 40, "styles": 20}, (0, 1))
    assert list(found.scorers) == sorted([scorers] if isinstance(scorers, str) else scorers)


def test_a_section_says_what_its_numbers_share() -> None:
    section = Signature.parse(of(["shape", "gold", "colour"]))
    assert str(section.narrowed(["gold"], (1, 0))) == of("gold")
    nothing = section.narrowed([], ())
    assert "|scorer:none|" in str(nothing)
    assert "|seeds:none|" in str(nothing)
    assert Signature.parse(str(nothing)) == nothing


def test_every_number_of_a_board_has_its_own(tmp_path: Path) -> None:
    board = small_board.save(tmp_path, small_board.cells())
    built = tables.write(board)
    (section,) = built.sections
    line = f"- Signature: `{section.signature}`.\n"
    assert line in (board / "README.md").read_text()
    with (board / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert bool(row["signature"]) == bool(row["win_rate"])
        if row["signature"]:
            found = Signature.parse(row["signature"])
            assert " ".join(map(str, found.seeds)) == row["train_seeds"]
            if row["scorer"] in small_board.SCORERS:
                assert list(found.scorers) == [row["scorer"]]
    held = {r["method"]: r["signature"] for r in rows if r["scorer"] == "held-out"}
    assert list(Signature.parse(held["smpo[beta=500]"]).scorers) == ["gold"]
    assert list(Signature.parse(held["dpo"]).scorers) == ["colour", "gold", "shape"]


@pytest.mark.parametrize(
    ("sampling", "sampler"),
    [
        ({"scheduler": "ddim", "steps": 30, "guidance": 5.0}, "ddim-30-g5"),
        ({"scheduler": "dpm++", "steps": 2, "guidance": 1.0, "eta": 0.5}, "dpm++-2-g1-eta=0.5"),
    ],
)
def test_samplers_in_one_word(sampling: dict[str, object], sampler: str) -> None:
    evaluation = dataclasses.replace(small_board.EVALUATION, sampling=sampling)
    assert Signature.parse(of(protocol=Protocol(evaluation, None))).sampler == sampler


@pytest.mark.parametrize(
    "text",
    [
        "",
        "protocol:1",
        of().replace("n:60", "n:61"),
        of().replace("images:2", "images:two"),
        of().replace("seeds:0,1", "seeds:0,,1"),
        of().replace("|images:2", ""),
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="no signature"):
        Signature.parse(text)


def test_the_docs_show_that_of_the_shapes_board() -> None:
    root = Path(__file__).parents[2]
    section = boards.load_file(root / "leaderboards" / "shapes").protocol.section
    prompts = {"shapes-hpd": 160, "shapes-parti": 160}
    text = signature(section, "gold", prompts=prompts, seeds=(0, 1, 2))
    assert text in (root / "docs" / "boards.md").read_text(encoding="utf-8")
