"""What a plugin gives or raises is checked where the core takes it, and told in one sentence."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bench import (
    Aggregation,
    Backbone,
    Labels,
    Loss,
    Method,
    PairRewards,
    PreferenceGroup,
    PreferenceImage,
    PreferencePair,
    PreferenceSet,
    Prompt,
    PromptSet,
    Reference,
    Scorer,
    Trajectory,
)
from bench.api import contracts
from bench.api.kinds import Plugin
from bench.api.noising import NoisedPairs, NoiseRequest
from bench.api.training import StepReport, TrainingOutcome
from bench.lib.errors import BenchError, DivergedError, PluginError, StoreError
from bench.lib.io_errors import clear_io_errors
from bench.registry.registry import Entry, Registry
from bench.running import planning
from tests import toy
from tests.training.conftest import toy_setup, train

N = 4


class _Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


def _refused(ask: Callable[[], object], *said: str) -> str:
    with pytest.raises(PluginError) as caught:
        ask()
    message = str(caught.value)
    assert "\n" not in message
    for text in said:
        assert text in message
    return message


def _plugin(base: type[Plugin], **functions: Any) -> Any:
    """A plugin of a kind with the given functions or results, named `odd`."""
    body = {"name": "odd", "__annotations__": {"name": ClassVar[str]}}
    for name, given in functions.items():
        body[name] = given if callable(given) or isinstance(given, property) else _giving(given)
    return dataclass(frozen=True, kw_only=True)(type("Odd", (base,), body))()


def _giving(value: Any) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: value


REWARDS = PairRewards(human=np.full(N, 0.5), rewards={"a": np.zeros((N, 2))})
GOOD = Labels(p=np.array([0.0, 0.5, 1.0, 0.25]), kept=np.ones(N, dtype=bool))


def _labels(**changes: Any) -> Labels:
    return dataclasses.replace(GOOD, **changes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "gave None (NoneType); expected is bench.Labels(p=..., kept=...)"),
        ((GOOD.p, GOOD.kept), "expected is bench.Labels"),
        (
            _labels(p=GOOD.p[:3]),
            "gave float64 (3,) as `p`; expected is a float array of shape (4,)",
        ),
        (_labels(p=GOOD.p[:, None]), "gave float64 (4, 1) as `p`"),
        (_labels(p=GOOD.p.tolist()), "(list) as `p`"),
        (_labels(p=torch.from_numpy(GOOD.p)), "(Tensor) as `p`"),
        (_labels(p=GOOD.p > 0.5), "gave bool (4,) as `p`"),
        (_labels(p=np.array([0, 1, 1, 0])), "gave int64 (4,) as `p`"),
        (_labels(p=GOOD.p.astype(complex)), "gave complex128 (4,) as `p`"),
        (_labels(p=GOOD.p.astype(object)), "gave object (4,) as `p`"),
        (_labels(kept=np.ones(N)), "gave float64 (4,) as `kept`; expected is a boolean array"),
        (_labels(kept=np.arange(N)), "gave int64 (4,) as `kept`"),
        (_labels(kept=np.ones(3, dtype=bool)), "gave bool (3,) as `kept`"),
        (_labels(kept=[True] * N), "(list) as `kept`"),
        (_labels(p=np.array([0.0, 0.5, 1.5, -1])), "p = 1.5 for pair 2 (2 of 4 are such)"),
        (_labels(p=np.array([0.0, math.nan, 1, 0])), "p = nan for pair 1 (1 of 4 are such)"),
        (_labels(p=np.array([math.inf, 0, 1, 0])), "p = inf for pair 0"),
    ],
)
def test_labels(given: Any, said: str) -> None:
    odd = _plugin(Aggregation, label=given)
    _refused(lambda: contracts.labels_of(odd, REWARDS, 0), "aggregation 'odd' gave", said)


def test_labels_of_dropped_pairs_may_be_anything(tmp_path: Path) -> None:
    kept = np.array([True, False, True, True])
    p = np.array([0.0, math.nan, 1.0, 0.5], dtype=np.float32)
    found = contracts.labels_of(_plugin(Aggregation, label=Labels(p=p, kept=kept)), REWARDS, 0)
    assert found.p.dtype == np.float64
    assert np.array_equal(found.kept, kept)
    setup = toy_setup(tmp_path)
    _refused(
        lambda: train(setup, labels=_labels()), "who calls train_pairs gave float64 (4,) as `p`"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (_Speechless(), "loss 'odd' gave what cannot be shown (_Speechless) as `loss`"),
        (None, "loss 'odd' gave None (NoneType) as `loss`; expected is a floating-point tensor"),
        (1.0, "gave 1.0 (float) as `loss`"),
        (lambda self, e, p, b: e.policy_0.mean(), "gave float32 () as `loss`"),
        (lambda self, e, p, b: e.policy_0[:, None], "gave float32 (8, 1) as `loss`"),
        (lambda self, e, p, b: e.policy_0[:3], "gave float32 (3,) as `loss`"),
        (lambda self, e, p, b: e.policy_0 > 0, "gave bool (8,) as `loss`"),
        (lambda self, e, p, b: e.policy_0.long(), "gave int64 (8,) as `loss`"),
        (lambda self, e, p, b: e.policy_0.detach(), "a loss without gradient; expected is one"),
        (lambda self, e, p, b: e.policy_0.detach().numpy(), "(ndarray) as `loss`"),
        (lambda self, e, p, b: {}["x"], "loss 'odd' failed in test_contracts.py, line "),
    ],
)
def test_losses(tmp_path: Path, given: Any, said: str) -> None:
    odd = _plugin(Loss, __call__=given)
    _refused(lambda: train(toy_setup(tmp_path), loss=odd), said)


def test_a_loss_that_is_not_finite_is_divergence(tmp_path: Path) -> None:
    odd = _plugin(Loss, __call__=lambda self, e, p, b: e.policy_0 / 0)
    with pytest.raises(DivergedError, match="step 1"):
        train(toy_setup(tmp_path), loss=odd)


def _noised(**changes: Any) -> Callable[[Any, NoiseRequest], NoisedPairs]:
    def noise(self: Any, request: NoiseRequest) -> NoisedPairs:
        good = NoisedPairs(latents=request.clean, epsilon=request.clean)
        return dataclasses.replace(good, **{k: f(request.clean) for k, f in changes.items()})

    return noise


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "gave None (NoneType); expected is bench.NoisedPairs"),
        (_noised(latents=lambda x: x[:1]), "gave float32 (1, 8, 2, 2, 2) as `latents`; expected"),
        (_noised(latents=lambda x: x.flatten(0, 1)), "gave float32 (16, 2, 2, 2) as `latents`"),
        (_noised(epsilon=lambda x: x[0]), "gave float32 (8, 2, 2, 2) as `epsilon`"),
        (_noised(epsilon=lambda x: x.long()), "gave int64 (2, 8, 2, 2, 2) as `epsilon`"),
        (_noised(epsilon=lambda x: x.numpy()), "(ndarray) as `epsilon`"),
        (_noised(latents=lambda x: x / 0), "gave `latents` with NaN or infinity; expected is"),
        (_noised(epsilon=lambda x: x * math.nan), "gave `epsilon` with NaN or infinity"),
    ],
)
def test_trajectories(tmp_path: Path, given: Any, said: str) -> None:
    odd = _plugin(Trajectory, noise=given)
    _refused(lambda: train(toy_setup(tmp_path), trajectory=odd), "trajectory 'odd' ", said)


@pytest.mark.parametrize("keep", [1.5, -0.1, math.nan, math.inf, None, "1", True, 1j])
def test_references(tmp_path: Path, keep: Any) -> None:
    odd = _plugin(Reference, decay_at=keep)
    _refused(
        lambda: train(toy_setup(tmp_path), reference=odd),
        "reference 'odd' gave ",
        "as `decay_at(1)`; expected is a share, a number from 0 to 1",
    )


@pytest.mark.parametrize("keep", [0, 1, np.float32(0.5), 0.25])
def test_shares_of_any_type_of_number_are_taken(keep: Any) -> None:
    assert contracts.reference_decay(_plugin(Reference, decay_at=keep), 1) == float(keep)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (np.zeros(3), "gave shape (3,) for 2 images, expected (2,)"),
        (np.zeros((2, 1)), "gave shape (2, 1) for 2 images"),
        (0.5, "gave shape () for 2 images"),
        (None, "gave shape () for 2 images"),
        (np.array([1j, 2]), "gave complex128 for 2 images; expected is real numbers"),
        (np.array([True, False]), "gave bool for 2 images"),
        (["1.5", "2"], "gave <U3 for 2 images"),
        ([None, 1.0], "gave object for 2 images"),
        ([[1.0], [1.0, 2.0]], "scorer 'odd' failed"),
        (torch.zeros(2, requires_grad=True), "scorer 'odd' failed"),
    ],
)
def test_scores(scores: Any, said: str) -> None:
    _refused(lambda: contracts.checked_scores("odd", scores, 2), "scorer 'odd'", said)


def test_scores_of_any_real_type_are_taken() -> None:
    for scores in ([1, 2], np.array([1, 2], dtype=np.float16), torch.tensor([1.0, 2.0])):
        found = contracts.checked_scores("fine", scores, 2)
        assert found.dtype == np.float64
        assert found.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([Prompt("a\ud800", {})], "'a\\ud800' (str) as the text of prompt 0; expected is text"),
        ([Prompt("a", {}), Prompt(b"a", {})], "b'a' (bytes) as the text of prompt 1"),  # type: ignore[arg-type]
        ([Prompt("a", {"kind": 3})], "as the groups of prompt 0; expected is a mapping"),  # type: ignore[dict-item]
        ([Prompt("a", {"k\udfff": "x"})], "as the groups of prompt 0"),
        ([Prompt("a", None)], "gave None (NoneType) as the groups of prompt 0"),  # type: ignore[arg-type]
        (["a prompt"], "gave 'a prompt' (str) as prompt 0; expected is a bench.Prompt"),
        (None, "prompt set 'odd' failed"),
    ],
)
def test_prompts(given: Any, said: str) -> None:
    odd = _plugin(PromptSet, load=given)
    _refused(lambda: contracts.prompts_of(odd), "prompt set 'odd' ", said)


PAIR = toy.pair(row=0, caption="a", image_0=b"0", image_1=b"1", human=1.0)


def _read(
    *pairs: Any, rows: Iterable[int] | None = None, after: Exception | None = None
) -> list[PreferencePair]:
    def read(self: Any, wanted: Iterable[int] | None = None) -> Iterator[PreferencePair]:
        asked = None if wanted is None else iter(wanted)
        for pair in pairs:
            if asked is not None:
                next(asked, None)
            yield pair
        if after:
            raise after

    return [*contracts.read_pairs(_plugin(PreferenceSet, read=read), rows)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"human": 1.5}, "gave 1.5 (float) as the human label of row 0; expected is the share"),
        ({"human": math.nan}, "gave nan (float) as the human label of row 0"),
        ({"human": None}, "gave None (NoneType) as the human label"),
        ({"human": True}, "gave True (bool) as the human label"),
        ({"caption": "\udc00"}, "'\\udc00' (str) as the caption of row 0; expected is text"),
        ({"caption": None}, "gave None (NoneType) as the caption of row 0"),
        ({"human": (0, 1)}, "gave (0, 1) (tuple) as the human label"),
        ({"images": PAIR.images[:1]}, "as the images of row 0; expected is a tuple of two or more"),
        ({"images": [*PAIR.images]}, "as the images of row 0; expected is a tuple of two or more"),
        ({"images": (b"0", b"1")}, "as the images of row 0; expected is a tuple of two or more"),
        ({"images": PAIR.images * 2}, "gave 1.0 (float) as the human label"),
        ({"source": "a.png"}, "gave 'a.png' (str) as the source of row 0; expected is the encoded"),
        ({"row": "0"}, "expected is a bench.PreferenceGroup whose row is its position"),
    ],
)
def test_pairs(changes: Any, said: str) -> None:
    _refused(
        lambda: _read(dataclasses.replace(PAIR, **changes)), "preference set 'odd' gave ", said
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": 1}, "gave 1 (int) as the model of image 1 of row 0"),
        ({"problem": None}, "gave None (NoneType) as the problem of image 1 of row 0"),
        ({"data": "a.png"}, "gave 'a.png' (str) as the data of image 1 of row 0; expected is the"),
        ({"data": None}, "gave None (NoneType) as the data of image 1 of row 0"),
        ({"seed": "7"}, "gave '7' (str) as the seed of image 1 of row 0; expected is a whole"),
        (
            {"seed": 2**63},
            "as the seed of image 1 of row 0; expected is a whole number from 0 below",
        ),
        ({"scores": [1.0]}, "gave [1.0] (list) as the scores of image 1 of row 0"),
        ({"scores": {"gold": "high"}}, "expected is a mapping from scorers to numbers"),
    ],
)
def test_images_of_pairs(changes: Any, said: str) -> None:
    images = (PAIR.images[0], dataclasses.replace(PAIR.images[1], **changes))
    odd = dataclasses.replace(PAIR, images=images)
    _refused(lambda: _read(odd), "preference set 'odd' gave ", said)


def _group(human: Any, images: int = 3) -> PreferenceGroup:
    drawn = tuple(PreferenceImage(data=bytes([i])) for i in range(images))
    return PreferenceGroup(row=0, caption="a", images=drawn, human=human, source=b"s")


@pytest.mark.parametrize(
    ("group", "images", "human"),
    [
        (_group((2, 3, 1)), (1, 2), 0.0),
        (_group((1, 2, 3)), (0, 2), 1.0),
        (_group((2, 1, 2, 1), 4), (0, 1), 0.0),
        (_group((1, 1, 1)), (0, 1), 0.5),
        (_group((2, 1), 2), (0, 1), 0.0),
        (_group(0.25, 2), (0, 1), 0.25),
        (_group(None, 2), (0, 1), 0.5),
    ],
)
def test_a_group_gives_the_pair_of_its_best_and_its_worst_image(
    group: PreferenceGroup, images: tuple[int, int], human: float
) -> None:
    (pair,) = _read(group, rows=[0])
    assert toy.encoded(pair) == tuple(bytes([i]) for i in images)
    assert (pair.row, pair.caption, pair.human, pair.source) == (0, "a", human, b"s")


@pytest.mark.parametrize("human", [1.0, (1, 2), (1, 2, 3, 4), (1, 2, "3"), (1, 2, -3), [1, 2, 3]])
def test_a_label_fits_its_group(human: Any) -> None:
    _refused(lambda: _read(_group(human)), "as the human label of row 0; expected is the share")


def test_images_that_nobody_has_ranked_give_no_pair() -> None:
    with pytest.raises(BenchError, match="odd: row 0 holds 3 images and no ranking of them"):
        _read(_group(None))


def test_pairs_that_nobody_asked_for_and_pairs_that_are_missing() -> None:
    first, second = PAIR, dataclasses.replace(PAIR, row=1)
    assert _read(first, second, rows=[0, 1]) == [first, second]
    _refused(lambda: _read(second, first, rows=[1, 2]), "the group of row 0; expected is row 2")
    _refused(lambda: _read(first, second, rows=[0]), "the group of row 1; expected is nothing")
    for rows in ([0, 1], [0, 1, 2]):
        with pytest.raises(BenchError, match="odd: row 1 was counted but is not there"):
            _read(first, rows=rows)
    with pytest.raises(BenchError, match="odd: row 0 was counted but is not there"):
        _read(second, rows=[0, 1])
    _refused(lambda: _read(None), "preference set 'odd' gave None (NoneType); expected")
    _refused(lambda: _read(first, after=KeyError("jpg")), "odd' failed in ", "KeyError: 'jpg'")
    _refused(lambda: _read(first, after=OSError(errno.EIO, "I/O error")), "OSError: [Errno 5] I/O")


@pytest.mark.parametrize("count", [None, -1, 2.0, True, "12"])
def test_counts(count: Any) -> None:
    odd = _plugin(PreferenceSet, count=count)
    _refused(lambda: contracts.pair_count(odd), "preference set 'odd' gave ", "as `count`")
    if count is not None:
        odd = _plugin(PromptSet, published_count=count)
        _refused(
            lambda: contracts.published_count(odd), "prompt set 'odd' ", "as `published_count`"
        )


@pytest.mark.parametrize("names", ["channel", None, (1,), ("a\ud800",), {"channel"}])
def test_names_of_scorers(names: Any) -> None:
    said = "expected is a tuple of scorers' names, even of one: ('name',)"
    odd = _plugin(Aggregation, needs=names)
    _refused(lambda: contracts.label_scorers(odd, ()), "aggregation 'odd' gave ", "`needs`", said)
    odd = _plugin(Method, label_scorers=names)
    _refused(lambda: contracts.label_scorers(odd, ()), "method 'odd' gave ", said)
    odd = _plugin(PreferenceSet, labelled_by=names)
    _refused(lambda: contracts.labelled_by(odd), "preference set 'odd' gave ", said)


@pytest.mark.parametrize("nfe", [1.5, -1, "12", True, math.nan])
def test_evaluations_of_a_method(nfe: Any) -> None:
    odd = _plugin(Method, nfe=nfe)
    _refused(lambda: contracts.method_nfe(odd, 1), "method 'odd' gave ", "as `nfe`")


def _outcome(**changes: Any) -> TrainingOutcome:
    step = StepReport(
        step=1, loss=0, implicit_accuracy=0, margin=0, relative_weight_change=0, grad_norm=0, nfe=0
    )
    values = {"steps": (step,), "pairs_kept": 40, "pairs_dropped": 0, "pairs_seen": 8}
    values |= {key: value(step) if callable(value) else value for key, value in changes.items()}
    return TrainingOutcome(**values)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (None, "gave None (NoneType); expected is bench.TrainingOutcome"),
        (_outcome(steps=lambda s: [s]), "as `steps`; expected is a tuple of StepReport"),
        (_outcome(steps=(1,)), "as `steps`; expected is a tuple of StepReport"),
        (_outcome(steps=lambda s: (s, s)), "gave 2 steps, the last of them number 1"),
        (
            _outcome(steps=lambda s: tuple(dataclasses.replace(s, step=i) for i in range(1, 9))),
            "gave 8 steps, the last of them number 8; expected is reports of the steps 1, 2, ... "
            "up to the budget's 6",
        ),
        (_outcome(pairs_seen=49), "gave 49 (int) as `pairs_seen`; expected is a whole number, 0"),
        (_outcome(pairs_kept=41), "gave 41 (int) as `pairs_kept`"),
        (_outcome(pairs_dropped=1), "gave 1 (int) as `pairs_dropped`"),
        (_outcome(pairs_kept=None), "gave None (NoneType) as `pairs_kept`"),
    ],
)
def test_what_training_gives(tmp_path: Path, outcome: Any, said: str) -> None:
    odd = _plugin(Method, train=outcome)
    _refused(lambda: contracts.trained(odd, toy_setup(tmp_path)), "method 'odd' gave ", said)


def test_models(tmp_path: Path) -> None:
    policy = toy_setup(tmp_path).policy
    said = "expected is a bench.Policy"
    _refused(lambda: contracts.model_of(_plugin(Method, model=None), policy), "method 'odd'", said)
    odd = _plugin(Backbone, load=lambda self, device: torch.nn.Linear(1, 1))
    _refused(lambda: contracts.loaded(odd, "cpu"), "backbone 'odd' gave Linear(", said)
    from PIL import Image

    grey, rgb = Image.new("L", (4, 4)), Image.new("RGB", (4, 4))
    assert contracts.checked_images(odd, [rgb], 1) == [rgb]
    for images, said in (
        ([rgb], "gave 1 images for 2 prompts"),
        ([rgb, grey], "expected is a Pillow image of mode RGB"),
        ([rgb, np.zeros((4, 4, 3))], "expected is a Pillow image of mode RGB"),
        (None, "gave None (NoneType) images for 2 prompts"),
    ):
        _refused(lambda given=images: contracts.checked_images(odd, given, 2), said)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("x"), "ZeroDivisionError: x"),
        (OSError(errno.ENOSPC, "No space left on device"), "OSError: [Errno 28] No space left"),
        (SystemExit(3), "SystemExit: 3"),
        (BaseException(), "BaseException"),
        (asyncio.CancelledError(), "CancelledError"),
        (StopIteration(), "StopIteration"),
        (ValueError("two\nlines " + "x" * 1000), "two lines xxx"),
        (ValueError("half of \ud83d"), "ValueError: half of \\ud83d"),
        (_Speechless(), "_Speechless: what cannot be shown"),
    ],
)
def test_whatever_a_plugin_raises_is_one_sentence(error: BaseException, said: str) -> None:
    def fail(self: Any) -> int:
        raise error

    odd = _plugin(PreferenceSet, count=fail)
    message = _refused(
        lambda: contracts.pair_count(odd), "preference set 'odd' failed in test_contracts.py", said
    )
    assert len(message) < 500


def test_what_is_no_plugins_failure_passes_the_border() -> None:
    store = StoreError("cannot write: the disk is full")
    for error in (KeyboardInterrupt(), BenchError("ours"), store, MemoryError()):
        with pytest.raises(type(error)) as caught, contracts.asking("scorer 'odd'"):
            raise error
        assert caught.value is error
    ended = "import sys\ndef stop(): sys.exit(143)"
    own: dict[str, Any] = {"__name__": "bench.running.launch"}
    exec(ended, own)
    with pytest.raises(SystemExit), contracts.asking("scorer 'odd'"):
        own["stop"]()


def test_a_full_disk_is_the_plugins_unless_it_is_the_store() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    odd = contracts.asking("loss 'odd'")
    with pytest.raises(StoreError, match="cannot write"), odd, clear_io_errors():
        raise full
    odd = contracts.asking("loss 'odd'")
    with pytest.raises(PluginError, match="No space left"), clear_io_errors(), odd:
        raise full


def _fails(self: Any, *args: Any, **kwargs: Any) -> Any:
    sys.exit("from a plugin")


@pytest.mark.parametrize(
    ("kind", "base", "function", "where"),
    [
        ("methods", Method, "nfe", {"methods": ["odd"]}),
        ("methods", Method, "label_scorers", {"methods": ["odd"]}),
        ("methods", Method, "resolved", {"methods": ["odd"]}),
        ("aggregations", Aggregation, "needs", {"methods": ["dpo[labels=odd]"]}),
        ("prompt_sets", PromptSet, "load", {"prompts": ["odd"]}),
        ("preference_sets", PreferenceSet, "count", {"pairs": "odd"}),
        ("preference_sets", PreferenceSet, "labelled_by", {"pairs": "odd"}),
    ],
)
def test_plugins_that_fail_while_a_plan_is_made(
    tmp_path: Path, kind: Any, base: type[Plugin], function: str, where: dict[str, Any]
) -> None:
    usual: dict[str, Any] = {"count": 4, "load": (Prompt("a", {}),)}
    if kind == "methods":
        usual = {"nfe": 1, "train": None}
    fitting = {name: given for name, given in usual.items() if hasattr(base, name)}
    odd = _plugin(base, **(fitting | {function: _fails}))
    entry = Entry(kind=kind, cls=type(odd), package="odd", package_version="1")
    registry = Registry([*toy.registry().entries(), entry])
    message = _refused(lambda: planning.make(toy.recipe(tmp_path, **where), registry))
    assert " 'odd' failed in test_contracts.py, line " in message
    assert message.endswith("SystemExit: from a plugin")


def test_a_backbone_or_scorer_that_says_nonsense_of_itself() -> None:
    _refused(
        lambda: contracts.CheckedScorer("odd", None),  # type: ignore[arg-type]
        "scorer 'odd' gave None (NoneType) as `load`; expected is an object with `score(",
    )
    odd = _plugin(Backbone, family=property(lambda self: 3))
    _refused(lambda: contracts.fact(odd, "family"), "backbone 'odd' gave 3 (int) as `family`")
    _refused(
        lambda: contracts.unavailable_reason(_plugin(Scorer, unavailable_reason=None)),
        "scorer 'odd' gave None (NoneType) as `unavailable_reason`; expected is text",
    )
