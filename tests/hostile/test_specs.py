"""Plugins named in ways that the grammar or the plugin does not bear."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.hostile.harness import RUN, Case, World, judge, little_memory, sample


def method(name: str, spec: str, *says: str) -> Case:
    """A method that planning must refuse."""
    command = f"{RUN} --methods={shlex.quote(spec)} --dry-run"
    return Case(id=f"method-{name}", command=command, ends="refused", says=says)


def scorer(name: str, spec: str, *says: str) -> Case:
    """A scorer that planning must refuse."""
    command = f"{RUN} --scorers={shlex.quote(spec)} --dry-run"
    return Case(id=f"scorer-{name}", command=command, ends="refused", says=says)


NUMBERS = {
    "inf": "inf",
    "minus-inf": "-inf",
    "nan": "nan",
    "word": "many",
    "empty": "",
    "true": "true",
    "hex": "0x10",
    "underscores": "1_0_",
    "two-points": "1.2.3",
    "huge-exponent": "1e999",
    "list": "1+2",
    "mapping": "{a: 1}",
    "newline": "1\n2",
    "nul": "1\\0",
    "null": "null",
}
"""What no learning rate can be."""

CASES = [
    *(method(f"rate-{name}", f"dpo[learning_rate={text}]") for name, text in NUMBERS.items()),
    method("rate-negative", "dpo[learning_rate=-1]", "learning_rate"),
    method("beta-zero", "dpo[beta=0]", "beta"),
    method("beta-nan", "dpo[beta=nan]", "beta"),
    method("empty", ""),
    method("commas", ",,,"),
    method("only-brackets", "[]"),
    method("open", "dpo[beta=1"),
    method("closed", "dpo]"),
    method("closed-twice", "dpo[beta=1]]"),
    method("opened-twice", "dpo[[beta=1]]"),
    method("no-equals", "dpo[beta]"),
    method("no-name", "[beta=1]"),
    method("no-key", "dpo[=1]"),
    method("twice", "dpo[beta=1,beta=2]", "beta"),
    method("junk-behind", "dpo[beta=1]x"),
    method("space-inside", "d po"),
    method("colon-without-value", "pretrained:"),
    method("colon-of-no-option", "dpo:x"),
    method("two-colons", "pretrained::x"),
    method("unknown", "dpoo", "Did you mean 'dpo'"),
    method("unknown-long", "x" * 100_000),
    method("unknown-option", "dpo[bta=1]", "beta"),
    method("case", "DPO", "dpo"),
    method("homoglyph", "dрo"),
    method("zero-width", "dp\u200bo"),
    method("markup", "[bold]dpo[/bold]"),
    method("escape-sequence", "\x1b[31mdpo"),
    method("newline", "dpo\nerror: forged"),
    method("carriage-return", "dpo\rerror: forged"),
    method("bell", "dpo\x07"),
    method("surrogate", "dpo\udc80"),
    method("right-to-left", "dpo\u202e"),
    method("deep", "dpo[labels=" * 3000 + "human" + "]" * 3000),
    method("deep-open", "dpo[labels=" * 3000),
    method("a-scorer", "channel"),
    method("labels-a-loss", "dpo[labels=sigmoid]"),
    method("labels-a-number", "dpo[labels=3]"),
    method("labels-of-nobody", "balanced[labels=majority_vote[scorers=nobody]]", "nobody"),
    method("labels-held-out", "balanced[labels=majority_vote[scorers=truth]]", "truth"),
    method("without-reference", "dpo[reference=none]"),
    method("steps-beyond", "smpo[trajectory=renoise[steps=501]]", "steps"),
    method("steps-fraction", "smpo[trajectory=renoise[steps=1.5]]", "steps"),
    method("steps-true", "smpo[trajectory=renoise[steps=true]]", "steps"),
    method("steps-huge", f"smpo[trajectory=renoise[steps={'9' * 5000}]]", "steps"),
    method("preset-unknown", "smpo[trajectory=renoise[preset=reference_code]]", "reference-code"),
    method("ema-above-one", "dpo[reference=ema[decay=1.1]]", "decay"),
    method("pretrained-nowhere", "pretrained:./gone", "gone"),
    method("pretrained-nothing", "pretrained[weights=]"),
    Case(
        id="method-pretrained-device",
        command=f"{RUN} --methods pretrained:/dev/zero",
        where="fork",
        before=little_memory,
        ends="refused",
        own=("bench-runs/toy/",),
    ),
    Case(
        id="method-pretrained-parent",
        command=f"{RUN} --methods pretrained:../..",
        where="fork",
        before=little_memory,
        ends="refused",
        own=("bench-runs/toy/",),
    ),
    method("pretrained-long", f"pretrained:./{'w' * 5000}"),
    method("pretrained-nul", "pretrained:./a\\0b"),
    scorer("unknown", "chanel", "channel"),
    scorer("index-beyond", "channel[index=3]", "index"),
    scorer("index-nan", "channel[index=nan]", "index"),
    scorer("index-true", "channel[index=true]", "index"),
    scorer("index-a-float", "channel[index=0.5]", "index"),
    scorer("index-huge", f"channel[index={2**200}]", "index"),
    scorer("empty", ""),
    scorer("a-method", "dpo"),
    scorer("a-path", "./recipe.yaml"),
    scorer("only-commas", ", ,"),
    scorer("unclosed", "channel[index=1"),
    scorer("isolate-maybe", "channel[isolate=perhaps]", "isolate"),
    Case(id="backbone-without-path", command=f"{RUN} --set backbone=toy", ends="refused"),
    Case(id="backbone-unknown", command=f"{RUN} --set backbone=toi", ends="refused", says=("toy",)),
    Case(id="backbone-a-list", command=f"{RUN} --set 'backbone=[toy]'", ends="refused"),
    Case(id="backbone-a-number", command=f"{RUN} --set backbone=3", ends="refused"),
    Case(id="backbone-a-file", command=f"{RUN} --set backbone=./notes.txt", ends="refused"),
    Case(id="backbone-a-hub-id", command=f"{RUN} --set backbone=owner/model", ends="refused"),
    Case(id="pairs-unknown", command=f"{RUN} --set pairs=shape", ends="refused", says=("shapes",)),
    Case(id="pairs-null", command=f"{RUN} --set pairs=null", ends="refused"),
    Case(
        id="device-unknown", command=f"{RUN.replace('cpu', 'tpu9')} --methods sft", ends="refused"
    ),
    Case(
        id="device-gpu-99",
        command=f"{RUN.replace('cpu', 'cuda:99')} --methods sft",
        ends="refused",
        says=("--device",),
    ),
    Case(id="device-meta", command=f"{RUN.replace('cpu', 'meta')} --methods sft", ends="refused"),
    Case(id="command-unknown", command="rnu", ends="refused"),
    Case(id="command-markup", command="'[red]run[/red]'", ends="refused"),
    Case(id="plugins-unknown", command="plugins dop", ends="refused", says=("dpo",)),
    Case(id="plugins-markup", command="plugins '[/bold]'", ends="refused"),
    Case(id="plugins-newline", command="plugins 'a\nb'", ends="refused"),
    Case(id="plugins-long", command=f"plugins {'p' * 100_000}", ends="refused"),
    Case(
        id="many-methods",
        command=f"{RUN} --dry-run --methods "
        + ",".join(f"dpo[beta={beta}]" for beta in range(1, 101)),
        ends="well",
    ),
]


@pytest.mark.parametrize("case", sample(CASES, every=4))
def test_spec(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
