from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from bench_plugins.prompt_sets import (
    DrawBench,
    GenEval,
    HPDv2,
    PartiPrompts,
    PickAPicTest,
    PromptFile,
    bench_prompt_sets,
)

from bench import BenchError, Prompt, PromptSet
from tests.plugins.prompt_sets.conftest import HubFile

PARTI = b'Prompt\tCategory\tChallenge\tNote\n"open\tArts\tBasic\t\na "b" c\tFood\tComplex\tn\n'
STYLES = ("anime", "concept-art", "paintings", "photo")


def pick_a_pic(path: Path) -> bytes:
    """Three rows in Pick-a-Pic's schema, two of one caption."""
    pd.DataFrame(
        {"caption": ["a", "b", "a"], "jpg_0": [b"?"] * 3, "label_0": [0.0, 1.0, 0.5]}
    ).to_parquet(path)
    return path.read_bytes()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_parti_knows_no_quoting(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_bytes(PARTI)
    assert PartiPrompts(path=str(tmp_path / "p.tsv")).load() == (
        Prompt('"open', {"category": "Arts", "challenge": "Basic"}),
        Prompt('a "b" c', {"category": "Food", "challenge": "Complex"}),
    )


def test_styles_are_file_names_and_duplicates_stay(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('["x", "x"]')
    (tmp_path / "a.json").write_text('["y"]')
    (tmp_path / "drawbench.json").write_text('["of another set"]')
    prompts = HPDv2(path=str(tmp_path)).load()
    assert [(p.text, p.groups["style"]) for p in prompts] == [("y", "a"), ("x", "b"), ("x", "b")]
    assert len(HPDv2(path=str(tmp_path / "b.json")).load()) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match=r"holds no \.json list"):
        HPDv2(path=str(tmp_path / "empty")).load()


def test_captions_alone_are_read_of_pick_a_pic(tmp_path: Path) -> None:
    pick_a_pic(tmp_path / "p.parquet")
    prompts = PickAPicTest(path=str(tmp_path / "p.parquet")).load()
    assert prompts == (Prompt("a", {}), Prompt("b", {}), Prompt("a", {}))


@pytest.mark.parametrize("header", ["Prompts,Category", "prompts,category"])
def test_drawbench_in_both_spellings(tmp_path: Path, header: str) -> None:
    (tmp_path / "d.csv").write_text(f'{header}\n"A car, red.",Colors\n')
    prompts = DrawBench(path=str(tmp_path / "d.csv")).load()
    assert prompts == (Prompt("A car, red.", {"category": "Colors"}),)


def test_drawbench_as_hpdv2_has_it(tmp_path: Path) -> None:
    (tmp_path / "drawbench.json").write_text('["A red car."]')
    prompts = DrawBench(path=str(tmp_path / "drawbench.json")).load()
    assert prompts == (Prompt("A red car.", {}),)


def test_geneval_groups_by_tag(tmp_path: Path) -> None:
    entries = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
        {"tag": "counting", "include": [], "exclude": [], "prompt": "two clocks"},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert GenEval(path=str(path)).load() == (
        Prompt("a bench", {"tag": "single_object"}),
        Prompt("two clocks", {"tag": "counting"}),
    )


READERS = (
    ("p.tsv", PARTI, "parti"),
    ("P.TSV", b"\xef\xbb\xbf" + PARTI.replace(b"\n", b"\r\n"), "parti"),
    ("p.tsv", b"Prompt\tCategory\nx\ty\n", "file"),
    ("p.json", b'\n [ "x"]', "hpdv2"),
    ("drawbench.json", b'["x"]', "drawbench"),
    ("p.json", b'[{"prompt": "x"}]', "file"),
    ("p.json", b"{}", "file"),
    ("p.jsonl", b'{"tag": "t", "prompt": "x"}\n', "geneval"),
    ("p.jsonl", b'{"prompt": "x"}\n', "file"),
    ("p.jsonl", b'"x"\n', "file"),
    ("p.csv", b"prompts,category\nx,y\n", "drawbench"),
    ("p.csv", b"Prompts,Category\nx,y\n", "drawbench"),
    ("p.csv", b"prompt,category\nx,y\n", "file"),
    ("p.txt", b"x\n", "file"),
    ("p.csv", b'"', "file"),
    ("p.tsv", b"\xff\xfe\x00", "file"),
    ("p.json", b"", "file"),
    ("p.jsonl", b"\xff", "file"),
    ("p.parquet", b"PAR1", "file"),
    ("p.png", b"x", None),
    ("p.csv/x", b"x", None),
    ("empty/x", b"x", None),
    ("p.csv/x.json", b"{}", "hpdv2"),
    ("folder/drawbench.json", b"[]", None),
)


@pytest.mark.parametrize(("name", "data", "reader"), READERS)
def test_a_path_has_one_reader(tmp_path: Path, name: str, data: bytes, reader: str | None) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
    path = tmp_path / Path(name).parts[0]
    assert [c.name for c in bench_prompt_sets() if c.reads(path)] == ([reader] if reader else [])


def test_parquet_files_have_one_reader(tmp_path: Path) -> None:
    pick_a_pic(tmp_path / "pick.parquet")
    pd.DataFrame({"caption": ["x"]}).to_parquet(tmp_path / "own.parquet")
    readers = {
        path.stem: [c.name for c in bench_prompt_sets() if c.reads(path)]
        for path in tmp_path.iterdir()
    }
    assert readers == {"pick": ["pickapic-test"], "own": ["file"]}


def test_nothing_reads_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "gone.csv")
    for name in ("gone.tsv", "gone.csv", "gone.json", "gone.jsonl", "gone.parquet", "link.csv"):
        assert not any(c.reads(tmp_path / name) for c in bench_prompt_sets())


def test_a_pinned_file_of_the_hub(hub_file: HubFile, monkeypatch: pytest.MonkeyPatch) -> None:
    parti = PartiPrompts()
    hub_file(parti.path, parti.revision, "PartiPrompts.tsv", PARTI)
    with pytest.raises(BenchError, match=r"PartiPrompts\.tsv has another checksum than expected"):
        parti.load()
    monkeypatch.setattr(PartiPrompts, "files", {"PartiPrompts.tsv": digest(PARTI)})
    assert [p.text for p in parti.load()] == ['"open', 'a "b" c']
    assert PartiPrompts(revision="main").load() == parti.load()


def test_the_lists_of_the_hub(hub_file: HubFile, monkeypatch: pytest.MonkeyPatch) -> None:
    hpd = HPDv2()
    for style in STYLES:
        hub_file(hpd.path, hpd.revision, f"benchmark/{style}.json", f'["in {style}"]'.encode())
    with pytest.raises(BenchError, match=r"benchmark/anime\.json has another checksum"):
        hpd.load()
    sums = {f"benchmark/{style}.json": digest(f'["in {style}"]'.encode()) for style in STYLES}
    monkeypatch.setattr(HPDv2, "files", sums)
    assert hpd.load() == tuple(Prompt(f"in {style}", {"style": style}) for style in STYLES)


def test_pick_a_pic_of_the_hub(
    hub_file: HubFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pick_a_pic(tmp_path / "p.parquet")
    pick = PickAPicTest(path="someone/mirror")
    (name,) = pick.files
    hub_file(pick.path, "0" * 40, name, data)
    with pytest.raises(BenchError, match=r"another checksum .*pickapic-test\[path=FILE\.parquet\]"):
        pick.load()
    monkeypatch.setattr(PickAPicTest, "files", {name: digest(data)})
    assert [p.text for p in pick.load()] == ["a", "b", "a"]


def test_drawbench_of_the_hub(hub_file: HubFile) -> None:
    draw = DrawBench()
    data = b"Prompts,Category\r\nA red car.,Colors\r\n"
    hub_file(draw.path, draw.revision, "DrawBench Prompts - Sheet1.csv", data)
    assert draw.load() == (Prompt("A red car.", {"category": "Colors"}),)


@pytest.mark.usefixtures("hub_file")
@pytest.mark.parametrize("benchmark", [PartiPrompts, HPDv2, PickAPicTest, DrawBench])
def test_an_unreachable_hub_is_said_in_one_sentence(benchmark: type[PromptSet]) -> None:
    with pytest.raises(BenchError, match=r"cannot get \S+@\S+: .*path of a local copy") as caught:
        benchmark().load()
    named = "pickapic-test[path=FILE.parquet]" in str(caught.value)
    assert named == (benchmark is PickAPicTest)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [PartiPrompts, HPDv2, PickAPicTest, DrawBench, GenEval, PromptFile]
)
def test_a_path_that_is_not_there(tmp_path: Path, wrong: type[PromptSet]) -> None:
    with pytest.raises(BenchError, match=r"gone\.tsv"):
        wrong(path=str(tmp_path / "gone.tsv")).load()  # type: ignore[call-arg]


def test_the_documentation_names_every_set_and_its_source() -> None:
    text = (Path(__file__).parents[3] / "docs" / "prompt_sets.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for prompt_set in bench_prompt_sets():
        assert prompt_set.name in rows
    for source in (PartiPrompts(), HPDv2(), PickAPicTest(), DrawBench()):
        assert f"`{source.path}`" in rows[source.name]


def test_local_files_are_read_without_heavy_imports(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_bytes(PARTI)
    (tmp_path / "l.json").write_text('["x"]')
    (tmp_path / "d.csv").write_text("prompts,category\nx,y\n")
    (tmp_path / "m.jsonl").write_text('{"tag": "t", "prompt": "x"}\n')
    (tmp_path / "own.txt").write_text("x\n")
    pick_a_pic(tmp_path / "p.parquet")
    code = """
import sys
from pathlib import Path
from bench_plugins.prompt_sets import bench_prompt_sets
for path in sorted(Path(sys.argv[1]).iterdir()):
    (reader,) = [c for c in bench_prompt_sets() if c.reads(path)]
    print(reader.name, len(reader(path=str(path)).load()))
heavy = {"torch", "diffusers", "transformers", "datasets", "huggingface_hub", "pandas"}
print(sorted(heavy & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "drawbench 1",
        "hpdv2 1",
        "geneval 1",
        "file 1",
        "pickapic-test 3",
        "parti 2",
        "[]",
    ]
