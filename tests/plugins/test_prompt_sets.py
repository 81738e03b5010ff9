from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_plugins.prompt_sets import HPDv2, PartiPrompts

from bench import BenchError, Prompt

HEADER = "Prompt\tCategory\tChallenge\tNote\n"


def test_quotes_are_plain_characters_and_order_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text(HEADER + '"quoted start\tArts\tBasic\t\na "b" c\tAnimals\tComplex\tnote\n')
    assert PartiPrompts(path=str(path)).load() == (
        Prompt('"quoted start', {"category": "Arts", "challenge": "Basic"}),
        Prompt('a "b" c', {"category": "Animals", "challenge": "Complex"}),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (HEADER, "holds no prompt"),
        ("Prompt\tChallenge\nx\ty\n", "column 'Category' is missing"),
        (HEADER + "a\tb\tc\td\ne\tf\n", "line 3 has 2 of 4 columns"),
        (HEADER + " \tb\tc\td\n", "line 2: the prompt is empty"),
    ],
)
def test_bad_tables_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_text(text)
    with pytest.raises(BenchError, match=message) as caught:
        PartiPrompts(path=str(path)).load()
    assert str(path) in str(caught.value)


def test_styles_are_file_names_and_duplicates_stay(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('["x", "x"]')
    (tmp_path / "a.json").write_text('["y"]')
    prompts = HPDv2(path=str(tmp_path)).load()
    assert [(p.text, p.groups["style"]) for p in prompts] == [("y", "a"), ("x", "b"), ("x", "b")]
    assert len(HPDv2(path=str(tmp_path / "b.json")).load()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not valid JSON"),
        ("{}", "expected a JSON list"),
        ("[1]", "expected a JSON list"),
        ('["a", ""]', "entry 1: the prompt is empty"),
        ("[]", "holds no prompt"),
    ],
)
def test_bad_lists_name_file_and_entry(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "style.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=message) as caught:
        HPDv2(path=str(path)).load()
    assert str(path) in str(caught.value)


def test_paths_find_their_reader(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(["x"]))
    assert HPDv2.reads(tmp_path)
    assert HPDv2.reads(tmp_path / "a.json")
    assert PartiPrompts.reads(tmp_path / "b.tsv")
    assert not PartiPrompts.reads(tmp_path)
    assert not HPDv2.reads(tmp_path / "b.tsv")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read"):
        PartiPrompts(path=str(tmp_path / "gone.tsv")).load()
    (tmp_path / "latin.tsv").write_bytes(HEADER.encode() + b"caf\xe9\ta\tb\tc\n")
    with pytest.raises(BenchError, match="UTF-8"):
        PartiPrompts(path=str(tmp_path / "latin.tsv")).load()
