"""The prompt files: real formats, disjoint, from the seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from bench_plugins.prompt_sets import HPDv2, PartiPrompts
from bench_plugins.shapes import grammar
from bench_plugins.shapes.prompts import PromptLists, PromptsConfig, build_prompts, prompt_lists


@pytest.fixture(scope="module")
def lists() -> PromptLists:
    return prompt_lists(PromptsConfig())


def test_all_sets_are_disjoint_and_without_repetition(lists: PromptLists) -> None:
    texts = [r.prompt for r in lists.parti]
    texts += [t for group in lists.hpd.values() for t in group]
    texts += [*lists.dev, *lists.pairs]
    assert len(texts) == len(set(texts)) == 160 + 160 + 128 + 1200


def test_every_prompt_is_of_the_grammar(lists: PromptLists) -> None:
    for text in [r.prompt for r in lists.parti] + [*lists.dev, *lists.pairs]:
        scene = grammar.parse(text)
        assert scene is not None
        assert grammar.caption(scene) == text


def test_style_lists_ask_for_their_style(lists: PromptLists) -> None:
    assert set(lists.hpd) == set(grammar.STYLES)
    for style, texts in lists.hpd.items():
        assert len(texts) == 40
        assert all(text.endswith(f", {style}") for text in texts)


def test_challenges_ask_for_what_they_say(lists: PromptLists) -> None:
    for row in lists.parti:
        scene = grammar.parse(row.prompt)
        assert scene is not None
        assert (len(scene.things) == 2) == (scene.relation is not None)
        if row.category == "Counting":
            assert scene.count > 1
        elif row.category != "Style":
            assert scene.count == 1
            assert len(scene.things) == (2 if row.category == "Two objects" else 1)
        if row.challenge == "Style & Format":
            assert scene.style is not None


def test_evaluation_prompts_do_not_depend_on_the_number_of_pairs(lists: PromptLists) -> None:
    fewer = prompt_lists(PromptsConfig(pairs=10, dev=5))
    assert fewer.parti == lists.parti
    assert fewer.hpd == lists.hpd
    assert fewer.dev == lists.dev[:5]


def test_files_pass_the_loaders_of_the_real_formats(tmp_path: Path, lists: PromptLists) -> None:
    build_prompts(PromptsConfig(), tmp_path, lambda _: None)
    rows = PartiPrompts(path=str(tmp_path / "prompts" / "parti.tsv")).load()
    assert [p.text for p in rows] == [r.prompt for r in lists.parti]
    assert Counter(p.groups["challenge"] for p in rows)["Quantity"] == 36
    styled = HPDv2(path=str(tmp_path / "prompts" / "hpd")).load()
    assert Counter(p.groups["style"] for p in styled) == dict.fromkeys(grammar.STYLES, 40)


def test_building_again_does_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        build_prompts(PromptsConfig(), tmp_path, told.append)
    assert told[1] == "prompts: there already"
