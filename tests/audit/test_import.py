"""What an import checks, and what it finds where the truth is known."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_plugins.shapes import population

from bench.audit import compared, exporting
from bench.audit.findings import find, findings_text
from bench.audit.records import AuditKey, Stratum, load_key
from bench.audit.votes import load_votes
from bench.leaderboard.run_folder import MARK, RunFolder
from bench.lib.errors import BenchError
from tests.audit.voting import World, make, write_votes
from tests.commands import Bench


@dataclass(frozen=True)
class Asked:
    key: AuditKey
    page: Path
    key_file: Path
    found: compared.Compared


@pytest.fixture(scope="module")
def asked(world: World, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    found = compared.load(world.run)
    audit = exporting.prepare(found, exporting.images_in(world.store, found), count=75)
    page = tmp_path_factory.mktemp("asked") / "page"
    return Asked(audit.key, page, exporting.write(audit, page), found)


def truth(world: World, asked: Asked, first: int, second: int) -> float:
    """Share of the population for the first, over all pictures that there are."""
    found, image = asked.found, exporting.images_in(world.store, asked.found)
    weights, total = found.weights, 0.0
    for (name, row), weight in zip(found.rows, weights, strict=True):
        shares = []
        for seed in ("0", "1"):
            for image_seed in found.image_seeds:
                ours, theirs = (
                    world.measures[image(m.cells[seed], name, row, image_seed).read_bytes()]
                    for m in (found.methods[first], found.methods[second])
                )
                shares.append(float(population.share_from(ours, theirs)))
        total += weight * np.mean(shares)
    return total


def test_people_find_what_is_true(world: World, asked: Asked, tmp_path: Path) -> None:
    file = write_votes(tmp_path / "votes.csv", world.votes(asked.key, asked.page, people=40))
    findings = find(asked.key, asked.found, load_votes([file], asked.key))
    assert findings.votes == 40 * 75
    assert findings.alpha is not None
    assert 0.05 < findings.alpha < 0.6
    assert len(findings.raters) == 40
    for pair, finding in zip(asked.key.pairs, findings.pairs, strict=True):
        assert finding.powered
        assert finding.human
        true = truth(world, asked, pair.first, pair.second)
        # Interval and truth are of the same estimand: macro mean, distinct prompts, all images.
        assert finding.powered.low < true < finding.powered.high
        assert finding.human.low < true < finding.human.high
    by_name = {s.scorer: s for s in findings.scorers}
    assert by_name["gold"].agreement
    assert by_name["gold"].agreement.share > 0.65
    assert {s.scorer for s in findings.scorers if s.in_loop} == {"vividness"}
    order = [name for name, _ in findings.ranks]
    assert order.index("smpo") < order.index("base")
    held_out = {(p.first, p.second): p.scorers for p in findings.pairs}
    assert "vividness" not in held_out["smpo", "base"]
    assert "vividness" in held_out["dpo", "base"]
    assert findings_text(findings) == findings_text(
        find(asked.key, asked.found, load_votes([file], asked.key))
    )


def test_sides_are_undone(asked: Asked, tmp_path: Path) -> None:
    """Whoever always picks the left says nothing of methods; whoever picks one method does."""
    rows = {
        "left": [[i.item, "left", "1", "a"] for i in asked.key.items],
        "first": [[i.item, "left" if i.first_left else "right", "1", "a"] for i in asked.key.items],
    }
    sides, method = (
        find(asked.key, asked.found, load_votes([write_votes(tmp_path / n, r)], asked.key))
        for n, r in rows.items()
    )
    for pair in sides.pairs:
        assert pair.human
        assert pair.human.low < 0.5 < pair.human.high
    assert sides.raters[0].left == sides.votes
    for pair in method.pairs:
        assert pair.human
        assert pair.human.win_rate == pytest.approx(1.0)
        assert pair.human.low > 0.75
    assert method.alpha is None


def test_half_answered_audits_count(world: World, asked: Asked, tmp_path: Path) -> None:
    rows = world.votes(asked.key, asked.page, people=1)
    file = write_votes(tmp_path / "votes.csv", rows[:40])
    findings = find(asked.key, asked.found, load_votes([file], asked.key))
    assert (findings.votes, findings.voted_items, findings.items) == (40, 40, 75)
    assert sum(p.powered.prompts for p in findings.pairs if p.powered) == 40
    few = write_votes(tmp_path / "few.csv", rows[:1])
    findings = find(asked.key, asked.found, load_votes([few], asked.key))
    assert findings.ranks == ()
    assert all(pair.powered is None for pair in findings.pairs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows, key: rows[1].__setitem__(0, f"{key.audit}-999"), "row 3: item"),
        (lambda rows, key: rows[0].__setitem__(0, "00000000-001"), "is of another audit"),
        (lambda rows, key: rows[2].__setitem__(1, "both"), "row 4: vote is 'both', not left"),
        (lambda rows, key: rows[2].__setitem__(1, ""), "row 4: vote is ''"),
        (lambda rows, key: rows[0].__setitem__(2, "-1"), "row 2: seconds is '-1'"),
        (lambda rows, key: rows[0].__setitem__(2, "nan"), "row 2: seconds is 'nan'"),
        (lambda rows, key: rows[0].__setitem__(3, " "), "row 2: rater is empty"),
        (lambda rows, key: rows.append(list(rows[0])), "a second time, after"),
        (lambda rows, key: rows[1].append("more"), "row 3: has 5 cells, not 4"),
        (lambda rows, key: rows[1].__setitem__(3, '"open'), "is no CSV"),
        (lambda rows, key: rows.clear(), "holds no votes"),
    ],
)
def test_every_row_is_checked(asked: Asked, tmp_path: Path, change: object, said: str) -> None:
    rows = [[item.item, "tie", "1.5", "me"] for item in asked.key.items]
    change(rows, asked.key)  # type: ignore[operator]
    file = write_votes(tmp_path / "votes.csv", rows)
    with pytest.raises(BenchError, match=r"votes\.csv") as caught:
        load_votes([file], asked.key)
    assert said in str(caught.value)


def test_files_are_checked_together(asked: Asked, tmp_path: Path) -> None:
    rows = [[item.item, "tie", "1.5", "=me"] for item in asked.key.items]
    one = write_votes(tmp_path / "one.csv", rows)
    two = write_votes(tmp_path / "two.csv", [[*row[:3], "you"] for row in rows])
    assert {vote.rater for vote in load_votes([one, two], asked.key)} == {"=me", "you"}
    copy = write_votes(tmp_path / "copy.csv", rows)
    with pytest.raises(BenchError, match=r"copy\.csv: row 2: '=me' votes on .* after .*one\.csv"):
        load_votes([one, two, copy], asked.key)
    other = tmp_path / "other.csv"
    other.write_text("image,score\n1,2\n")
    with pytest.raises(BenchError, match=r"other\.csv: row 1: the columns are"):
        load_votes([other], asked.key)


def test_one_file_given_twice_counts_once_or_not_at_all(asked: Asked, tmp_path: Path) -> None:
    rows = [[i.item, "left", "1", "a"] for i in asked.key.items]
    file = write_votes(tmp_path / "votes.csv", rows)
    with pytest.raises(BenchError, match="a second time, after"):
        load_votes([file, file], asked.key)


def test_a_stratum_without_prompts_changes_nothing(asked: Asked, tmp_path: Path) -> None:
    none = Stratum(name="nothing", prompts=0, sampled=0)
    pairs = tuple(replace(pair, strata=(*pair.strata, none)) for pair in asked.key.pairs)
    rows = [[i.item, "left", "1", "a"] for i in asked.key.items]
    votes = load_votes([write_votes(tmp_path / "v.csv", rows)], asked.key)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find(replace(asked.key, pairs=pairs), asked.found, votes)
    assert findings_text(found) == findings_text(find(asked.key, asked.found, votes))


def forged(key_file: Path, place: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads(key_file.read_text())
    change(document["record"])
    text = json.dumps(document["record"], sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    place.write_text(json.dumps(document))
    return place


def test_a_forged_key_names_no_file_elsewhere_and_no_image_that_is_not_there(
    asked: Asked, tmp_path: Path
) -> None:
    path = forged(asked.key_file, tmp_path / "k.json", lambda key: key.update(audit="../../x"))
    with pytest.raises(BenchError, match=r"k\.json: audit is '\.\./\.\./x', not the start"):
        load_key(path)
    for change in ({"row": 10**9}, {"train_seed": 77}, {"image_seed": 77}):
        forged(asked.key_file, path, lambda key, c=change: key["items"][0].update(c))
        key = load_key(path)
        file = write_votes(tmp_path / "v.csv", [[i.item, "left", "1", "a"] for i in key.items])
        with pytest.raises(BenchError, match=f"item {key.items[0].item} of the key: the run has"):
            find(key, asked.found, load_votes([file], key))


def test_the_command_writes_findings_into_a_runs_folder(bench: Bench, tmp_path: Path) -> None:
    small = make(tmp_path / "own", prompts=12)
    (tmp_path / "bench-runs").mkdir()
    marked = tmp_path / "bench-runs" / "mine"
    with RunFolder(marked).held() as folder:
        folder.replace(
            {
                str(file.relative_to(small.run)): file.read_bytes()
                for file in small.run.rglob("*.json")
            }
        )
    store = ("--store", str(small.store))
    assert bench("audit", "export", "mine", *store, "--sample", "30", "--out", "page")[0] == 0
    key = tmp_path / "page-key.json"
    from bench.audit.records import load_key

    loaded = load_key(key)
    write_votes(tmp_path / "votes.csv", small.votes(loaded, tmp_path / "page", people=3))
    code, out, error = bench("audit", "import", str(marked), "votes.csv", "--key", str(key))
    assert (code, error) == (0, "")
    assert "90 votes of 3 people on 30 of 30 questions" in out
    assert "Krippendorff's alpha" in out
    assert "smpo over base" in out
    assert "Ranks by people" in out
    place = marked / "audits" / f"{loaded.audit}.json"
    saved = json.loads(place.read_text())
    assert saved["audit"] == loaded.audit
    RunFolder(marked).check()
    assert f"audits/{loaded.audit}.json" in (marked / MARK).read_text()
    code, out, error = bench(
        "audit", "import", str(marked), "votes.csv", "--key", str(key), "--json"
    )
    assert (code, json.loads(out)) == (0, saved)
    code, _, error = bench("audit", "import", str(marked), "votes.csv", "--key", "votes.csv")
    assert code == 1
    assert "votes.csv: cannot be read as JSON" in error


def test_another_run_is_refused(asked: Asked, tmp_path: Path) -> None:
    other = make(tmp_path, prompts=8)
    with pytest.raises(BenchError, match="holds no result of dpo"):
        compared.of_key(other.run, asked.key)
