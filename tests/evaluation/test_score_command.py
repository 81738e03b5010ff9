"""`bench score` from end to end."""

from __future__ import annotations

import csv
import errno
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import Scorer
from bench.cli import main as cli
from bench.cli.score import score
from bench.lib import images as image_files
from bench.registry.registry import Entry, Registry
from bench.scoring import chunks
from bench.scoring.chunks import CHUNK
from tests import toy
from tests.evaluation.conftest import Bench

COLOURS = np.random.default_rng(3).integers(0, 256, (200, 3))


def write_images(folder: Path, count: int) -> None:
    """Image i is of colour i throughout, so that the toy scorer gives its red exactly."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, colour in enumerate(COLOURS[:count].tolist()):
        image = Image.new("RGB", (3 + i % 5, 4), tuple(colour))
        image.save(folder / f"{i:05d}.png")


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Ten images, and their prompts in categories A and B."""
    write_images(tmp_path / "ten", 10)
    toy.write_prompts(tmp_path / "ten.tsv", 10)
    return tmp_path


TEN = ("score", "ten", "--prompts=ten.tsv", "--device=cpu")


@dataclass(frozen=True, kw_only=True)
class Short(Scorer):
    """Reads three letters, scores by the lightness, between 0 and 1."""

    name: ClassVar[str] = "short"

    def load(self, device: str) -> Short:
        return self

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        return np.array([np.asarray(image).mean() / 255 for image in images])

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        return [i for i, prompt in enumerate(prompts) if len(prompt) > 3]


@pytest.fixture
def with_short(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Bench:
    own = Entry(kind="scorers", cls=Short, package="toys", package_version="1")
    registry = Registry([*toy.registry().entries(), own])
    monkeypatch.setattr("bench.registry.registry.default_registry", lambda: registry)
    return bench


def no_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, looking at an image is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("was scored again")

    monkeypatch.setattr(toy.Channel, "load", refuse)
    monkeypatch.setattr(image_files, "decode", refuse)


def test_the_table_holds_every_image_with_prompt_group_and_scores(bench: Bench, ten: Path) -> None:
    code, out, err = bench(*TEN, "--scorers=channel,channel[index=2]")
    assert (code, err) == (0, "")
    assert "10 images of 10 prompts: ten" in out
    table = pd.read_parquet("bench-runs/scores/ten.parquet")
    columns = ["image", "prompt", "category", "challenge", "channel", "channel[index=2]"]
    assert list(table.columns) == columns
    assert table["image"].tolist() == [f"{i:05d}.png" for i in range(10)]
    assert table["prompt"].tolist() == [f"toy {i}" for i in range(10)]
    assert table["category"].tolist() == ["A", "B"] * 5
    np.testing.assert_array_equal(table["channel"], COLOURS[:10, 0])
    np.testing.assert_array_equal(table["channel[index=2]"], COLOURS[:10, 2])
    reds = COLOURS[:10, 0]
    for figure in (reds.mean(), np.median(reds), reds.std()):
        assert f"{figure:.4f}" in out
    assert "bench-runs/scores/ten.parquet" in out


def test_json_is_all_there_is_on_standard_output(bench: Bench, ten: Path) -> None:
    code, out, err = bench(*TEN, "--scorers=channel", "--by=category,challenge", "--json")
    assert code == 0
    found = json.loads(out)
    assert "score with channel: 10/10" in err
    assert (found["images"], found["failures"]) == ("ten", {})
    channel = found["scorers"]["channel"]
    reds = COLOURS[:10, 0].astype(float)
    assert channel["n"] == 10
    assert channel["mean"] == pytest.approx(reds.mean(), abs=1e-12)
    assert channel["median"] == np.median(reds)
    assert channel["std"] == pytest.approx(reds.std(), abs=1e-12)
    assert channel["by"]["category"]["B"]["n"] == 5
    assert channel["by"]["category"]["B"]["mean"] == pytest.approx(reds[1::2].mean(), abs=1e-12)
    assert list(channel["by"]["challenge"]) == ["Basic"]


def test_diffusers_which_takes_seconds_to_import_is_not_needed(
    bench: Bench, ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("diffusers", "diffusers.utils.logging"):
        monkeypatch.setitem(sys.modules, name, None)
    assert bench(*TEN, "--scorers=channel")[0] == 0


def test_every_format_keeps_every_digit_and_every_gap(with_short: Bench, ten: Path) -> None:
    lines = [f'ten/{i:05d}.png,"a, ""{i}""",{"" if i == 4 else "B"}' for i in range(10)]
    (ten / "list.csv").write_text("\n".join(["image,prompt,style", *lines]))
    for name in ("s.parquet", "s.csv", "s.json"):
        code, _, _ = with_short("score", "list.csv", "--scorers=short", f"--out=deep/{name}")
        assert code == 0
    exact = pd.read_parquet("deep/s.parquet")["short"].tolist()
    assert len({f"{score:.15g}" for score in exact}) == 10
    expected = [
        (f"ten/{i:05d}.png", f'a, "{i}"', None if i == 4 else "B", exact[i]) for i in range(10)
    ]
    found = json.loads(Path("deep/s.json").read_text())
    assert [tuple(row.values()) for row in found] == expected
    with Path("deep/s.csv").open(newline="") as file:
        rows = [*csv.reader(file)][1:]
    assert [(*r[:2], r[2] or None, float(r[3])) for r in rows] == expected
    assert pd.read_parquet("deep/s.parquet")["style"].isna().tolist() == [i == 4 for i in range(10)]


def test_groups_are_broken_down_without_being_asked_for(bench: Bench, ten: Path) -> None:
    reds = COLOURS[:10, 0].astype(float)
    own = [f"{values.mean():.4f} ± {values.std():.4f}" for values in (reds[::2], reds[1::2])]
    _, out, _ = bench(*TEN, "--scorers=channel")
    assert out.count(": mean ± standard deviation of the images") == 2
    assert all(figures in out for figures in own)
    found = json.loads(bench(*TEN, "--scorers=channel", "--json")[1])["scorers"]["channel"]["by"]
    assert {group: [*values] for group, values in found.items()} == {
        "category": ["A", "B"],
        "challenge": ["Basic"],
    }
    _, out, _ = bench(*TEN, "--scorers=channel", "--by=challenge,challenge")
    assert out.count(": mean ± standard deviation of the images") == 1
    assert "By challenge: mean" in out


def test_a_group_of_many_values_is_printed_only_when_asked_for(bench: Bench, ten: Path) -> None:
    rows = (f"ten/{i % 10:05d}.png,toy,kind {i}\n" for i in range(31))
    (ten / "list.csv").write_text("image,prompt,category\n" + "".join(rows))
    command = ("score", "list.csv", "--scorers=channel", "--device=cpu")
    _, out, _ = bench(*command)
    assert "By category: 31 values, see --json or --by category" in out
    assert "kind 7" not in out
    assert "kind 7" in bench(*command, "--by=category")[1]
    found = json.loads(bench(*command, "--json")[1])["scorers"]["channel"]["by"]
    assert len(found["category"]) == 31


def test_a_column_that_is_no_group_yet_is_made_one_as_the_message_says(
    bench: Bench, ten: Path
) -> None:
    rows = (f"toy {i},{'XY'[i % 2]}\n" for i in range(10))
    (ten / "p.csv").write_text("prompt,mood\n" + "".join(rows))
    command = ("score", "ten", "--scorers=channel", "--device=cpu", "--by=mood", "--prompts")
    code, _, err = bench(*command, "p.csv")
    assert code == 1
    told = err.strip().removesuffix("'").partition("make it one: --prompts '")[2]
    assert told == "file[path=p.csv,groups=mood]"
    assert "By mood: mean" in bench(*command, told)[1]


def test_a_narrow_terminal_breaks_no_number(
    bench: Bench, ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorers = "--scorers=channel,channel[index=1]"
    figures = re.findall(r"\d+\.\d{4}", bench(*TEN, scorers)[1])
    assert len(figures) == 18
    monkeypatch.setenv("COLUMNS", "50")
    narrow = bench(*TEN, scorers)[1].split()
    assert [word for word in figures if word not in narrow] == []


def test_sets_of_like_names_have_tables_of_their_own(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a\n")
    for name in ("sd1.4", "sd1.5"):
        write_images(tmp_path / name, 1)
        assert bench("score", name, "--prompts=one.txt", "--scorers=channel")[0] == 0
        (tmp_path / "sd.csv").write_text(f"image,prompt\n{name}/00000.png,a\n")
    (tmp_path / "sd.jsonl").write_text('{"image": "sd1.4/00000.png", "prompt": "a"}')
    for name in ("sd.csv", "sd.jsonl"):
        assert bench("score", name, "--scorers=channel")[0] == 0
    tables = {path.name for path in tmp_path.glob("bench-runs/scores/*")}
    assert tables == {f"{n}.parquet" for n in ("sd1.4", "sd1.5", "sd.csv", "sd.jsonl")}


def test_line_ends_inside_prompts_add_no_rows_to_a_csv(bench: Bench, ten: Path) -> None:
    prompts = ["a\rb", "a\nb", "a\r\nb", 'a "b", c']
    rows = [{"image": "ten/00000.png", "prompt": prompt} for prompt in prompts]
    (ten / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert bench("score", "list.jsonl", "--scorers=channel", "--out=s.csv")[0] == 0
    with Path("s.csv").open(newline="") as file:
        assert [row["prompt"] for row in csv.DictReader(file)] == prompts
    assert len(pd.read_csv("s.csv")) == 4


def test_a_table_that_cannot_be_written_after_all_costs_no_scores(
    bench: Bench, ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("bench.cli.score._write", refuse)
        code, _, err = bench(*TEN, "--scorers=channel", "--out=s.csv")
    assert (code, err) == (
        1,
        "error: --out s.csv: cannot be written (No space left on device); the scores are kept, "
        "so another --out scores nothing again\n",
    )
    no_scoring(monkeypatch)
    assert bench(*TEN, "--scorers=channel", "--out=s.json")[0] == 0


def test_what_is_finished_is_not_scored_again_wherever_it_lies(
    bench: Bench, ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(*TEN, "--scorers=channel")[0] == 0
    (ten / "moved").mkdir()
    lines = ["image\tprompt\n"]
    for i in range(10):
        (ten / "ten" / f"{i:05d}.png").rename(ten / "moved" / f"{i}.image")
        lines.append(f"moved/{i}.image\ttoy {i}\n")
    (ten / "list.tsv").write_text("".join(lines))
    with monkeypatch.context() as patch:
        patch.setattr(toy.Channel, "load", None)
        code, out, _ = bench("score", "list.tsv", "--scorers=channel", "--device=cpu")
        assert code == 0
        assert "Running" not in out
        no_scoring(patch)
        assert bench("score", "list.tsv", "--scorers=channel", "--by=category")[0] == 1
        assert bench("score", "list.tsv", "--scorers=channel")[0] == 0
    np.testing.assert_array_equal(
        pd.read_parquet("bench-runs/scores/list.tsv.parquet")["channel"], COLOURS[:10, 0]
    )


@pytest.mark.parametrize("what", ["image", "prompt", "option"])
def test_whatever_changes_a_score_is_noticed(
    bench: Bench, ten: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    assert bench(*TEN, "--scorers=channel")[0] == 0
    scorer = "channel"
    match what:
        case "image":
            Image.new("RGB", (4, 4), (1, 2, 3)).save(ten / "ten" / "00004.png")
        case "prompt":
            text = (ten / "ten.tsv").read_text()
            (ten / "ten.tsv").write_text(text.replace("toy 4", "boy 4"))
        case "option":
            scorer = "channel[index=1]"
    code, out, _ = bench(*TEN, f"--scorers={scorer}")
    assert code == 0
    assert f"score with {scorer}: 10/10" in out
    table = pd.read_parquet("bench-runs/scores/ten.parquet")
    assert table[scorer][4] == {"image": 1, "prompt": COLOURS[4, 0], "option": COLOURS[4, 1]}[what]


def test_a_scorer_that_fails_leaves_the_others(bench: Bench, ten: Path) -> None:
    scorers = "--scorers=faulty[how=clear],channel,faulty,faulty[how=nan]"
    code, out, err = bench(*TEN, scorers, "--json")
    assert code == 1
    found = json.loads(out)
    assert list(found["scorers"]) == ["channel"]
    assert list(found["failures"]) == ["faulty[how=clear]", "faulty", "faulty[how=nan]"]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert errors[0] == ("error: score with faulty[how=clear]: the weights are missing; fetch them")
    assert "ZeroDivisionError: deep inside (traceback: " in errors[1]
    assert "no finite score for 00000.png" in errors[2]
    assert list(pd.read_parquet("bench-runs/scores/ten.parquet").columns)[-1] == "channel"
    code, out, _ = bench(*TEN, "--scorers=faulty", "--out=none.csv")
    assert code == 1
    assert not (ten / "none.csv").exists()


def test_undecodable_images_are_all_named_before_any_is_scored(
    bench: Bench, ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ten / "ten" / "00003.png"
    Image.effect_noise((64, 64), 50).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    (ten / "ten" / "00005.png").write_bytes(b"")
    (ten / "ten" / "00008.png").write_text("hello")
    with monkeypatch.context() as patch:
        patch.setattr(toy.Channel, "load", None)
        code, _, err = bench(*TEN, "--scorers=channel")
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert "ten: 3 of 10 images cannot be decoded: 00003.png (image file is truncated" in err
    assert "00005.png (it is empty), 00008.png (cannot identify image file)" in err
    for row in (3, 5, 8):
        (ten / "ten" / f"{row:05d}.png").write_bytes(whole)
    assert bench(*TEN, "--scorers=channel")[0] == 0


def test_cut_prompts_are_counted_also_when_nothing_is_scored(
    with_short: Bench, tmp_path: Path
) -> None:
    write_images(tmp_path / "three", 3)
    (tmp_path / "three.txt").write_text("long one\nabc\nlong one\n")
    warning = (
        "warning: short reads only the beginning of 1 of 2 distinct prompts: their ends are "
        "beyond its limit\n"
    )
    command = ("score", "three", "--prompts=three.txt", "--scorers=short,channel")
    assert with_short(*command)[2] == warning
    assert with_short(*command)[2] == warning
    found = json.loads(with_short(*command, "--json")[1])["scorers"]
    assert found["short"]["prompts_cut"] == 1
    assert found["channel"]["prompts_cut"] == 0


def test_hpsv2s_layout_gives_its_benchmark_table(with_short: Bench, tmp_path: Path) -> None:
    """Against a computation by pandas, on prompts in HPDv2's own files."""
    (tmp_path / "prompts").mkdir()
    rng, levels = np.random.default_rng(0), {}
    for style, count in (("anime", 170), ("photo", 90)):
        texts = json.dumps([f"{style} {i}" for i in range(count)])
        (tmp_path / "prompts" / f"{style}.json").write_text(texts)
        (tmp_path / "images" / style).mkdir(parents=True)
        levels[style] = rng.integers(0, 256, count)
        for i, level in enumerate(levels[style].tolist()):
            Image.new("RGB", (1, 1), (level,) * 3).save(
                tmp_path / "images" / style / f"{i:05d}.png"
            )
    command = ("score", "images", "--prompts=prompts", "--scorers=short,channel")
    code, out, _ = with_short(*command, "--json")
    assert code == 0
    found = json.loads(out)["scorers"]
    assert "hpsv2_benchmark" not in found["channel"]
    board = found["short"]["hpsv2_benchmark"]
    _, _, printed = with_short(*command)[1].partition("HPSv2's benchmark, times 100")
    lines = printed.splitlines()
    for style, values in levels.items():
        series = pd.Series(values / 255 * 100)
        means = series.groupby(series.index // 80).mean()
        assert board["styles"][style]["mean"] == pytest.approx(means.mean(), abs=1e-9)
        assert board["styles"][style]["std"] == pytest.approx(means.std(ddof=0), abs=1e-9)
        row = next(line for line in lines if line.split()[:1] == [style])
        expected = f"{style} {len(values)} {means.mean():.2f} ± {means.std(ddof=0):.4f}"
        assert row.split() == expected.split()
    everything = 100 * np.concatenate([*levels.values()]).mean() / 255
    assert board["average"] == pytest.approx(everything, abs=1e-9)
    assert f"Average 260 {everything:.2f}".split() in [line.split() for line in lines]


def test_no_more_images_are_in_memory_than_three_chunks(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk that is scored, the one that is collected, and what is decoded ahead."""
    import weakref

    rows = "".join(f"a.png,prompt {i}\n" for i in range(6 * CHUNK))
    (tmp_path / "many.csv").write_text("image,prompt\n" + rows)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    alive: set[int] = set()
    most = [0]
    original = image_files.decode

    def counted(data: bytes) -> Image.Image:
        image = original(data)
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most[0] = max(most[0], len(alive))
        return image

    monkeypatch.setattr(image_files, "decode", counted)
    assert bench("score", "many.csv", "--scorers=channel", "--device=cpu")[0] == 0
    assert CHUNK <= most[0] <= 3 * CHUNK + 4


def test_killed_in_the_middle_it_goes_on_from_there(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "images", 200)
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(200)))
    command = ("score", "images", "--prompts=prompts.txt", "--scorers=channel", "--device=cpu")
    assert _killed_at_chunk(3, tmp_path, command) == -signal.SIGKILL
    assert not list(tmp_path.glob("bench-runs/scores/*"))
    sizes = []
    original = toy.Channel.score

    def counted(
        self: toy.Channel, images: Sequence[Image.Image], prompts: Sequence[str]
    ) -> np.ndarray:
        sizes.append(len(images))
        return original(self, images, prompts)

    monkeypatch.setattr(toy.Channel, "score", counted)
    assert bench(*command)[0] == 0
    assert sizes == [CHUNK, 200 - 3 * CHUNK]
    table = pd.read_parquet("bench-runs/scores/images.parquet")
    np.testing.assert_array_equal(table["channel"], COLOURS[:, 0])
    assert not list(tmp_path.glob("bench-runs/store/partial/*"))


def _killed_at_chunk(chunk: int, folder: Path, command: Sequence[str]) -> int:
    """Run the command in a forked process that kills itself as it saves a chunk."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        saves, original = [0], chunks.write_atomic

        def counted(path: Path, data: bytes) -> None:
            saves[0] += 1
            if saves[0] == chunk:
                os.kill(os.getpid(), signal.SIGKILL)
            original(path, data)

        with chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "write_atomic", counted)
            patch.setattr(sys, "argv", ["bench", *command])
            cli.main()
    finally:
        os._exit(1)


def test_every_option_is_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "score.md").read_text(encoding="utf-8")
    options = set(inspect.signature(score).parameters) - {"context", "images"}
    for name in options:
        flag = name.removeprefix("as_").replace("_", "-")
        assert f"| `--{flag}` |" in documented


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "--scorers=channel"], "gone: there is no such file or folder"),
        (["ten", "--scorers=channel"], "ten is a folder: say with --prompts"),
        ([*TEN[1:], "--scorers=chanel"], "unknown scorer 'chanel'. Did you mean 'channel'?"),
        ([*TEN[1:], "--scorers=,"], "--scorers names nothing"),
        ([*TEN[1:], "--scorers=channel", "--by=catgory"], "Did you mean 'category'?"),
        ([*TEN[1:], "--scorers=channel", "--out=s.txt"], "expected the name of a .parquet, .csv,"),
        ([*TEN[1:], "--scorers=channel", "--by=moood"], "unknown group 'moood'"),
        ([*TEN[1:], "--scorers=channel", "--out=ten.csv/s.csv"], "--out ten.csv/s.csv: cannot be"),
        ([*TEN[1:], "--scorers=channel", "--out=/proc/s.csv"], "--out /proc/s.csv: cannot be"),
        (["ten.csv", "--scorers=channel,truth", "--by=truth"], "the group 'truth' and another"),
        (["ten.csv", "--scorers=channel", "--by=prompt"], "the group 'prompt' and another"),
        ([*TEN[1:], "--scorers=channel", "--device=tpu9"], "--device tpu9: not a device"),
        (["ten", "--prompts=partie", "--scorers=channel"], "unknown prompt set 'partie'"),
        (["ten.csv", "--scorers=channel", "--out=ten.csv"], "--out ten.csv is what is to be read"),
        (["ten", "--prompts=p.csv", "--scorers=channel", "--out=p.csv"], "is what is to be read"),
        (
            ["ten", "--prompts=file[path=p.csv]", "--scorers=channel", "--out=p.csv"],
            "--out p.csv is what is to be read",
        ),
        (
            ["ten", "--prompts=lists", "--scorers=channel", "--out=lists/anime.json"],
            "--out lists/anime.json lies among the prompts of lists; choose another folder",
        ),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    bench: Bench, ten: Path, arguments: list[str], message: str
) -> None:
    inputs = {
        "ten.csv": "image,prompt,truth\nten/00000.png,a,yes\n",
        "p.csv": "prompt\na\n",
        "lists/anime.json": '["a"]',
    }
    (ten / "lists").mkdir()
    for name, text in inputs.items():
        (ten / name).write_text(text)
    code, _, err = bench("score", *arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(ten.glob("bench-runs/scores/*"))
    assert not list(ten.glob("bench-runs/store/artefacts/*"))
    assert {name: (ten / name).read_text() for name in inputs} == inputs


@pytest.mark.slow
def test_processes_share_the_work_and_change_no_score(tmp_path: Path) -> None:
    """With a scorer of the installed package, in processes of their own."""
    write_images(tmp_path / "images", 150)
    (tmp_path / "prompts.txt").write_text(
        "".join(f"a small red circle, number {i}\n" for i in range(150))
    )
    command = ("score", "images", "--prompts=prompts.txt", "--scorers=gold", "--device=cpu")
    done = subprocess.run(
        [sys.executable, "-m", "bench", *command, "--num-processes=2", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr.count("score with gold: 150/150")) == (0, 1)
    (manifest,) = tmp_path.glob("bench-runs/store/artefacts/score/*/artefact.json")
    assert json.loads(manifest.read_text())["cost"]["processes"] == 2
    import bench

    table = pd.read_parquet(tmp_path / "bench-runs" / "scores" / "images.parquet")
    files = [tmp_path / "images" / name for name in table["image"]]
    alone = bench.score(files, table["prompt"].tolist(), ["gold"], device="cpu")
    np.testing.assert_array_equal(table["gold"], alone["gold"])
    assert json.loads(done.stdout)["scorers"]["gold"]["n"] == 150
