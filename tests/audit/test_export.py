"""What an export draws, writes and hides."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.audit import compared, exporting, sampling
from bench.audit.page import PageItem, Picture, render
from bench.audit.records import AuditKey, load_key
from bench.leaderboard.results import load_cells, save_record
from bench.lib.errors import BenchError
from tests.audit.voting import SPOILT, World, make
from tests.commands import Bench
from tests.leaderboard import small_board


def prepared(world: World, names: tuple[str, ...] = (), **options: object) -> exporting.Audit:
    found = compared.load(world.run, names)
    options = {"count": 30, **options}
    return exporting.prepare(found, exporting.images_in(world.store, found), **options)  # type: ignore[arg-type]


def data_of(page: bytes) -> dict[str, object]:
    text = page.decode()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_the_same_seed_gives_the_same_bytes_and_another_another(world: World) -> None:
    first, again, other = (prepared(world, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.key.items_sha256 != other.key.items_sha256


def test_pictures_lie_where_the_key_says(world: World) -> None:
    audit = prepared(world)
    cells = {cell.identity: cell for cell in load_cells(world.run).values()}
    shown = Counter()
    for item in audit.key.items:
        pair = audit.key.pairs[item.pair]
        sides = (pair.first, pair.second) if item.first_left else (pair.second, pair.first)
        for side, number in zip(("left", "right"), sides, strict=True):
            method = audit.key.methods[number]
            cell = cells[method.cells[str(item.train_seed)]]
            part = next(p for p in cell.evaluations if p.prompt_set == item.prompt_set)  # type: ignore[union-attr]
            sample = part.samples[part.image_seeds.index(item.image_seed)]
            file = world.store / "artefacts/sample" / sample / "images" / f"{item.row:05d}.png"
            assert audit.files[f"images/{item.item}-{side}.png"] == file.read_bytes()
        shown[item.image_seed, item.train_seed] += 1
    assert len(shown) == 4


def test_nothing_on_the_page_names_a_method(world: World) -> None:
    audit = prepared(world)
    page = audit.files["index.html"].decode()
    for method in audit.key.methods:
        assert not re.search(rf"\b{re.escape(method.shown)}\b", page.replace("base-uri", ""))
        assert not any(identity[:12] in page for identity in method.cells.values())
    assert set(data_of(audit.files["index.html"])) == {"audit", "question", "items"}
    assert not any(re.search("|".join(SPOILT), name) for name in audit.files)


def test_pairs_share_the_questions_and_sides_are_balanced(world: World) -> None:
    key = prepared(world, count=31).key
    assert sorted(Counter(item.pair for item in key.items).values()) == [10, 10, 11]
    for number in range(3):
        sides = [item.first_left for item in key.items if item.pair == number]
        assert abs(2 * sum(sides) - len(sides)) <= 1
    assert [(i.pair, i.row) for i in key.items] != sorted((i.pair, i.row) for i in key.items)


def test_a_prompt_is_asked_once_a_pair_whatever_sets_it_lies_in(world: World) -> None:
    found = compared.load(world.run, ["smpo", "base"])
    key = prepared(world, ("smpo", "base"), count=1000).key
    texts = [found.tables[item.prompt_set].texts[item.row] for item in key.items]
    assert len(texts) == len(set(texts)) == found.design.distinct < len(found.texts)
    assert all(item.chance == 1.0 for item in key.items)


def test_disputed_prompts_are_shown_more_often_by_known_chances() -> None:
    stratum = np.r_[np.zeros(300, np.int64), np.ones(100, np.int64)]
    shown = np.zeros(400)
    for number in range(300):
        drawn = sampling.stratified(stratum, 60, number)
        assert len(drawn.rows) == len(set(drawn.rows.tolist())) == 60
        shown[drawn.rows] += 1 / 300
    chance = dict(zip(drawn.stratum.tolist(), drawn.chance.tolist(), strict=True))
    assert chance[1] / chance[0] == pytest.approx(sampling.DISPUTED_RATE, rel=0.05)
    for number in (0, 1):
        assert shown[stratum == number].mean() == pytest.approx(chance[number])
        # Nobody is left out, nobody is a favourite: five standard deviations.
        spread = 5 * (chance[number] / 300) ** 0.5
        assert np.abs(shown[stratum == number] - chance[number]).max() < spread


def test_strata_are_where_scorers_name_both_winners() -> None:
    outcomes = np.array([[1, 1, 0.5, 0, 0.5], [1, 0, 0, 0.5, 0.5]])
    assert sampling.strata(outcomes).tolist() == [0, 1, 0, 0, 0]
    few = sampling.stratified(np.array([0, 0, 0, 0, 1, 1]), 3, "few")
    assert few.strata == (("all", 6, 3),)
    assert few.chance.tolist() == [0.5] * 3
    every = sampling.stratified(np.array([0, 1, 1]), 9, "all")
    assert every.rows.tolist() == [0, 1, 2]


def test_prompts_are_escaped_and_the_policy_allows_only_our_own() -> None:
    hostile = '</script><img src=x onerror=alert(1)> {{data}} "\u2028 <!-- {{style}}'
    picture = Picture("images/a.png", b"png")
    page = render("abc", hostile, [PageItem("abc-001", hostile, picture, picture)])["index.html"]
    text = page.decode()
    assert hostile not in text
    assert text.count("</script>") == 2
    assert data_of(page)["items"][0]["prompt"] == hostile  # type: ignore[index]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    rules = policy[1].replace("&#x27;", "'")
    assert rules.startswith("default-src 'none'; ")
    assert "unsafe" not in rules
    assert "http" not in text.replace("http-equiv", "")
    for kind, what in (("script", "script"), ("style", "style")):
        body = re.search(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert body
        digest = hashlib.sha256(body[1].encode()).digest()
        assert f"{what}-src 'sha256-{base64.b64encode(digest).decode()}'" in rules


def test_a_single_file_holds_its_pictures(world: World) -> None:
    apart, one = prepared(world), prepared(world, single_file=True)
    assert apart.key == one.key
    assert list(one.files) == ["index.html"]
    assert one.files["index.html"].count(b"data:image/png;base64,") == 2 * len(one.key.items)


def test_the_command_writes_page_and_key_apart(bench: Bench, world: World, tmp_path: Path) -> None:
    arguments = ["audit", "export", str(world.run), "--store", str(world.store), "--out", "asked"]
    code, out, error = bench(*arguments, "--methods", "smpo,base", "--sample", "20")
    assert (code, error) == (0, "")
    assert "smpo against base: 20 (" in out
    assert "says little" in out
    key = load_key(tmp_path / "asked-key.json")
    assert [m.shown for m in key.methods] == ["smpo", "base"]
    assert not list((tmp_path / "asked").rglob("*key*"))
    pictures = list((tmp_path / "asked" / "images").iterdir())
    assert len(pictures) == 40
    code, _, error = bench(*arguments)
    assert code == 1
    assert "is there already" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--methods", "smpo,dop"), "unknown method of"),
        (("--methods", "smpo"), "compares two or more"),
        (("--methods", "smpo,smpo"), "names smpo twice"),
        (("--image-seeds", "7"), "there are images of 0, 1"),
        (("--image-seeds", "x"), "expected whole numbers"),
        (("--sample", "4"), "fewer than 2 questions each"),
        (("--protocol", "zzz"), "unknown protocol 'zzz'"),
        (("--store", "elsewhere"), "is not there; name the store"),
        (("--out", "."), "name the folder itself"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    bench: Bench, world: World, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    given = {"--store": str(world.store), "--out": "asked"} | {options[0]: options[1]}
    code, _, error = bench(
        "audit", "export", str(world.run), *(x for o in given.items() for x in o)
    )
    assert code == 1
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_runs_is_refused(bench: Bench) -> None:
    code, _, error = bench("audit", "export", "nowhere")
    assert (code, error.count("\n")) == (1, 1)
    assert "nowhere" in error
    assert "name one with results/" in error


def test_methods_are_named_by_label_and_protocols_by_digest(tmp_path: Path) -> None:
    longer = [
        dataclasses.replace(small_board.cell(name, seed=seed), training=small_board.steps(99))
        for name, seed in (("dpo", 0), ("sft", 0), ("sft", 1))
    ]
    small_board.save(tmp_path, [*small_board.cells(), *longer])
    with pytest.raises(BenchError, match="holds results of 2 protocols; name one with --protocol"):
        compared.load(tmp_path)
    short = small_board.cell("dpo").protocol.digest
    found = compared.load(tmp_path, ["base", "Diffusion-DPO"], short[:10])
    assert found.protocol == short
    assert [method.shown for method in found.methods] == ["base", "dpo"]
    # The base stands beside every train seed.
    other = compared.load(tmp_path, (), longer[0].protocol.digest)
    assert [method.shown for method in other.methods] == ["dpo", "sft", "base"]
    assert list(other.methods[2].cells) == ["0", "1"]
    assert other.pair(1, 2).train_seeds == (0, 1)
    assert other.pair(0, 1).train_seeds == (0,)
    lone = dataclasses.replace(other.methods[0], cells={"7": other.methods[0].cells["0"]})
    apart = dataclasses.replace(other, methods=(lone, *other.methods[1:]))
    with pytest.raises(BenchError, match="no train seed in common"):
        apart.pair(0, 1)


def test_results_that_do_not_know_their_images_are_refused(tmp_path: Path) -> None:
    small = make(tmp_path, prompts=8)
    path, cell = next((p, c) for p, c in load_cells(small.run).items() if c.method == "dpo")
    parts = tuple(dataclasses.replace(p, samples=()) for p in cell.evaluations)  # type: ignore[union-attr]
    path.unlink()
    save_record(small.run, dataclasses.replace(cell, evaluations=parts))  # type: ignore[type-var]
    with pytest.raises(BenchError, match=r"dpo--seed0.*does not say where its images are"):
        prepared(small, ("smpo", "dpo"))


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    small = make(tmp_path, prompts=8)
    for file in small.store.rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(BenchError, match=r"\.png: the image of prompt \d+ of \w+ cannot be shown"):
        prepared(small)


def test_a_changed_key_is_refused(world: World, tmp_path: Path) -> None:
    audit = prepared(world)
    key = exporting.write(audit, tmp_path / "asked")
    assert load_key(key) == audit.key
    assert isinstance(audit.key, AuditKey)
    whole = key.read_text()
    for old, new, said in (
        ('"first_left": true', '"first_left": false', "sha256 does not match"),
        ('"chance": ', '"chance": 1', "pair or stratum that is not there"),
        ('"kind": "audit-key"', '"kind": "result"', "is no key of an audit"),
        ('"schema": 1', '"schema": 9', "schema is 9"),
        ('"seed": 0', '"seed": "0"', "record.seed"),
        ("{", "", "cannot be read as JSON"),
    ):
        assert old in whole
        key.write_text(whole.replace(old, new, 1))
        with pytest.raises(BenchError, match=re.escape(said)):
            load_key(key)
