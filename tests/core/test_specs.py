from __future__ import annotations

import pytest

from bench.lib.errors import BenchError
from bench.registry.spec_language import REQUIRED, Spec, parse, split_list


def test_plain_name() -> None:
    assert parse(" smpo ") == Spec("smpo", {})


def test_options_nest_and_lists_split_only_outside_brackets() -> None:
    text = "smpo[beta=500,labels=majority_vote[ties=human,dead_zone=0.1]],balanced"
    first, second = split_list(text)
    assert second == "balanced"
    vote = Spec("majority_vote", {"ties": "human", "dead_zone": "0.1"})
    assert parse(first) == Spec("smpo", {"beta": "500", "labels": vote})


def test_mapping_form_of_a_recipe() -> None:
    spec = parse({"smpo": {"beta": 500, "labels": {"majority_vote": {"ties": "human"}}}})
    assert spec == Spec("smpo", {"beta": 500, "labels": Spec("majority_vote", {"ties": "human"})})


@pytest.mark.parametrize(
    "text", ["", "[a=1]", "smpo]", "smpo[beta]", "smpo[=1]", "smpo[beta=1", "a=1", "smpo[a=1]x"]
)
def test_malformed_specs_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(BenchError):
        [parse(part) for part in split_list(text)] or parse(text)


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(BenchError, match="'beta' is given twice"):
        parse("smpo[beta=1,beta=2]")


def test_the_short_form_gives_the_required_option() -> None:
    assert parse("pretrained:owner/model") == Spec("pretrained", {REQUIRED: "owner/model"})
    assert parse("pretrained:./a:b.pth") == Spec("pretrained", {REQUIRED: "./a:b.pth"})
    with pytest.raises(BenchError, match="not of the form"):
        parse("pretrained:")
