"""Recipes that nobody should have written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hostile.harness import RUN, Case, Content, World, judge, little_memory, sample

WORLD = """\
backbone: toy[path=pipeline]
pairs: ./pairs.parquet
prompts: [./prompts.tsv]
scorers: [channel]
methods: [dpo]
training: {steps: 2, batch_size: 2}
sampling: {steps: 2, guidance: 2.0}
"""


def bad(name: str, text: Content, *says: str, **more: object) -> Case:
    """The world's recipe replaced by another; planning must refuse it."""
    return Case(id=name, files={"recipe.yaml": text}, ends="refused", says=says, **more)  # type: ignore[arg-type]


def named(name: str, text: str) -> Case:
    """A recipe whose name is no folder's: another folder is named, and none outside is written."""

    def nothing_outside(here: Path) -> None:
        assert [path.name for path in here.parent.iterdir()] == ["here"]

    recipe = f"{WORLD}name: {text}\n"
    return Case(id=name, files={"recipe.yaml": recipe}, check=nothing_outside)


def line(name: str, text: str, *says: str) -> Case:
    """A key of the recipe set to something on the command line."""
    return Case(id=name, command=f"{RUN} --set '{text}'", ends="refused", says=says)


def bomb(levels: int = 9) -> str:
    """A few hundred bytes of YAML that mean 9^levels words."""
    rows = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join([*rows, f"methods: *a{levels - 1}"])


TEXTS = [
    bad("empty", ""),
    bad("blank", "   \n\n"),
    bad("comment-only", "# nothing\n"),
    bad("a-list", "- a\n- b\n"),
    bad("a-number", "42\n"),
    bad("a-text", "just words\n"),
    bad("null", "null\n"),
    bad("two-documents", WORLD + "---\n" + WORLD),
    bad("tabs", "training:\n\tsteps: 3\n"),
    bad("unclosed", "methods: [dpo, smpo\n"),
    bad("unclosed-quote", "name: 'toy\n"),
    bad("unknown-anchor", "methods: *nowhere\n"),
    bad("python-tag", "name: !!python/object/apply:os.system ['touch pwned']\n"),
    bad("unknown-tag", "name: !mine 3\n"),
    bad("alias-bomb", bomb()),
    bad("alias-bomb-in-a-block", bomb(8).replace("methods", "training")),
    bad("self-alias", "methods: &m [*m]\n"),
    bad("deep-list", "methods: " + "[" * 5000 + "]" * 5000),
    bad("deep-mapping", "training: " + "{a: " * 5000 + "1" + "}" * 5000),
    bad("deep-indent", "".join(f"{' ' * i}a:\n" for i in range(1500))),
    bad("duplicate-key", WORLD + "methods: [sft]\n", "methods"),
    bad("duplicate-key-in-block", WORLD.replace("steps: 2, b", "steps: 2, steps: 3, b"), "steps"),
    bad("duplicate-key-in-method", WORLD.replace("[dpo]", "[{dpo: {beta: 1, beta: 2}}]"), "beta"),
    bad("merge-keys-loop", "a: &a {<<: *a}\n"),
    bad("not-utf8", b"name: caf\xe9\n"),
    bad("utf16", "name: toy\n".encode("utf-16")),
    bad("nul-bytes", b"name: toy\x00\n"),
    bad("control-characters", b"name: to\x07y\n"),
    bad("binary", bytes(range(256)) * 4),
    bad("bom-and-junk", b"\xef\xbb\xbf\xff\xfe"),
    bad("huge-integer", WORLD.replace("steps: 2, b", f"steps: {'9' * 5000}, b")),
    bad("huge-float", WORLD.replace("guidance: 2.0", "guidance: 1e999")),
    bad("nan", WORLD.replace("guidance: 2.0", "guidance: .nan"), "guidance"),
    bad("infinite", WORLD.replace("guidance: 2.0", "guidance: .inf"), "guidance"),
    bad("steps-true", WORLD.replace("steps: 2, b", "steps: true, b"), "steps"),
    bad("steps-date", WORLD.replace("steps: 2, b", "steps: 2024-01-01, b"), "steps"),
    bad("steps-bad-date", WORLD.replace("steps: 2, b", "steps: 2024-13-45, b")),
    bad("steps-sexagesimal", WORLD.replace("steps: 2, b", "steps: -1:30, b")),
    bad("steps-float", WORLD.replace("steps: 2, b", "steps: 2.5, b"), "steps"),
    bad("steps-zero", WORLD.replace("steps: 2, b", "steps: 0, b"), "steps"),
    bad("steps-negative", WORLD.replace("steps: 2, b", "steps: -1, b"), "steps"),
    bad("steps-null", WORLD.replace("steps: 2, b", "steps: null, b"), "steps"),
    bad("steps-list", WORLD.replace("steps: 2, b", "steps: [2], b"), "steps"),
    named("name-a-date", "2024-01-01"),
    named("name-climbs", "../../escaped"),
    named("name-absolute", "/proc/escaped"),
    bad("name-dots", WORLD + "name: ..\n", "name"),
    bad("name-empty", WORLD + "name: ''\n", "name"),
    bad("name-newline", WORLD + 'name: "a\\nb"\n', "name"),
    bad("name-nul", WORLD + 'name: "a\\0b"\n', "name"),
    bad("name-very-long", WORLD + f"name: {'n' * 5000}\n", "name"),
    bad("name-escape-sequence", WORLD + 'name: "\\e[31mred"\n', "name"),
    bad("name-lone-surrogate", WORLD + 'name: "\\ud800"\n'),
    bad("extends-itself", WORLD + "extends: ./recipe.yaml\n", "extends"),
    bad("extends-nothing", WORLD + "extends: ./gone.yaml\n", "gone.yaml"),
    bad("extends-a-list", WORLD + "extends: [a, b]\n", "extends"),
    bad("extends-a-folder", WORLD + "extends: ./pipeline\n"),
    bad("methods-a-mapping", WORLD.replace("[dpo]", "{dpo: {}}"), "methods"),
    bad("methods-numbers", WORLD.replace("[dpo]", "[1, 2]"), "methods"),
    bad("methods-empty", WORLD.replace("[dpo]", "[]"), "methods"),
    bad("methods-null", WORLD.replace("[dpo]", "null"), "methods"),
    bad("methods-two-keys", WORLD.replace("[dpo]", "[{dpo: {}, sft: {}}]"), "methods"),
    bad("method-options-a-list", WORLD.replace("[dpo]", "[{dpo: [1]}]"), "dpo"),
    bad("training-a-list", WORLD.replace("{steps: 2, batch_size: 2}", "[1]"), "training"),
    bad("training-missing", WORLD.replace("training: {steps: 2, batch_size: 2}\n", "")),
    bad("unknown-key", WORLD + "traning: {}\n", "traning", "training"),
    bad("key-a-number", WORLD + "3: 4\n"),
    bad("key-null", WORLD + "null: 4\n"),
    bad("key-a-list", WORLD + "? [a, b]\n: 4\n"),
    bad("key-in-block-a-number", WORLD.replace("{steps: 2, b", "{1: 2, steps: 2, b")),
    bad("seeds-beyond-int64", WORLD + f"seeds: [{2**70}]\n", "seeds"),
    bad("seeds-true", WORLD + "seeds: [true]\n", "seeds"),
    bad("seeds-empty", WORLD + "seeds: []\n", "seeds"),
    bad(
        "image-seeds-twice",
        WORLD.replace("guidance: 2.0", "guidance: 2.0, image_seeds: [0, 0]"),
        "image_seeds",
    ),
    bad(
        "image-seeds-beyond-int64",
        WORLD.replace("guidance: 2.0", f"guidance: 2.0, image_seeds: [{2**64}]"),
        "image_seeds",
    ),
    bad("limit-zero", WORLD + "limit: 0\n", "limit"),
    bad("limit-true", WORLD + "limit: true\n", "limit"),
    bad("broken-share-one", WORLD + "max_broken_share: 1.0\n", "max_broken_share"),
    bad("broken-share-nan", WORLD + "max_broken_share: .nan\n", "max_broken_share"),
    bad("scorers-twice-named", WORLD.replace("[channel]", "[chanel]"), "channel"),
    bad("a-folder", lambda path: _replace(path, lambda: path.mkdir())),
    bad("a-link-to-nothing", lambda path: _replace(path, lambda: path.symlink_to("gone"))),
    bad("a-link-to-itself", lambda path: _replace(path, lambda: path.symlink_to(path.name))),
    bad("a-pipe", lambda path: _replace(path, lambda: os.mkfifo(path)), "recipe.yaml"),
    bad("gone", lambda path: path.unlink(), "recipe.yaml"),
]

LINES = [
    line("set-nothing", ""),
    line("set-no-value", "training.steps"),
    line("set-no-key", "=3"),
    line("set-dots", "...=3"),
    line("set-under-a-value", "name.x.y=3"),
    line("set-inf", "sampling.guidance=.inf", "guidance"),
    line("set-nan", "training.weight_decay=.nan", "weight_decay"),
    line("set-true", "training.steps=true", "steps"),
    line("set-huge", f"training.steps={'9' * 4500}"),
    line("set-tag", "name=!!python/name:os.system"),
    line("set-unclosed", "methods=[dpo"),
    line("set-deep", "methods=" + "[" * 3000 + "]" * 3000),
    line("set-duplicate", "training={steps: 1, steps: 2, batch_size: 2}", "steps"),
    line("set-markup", "training.[red]x[/red]=3"),
    line("set-newline", "training.a\nb=3"),
    line("set-surrogate", "name=\udc80"),
    Case(id="seeds-words", command=f"{RUN} --seeds a,b", ends="refused"),
    Case(id="seeds-huge", command=f"{RUN} --seeds {2**80}", ends="refused", says=("seed",)),
    Case(id="seeds-digits", command=f"{RUN} --seeds {'9' * 5000}", ends="refused"),
    Case(id="seeds-negative", command=f"{RUN} --seeds=-1 --dry-run"),
    Case(id="seeds-twice", command=f"{RUN} --seeds 1,1 --dry-run"),
    Case(id="seeds-arabic", command=f"{RUN} --seeds '٣' --dry-run"),
    Case(id="limit-word", command=f"{RUN} --limit few", ends="refused"),
    Case(id="limit-zero-option", command=f"{RUN} --limit 0", ends="refused", says=("limit",)),
    Case(id="unknown-option", command=f"{RUN} --metods dpo", ends="refused"),
    Case(id="option-without-value", command="run --recipe", ends="refused"),
    Case(id="recipe-a-device", command="run --recipe /dev/null", ends="refused"),
    Case(
        id="recipe-endless",
        command="run --recipe /dev/zero",
        where="fork",
        before=little_memory,
        ends="refused",
    ),
    Case(id="recipe-empty-name", command="run --recipe ''", ends="refused"),
    Case(id="recipe-long-name", command=f"run --recipe {'r' * 5000}", ends="refused"),
    Case(id="recipe-long-path", command=f"run --recipe ./{'r' * 5000}.yaml", ends="refused"),
    Case(id="recipe-newline", command="run --recipe 'a\nb'", ends="refused"),
    Case(id="recipe-markup", command="run --recipe '[bold]x[/bold]'", ends="refused"),
]


def _replace(path: Path, make: object) -> None:
    path.unlink()
    make()  # type: ignore[operator]


@pytest.mark.parametrize("case", sample([*TEXTS, *LINES], every=4))
def test_recipe(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
