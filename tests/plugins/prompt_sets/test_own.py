from __future__ import annotations

from pathlib import Path

import pytest
from bench_plugins.prompt_sets import PromptFile

from bench import BenchError, Prompt


@pytest.mark.parametrize(
    ("header", "used"),
    [("n,text", 1), ("caption,text", 0), ("caption,Prompt", 1), ("Prompt,prompt", 1)],
)
def test_the_first_known_column_holds_the_prompts(tmp_path: Path, header: str, used: int) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\nfirst,second\n")
    (prompt,) = PromptFile(path=str(path)).load()
    assert prompt == Prompt(("first", "second")[used], {})


def test_another_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,long_prompt\nshort,long\n")
    assert PromptFile(path=str(path), prompt="long_prompt").load() == (Prompt("long", {}),)
    with pytest.raises(BenchError, match="did you mean 'long_prompt'"):
        PromptFile(path=str(path), prompt="longprompt").load()
    path.write_text("words,n\na,1\n")
    with pytest.raises(BenchError, match=r"name the one that holds .*prompt=\.\.\..*words, n"):
        PromptFile(path=str(path)).load()


def test_only_named_or_known_columns_are_groups(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text("Prompt\tCategory\tstyle\tmood\na\tArts\tink\tcalm\n")
    assert PromptFile(path=str(path)).load() == (Prompt("a", {"category": "Arts", "style": "ink"}),)
    assert PromptFile(path=str(path), groups=("mood", "Category")).load() == (
        Prompt("a", {"mood": "calm", "Category": "Arts"}),
    )
    with pytest.raises(BenchError, match=r"'moood' is missing \(did you mean 'mood'\?\)"):
        PromptFile(path=str(path), groups=("moood",)).load()


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.txt").write_text("a\n")
    assert PromptFile(path="~/p.txt").load() == (Prompt("a", {}),)
