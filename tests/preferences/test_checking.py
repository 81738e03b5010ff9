"""`bench data check` and `convert`: exact counts of what was put in, and clear mistakes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bench_plugins.preference_sets import PickAPic
from PIL import Image

from bench.api.kinds import PreferencePair, Prompt
from bench.cli.main import main
from bench.lib.images import decode
from bench.preferences.checking import SAMPLES, Check, Leak, Rows, check, normalised, picture
from bench.preferences.inspecting import BrokenRow
from bench.preferences.writing import PairWriter
from tests import toy
from tests.toy import write_pairs


def _image(seed: int, size: tuple[int, int] = (8, 8)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _set(folder: Path) -> PickAPic:
    """Twelve pairs with one of everything."""
    rows: list[dict[str, Any]] = [
        {"caption": f"a cat {i}", "image_0": _image(2 * i), "image_1": _image(2 * i + 1)}
        for i in range(12)
    ]
    rows[1] |= {"image_1": b"broken"}
    rows[2] |= {"human": 0.5}
    rows[3] |= {"human": 0.0, "model_0": "a", "model_1": "b"}
    rows[4] |= {"model_0": "a", "model_1": "a"}
    rows[5] |= {"image_1": rows[5]["image_0"]}
    # The pair of row 6 again, the other way round.
    rows[7] |= {"caption": rows[6]["caption"]}
    rows[7] |= {"image_0": rows[6]["image_1"], "image_1": rows[6]["image_0"]}
    rows[8] |= {"caption": " ", "image_0": rows[6]["image_0"]}
    rows[9] |= {"caption": "x" * 50}
    rows[10] |= {"image_0": _image(99, (16, 24)), "image_1": _image(98, (37, 101))}
    rows[11] |= {"caption": "A  Cat 0"}
    path = folder / "p.parquet"
    with PairWriter(path, {}) as writer:
        for row, values in enumerate(rows):
            writer.add(toy.pair(row=row, **({"human": 1.0} | values)))
    return PickAPic(path=str(path))


def _check(pairs: PickAPic, **changes: Any) -> tuple[Check, list[PreferencePair]]:
    options = {"prompt_sets": {}, "max_broken_share": 0.1, "advance": lambda done: None} | changes
    return check(pairs, options.pop("prompt_sets"), **options)


def test_everything_is_counted_exactly(tmp_path: Path) -> None:
    found, _ = _check(_set(tmp_path))
    assert (found.pairs, found.usable) == (12, True)
    assert found.broken == (BrokenRow(row=1, reason="image_1: cannot identify image file"),)
    assert (found.ties, found.preferred_0, found.preferred_1) == (1, 9, 1)
    assert found.same_model == 1
    assert found.models == {"a": 3, "b": 1}
    assert found.captions.distinct == 10
    assert found.captions.empty == Rows(count=1, first=(8,))
    assert (found.captions.longest, found.captions.longest_row) == (50, 9)
    assert found.captions.most_pairs == 2
    assert found.duplicates.same_images == Rows(count=1, first=(5,))
    assert found.duplicates.repeated == Rows(count=1, first=(7,))
    # 22 images in 11 pairs, less one (row 5), two (row 7) and one (row 8).
    assert found.duplicates.images == 18
    assert (found.duplicates.shared, found.duplicates.most_shared) == (2, 3)
    assert found.sizes == {"8x8": 20, "16x24": 1, "37x101": 1}
    assert next(iter(found.sizes)) == "8x8"
    assert found.aspects == {"1:1": 20, "2:3": 1, "0.37:1": 1}


def test_prompts_of_an_evaluation_set_are_found_in_any_case(tmp_path: Path) -> None:
    prompts = [Prompt(text, {}) for text in ("a cat 0", "a CAT 2 ", "a dog", "a dog", "a cat 99")]
    found, _ = _check(_set(tmp_path), prompt_sets={"parti": prompts, "other": [Prompt("b", {})]})
    leak = Leak(
        prompt_set="parti",
        prompts=4,
        exact=1,
        close=2,
        # "a cat 0" is the caption of row 0, and but for case of row 11; "a cat 2" of row 2.
        pairs=3,
        first=("a CAT 2 ", "a cat 0"),
    )
    assert found.leaks[0] == leak
    assert (found.leaks[1].close, found.leaks[1].pairs) == (0, 0)
    assert normalised(" A\t CAT\n") == "a cat"


def test_too_many_broken_pairs_or_none_at_all_are_unusable(tmp_path: Path) -> None:
    pairs = PickAPic(path=str(write_pairs(tmp_path / "p.parquet", count=10, broken=[1, 2])))
    assert _check(pairs, max_broken_share=0.2)[0].usable
    assert not _check(pairs, max_broken_share=0.19)[0].usable
    broken = PickAPic(path=str(write_pairs(tmp_path / "b.parquet", count=2, broken=[0, 1])))
    assert not _check(broken, max_broken_share=1)[0].usable


def test_the_sample_is_drawn_by_a_fixed_seed_from_all_pairs(tmp_path: Path) -> None:
    pairs = PickAPic(path=str(write_pairs(tmp_path / "p.parquet", count=90, broken=[3])))
    first, second = (_check(pairs)[1] for _ in range(2))
    assert first == second
    rows = [pair.row for pair in first]
    assert len(rows) == SAMPLES
    assert rows == sorted(set(rows))
    assert rows[-1] > 30
    few = PickAPic(path=str(write_pairs(tmp_path / "f.parquet", count=3)))
    assert [pair.row for pair in _check(few)[1]] == [0, 1, 2]


def test_the_picture_frames_the_winner(tmp_path: Path) -> None:
    white = Image.new("RGB", (128, 128), "white")
    white.save(tmp_path / "white.png")
    data = (tmp_path / "white.png").read_bytes()
    pairs = [
        toy.pair(row=i, caption="c", image_0=data, image_1=data, human=human)
        for i, human in enumerate((1.0, 0.0, 0.5))
    ]
    colours = np.asarray(picture(pairs)).reshape(-1, 3).astype(int)
    green = (colours[:, 1] - colours[:, 0] > 60).sum()
    only = np.asarray(picture(pairs[:1])).reshape(-1, 3).astype(int)
    assert green == 2 * (only[:, 1] - only[:, 0] > 60).sum() > 0


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(sys, "argv", ["bench", "data", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_the_report_is_for_people_and_for_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _set(tmp_path)
    (tmp_path / "mine.txt").write_text("a cat 0\nsomething else\n")
    options = ("p.parquet", "--max-broken-share", "0.1", "--prompts", "mine.txt")
    assert _run(monkeypatch, tmp_path, "check", *options) == 0
    shown = capsys.readouterr().out
    for text in ("p.parquet: 12 pairs", "row 1 (image_1: cannot", "2:3", "1 of 2 prompts of mine"):
        assert text in shown
    assert decode((tmp_path / "bench-runs" / "data" / "p.png").read_bytes()).width > 200
    assert _run(monkeypatch, tmp_path, "check", *options, "--json", "--out", "deep/s.png") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["pairs"], data["ties"], data["leaks"][0]["close"]) == (12, 1, 1)
    assert data["picture"] == "deep/s.png"
    assert (tmp_path / "deep" / "s.png").exists()


def test_an_unusable_set_ends_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "p.parquet", count=10, broken=[1])
    assert _run(monkeypatch, tmp_path, "check", "p.parquet") == 1
    told = capsys.readouterr()
    assert "1 of 10 pairs have an image that cannot be decoded, more than the 2.0%" in told.err
    assert "not looked for. Name the prompts that you evaluate on with --prompts" in told.out


def test_converting_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0.png").write_bytes(_image(0))
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected\na,0.png,0.png\nb,0.png,1.png\n")
    assert _run(monkeypatch, tmp_path, "convert", "p.csv", "o.parquet") == 0
    told = capsys.readouterr().out
    assert "1 pairs written to o.parquet" in told
    assert "1 left out: row 1 (rejected: there is no file 1.png)" in told
    first = (tmp_path / "o.parquet").read_bytes()
    noted = json.loads(pq.read_schema(tmp_path / "o.parquet").metadata[b"provenance"])
    assert (noted["source"]["name"], noted["scorers"]) == ("table", [])
    assert _run(monkeypatch, tmp_path, "convert", "p.csv", "o.parquet") == 1
    assert "o.parquet is there; choose another name, or give --overwrite" in capsys.readouterr().err
    assert _run(monkeypatch, tmp_path, "convert", "table:p.csv", "o.parquet", "--overwrite") == 0
    assert (tmp_path / "o.parquet").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "gone.parquet"), "there is no such file or folder"),
        (("check", "note.txt"), "no plugin reads such files"),
        (("check", "pickapi:x"), "unknown preference set 'pickapi'. Did you mean 'pickapic'"),
        (("check", "p.parquet", "--prompts", "gone.txt"), "there is no such file or folder"),
        (("check", "p.parquet", "--out", "note.txt/x.png"), "--out note.txt/x.png: cannot be"),
        (("convert", "p.parquet", "o.csv"), "o.csv: expected the name of a .parquet file"),
        (("convert", "p.parquet", "note.txt/o.parquet"), "note.txt/o.parquet: cannot be written"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    write_pairs(tmp_path / "p.parquet", count=2)
    (tmp_path / "note.txt").write_text("a")
    assert _run(monkeypatch, tmp_path, *arguments) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert message in errors[0]
