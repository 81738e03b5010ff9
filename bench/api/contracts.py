"""The border between core and plugins: what they raise and give is checked where it is taken.

Whatever a plugin raises becomes one sentence that names it, and so stays with its cell; whatever it
gives is compared with what `bench.api.kinds` promises before anything is computed from it.
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.api.kinds import (
    BASES,
    Aggregation,
    Backbone,
    Labels,
    LoadedScorer,
    Loss,
    Method,
    ModelSize,
    PairErrors,
    PairRewards,
    Plugin,
    PreferenceGroup,
    PreferenceImage,
    PreferencePair,
    PreferenceSet,
    Prompt,
    PromptSet,
    Reference,
    Scorer,
    TrainingSetup,
    Trajectory,
    noun,
)
from bench.lib.errors import BenchError, PluginError, out_of_memory
from bench.lib.reading import is_half
from bench.lib.wording import failure, shown

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

    from bench.api.noising import NoisedPairs, NoiseRequest
    from bench.api.policy import Policy
    from bench.api.training import TrainingOutcome


def called(plugin: Plugin | str) -> str:
    """A plugin for people: "loss 'hinge'"."""
    if isinstance(plugin, str):
        return plugin
    kinds = [kind for kind, base in BASES.items() if isinstance(plugin, base)]
    what = noun(kinds[0]) if kinds else "plugin"
    return f"{what} {getattr(plugin, 'name', type(plugin).__name__)!r}"


@contextmanager
def asking(plugin: Plugin | str, what: str = "") -> Iterator[None]:
    """Run a plugin's code: whatever it raises is told as its own failure.

    Unchanged are our own errors, out of memory (whose remedy the stage knows), Ctrl-C, and an end
    of the process that the core itself asks for, such as on a signal.

    Args:
        plugin: whose code runs; or what to call it.
        what: what is asked for: "`fingerprint`".

    Raises:
        PluginError: the plugin raised anything else, even `SystemExit`.
    """
    try:
        yield
    except (BenchError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if out_of_memory(error) or asked_by_core(error):
            raise
        who = f"{called(plugin)}: {what}" if what else called(plugin)
        raise PluginError(f"{who} failed{_place(error)}: {failure(error)}") from error


def asked_by_core(error: BaseException) -> bool:
    """Whether it is an end of the process that our own code asks for, and no plugin's."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = bool(frames) and frames[-1].f_globals.get("__name__", "").split(".")[0] == "bench"
    return own and not isinstance(error, Exception)


def _place(error: BaseException) -> str:
    """The last line of Python that was run, beyond those that asked."""
    lines = [x for x in traceback.extract_tb(error.__traceback__) if x.filename != __file__]
    return f" in {Path(lines[-1].filename).name}, line {lines[-1].lineno}" if lines else ""


def refused(plugin: Plugin | str, came: str, expected: str) -> PluginError:
    """The error of a plugin that gave what it must not."""
    return PluginError(f"{called(plugin)} gave {came}; expected is {expected}")


def _typed(value: object) -> str:
    """A value for people, with its type and never more than a few words."""
    return f"{shown(value)} ({type(value).__name__})"


def _is_whole(value: object, least: int = 0) -> bool:
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return int(value) >= least


def _is_text(value: object) -> bool:
    """Whether it is text that can be written as UTF-8, which lone surrogates cannot."""
    return isinstance(value, str) and not is_half(value)


def _is_number(value: object, most: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return 0 <= float(value) <= most


def _is_share(value: object) -> bool:
    return _is_number(value, 1)


def _are_names(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_text, value))


# What plans are made of.

_NAMES = (_are_names, "a tuple of scorers' names, even of one: ('name',)")
_WHOLE = (_is_whole, "a whole number, 0 or more")
_SECONDS = (lambda value: _is_number(value, sys.float_info.max), "seconds, a finite number from 0")
_PROMISES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "family": (_is_text, 'text such as "sd1"'),
    "resolution": (lambda value: _is_whole(value, 1), "a number of pixels"),
    "seconds_per_evaluation": _SECONDS,
    "seconds_per_image": _SECONDS,
    "tower": (_is_text, 'text, "" if it is not known'),
    "size": (lambda value: isinstance(value, ModelSize | None), "a bench.ModelSize, or None"),
    "label_scorers": _NAMES,
    "needs": _NAMES,
    "labelled_by": _NAMES,
    "trainable": (lambda value: isinstance(value, bool), "True or False"),
    "nfe": _WHOLE,
    "count": _WHOLE,
    "published_count": (
        lambda value: value is None or _is_whole(value),
        "a whole number, or None",
    ),
    "unavailable_reason": (_is_text, 'text, "" if there is none'),
    "decay_at": (_is_share, "a share, a number from 0 to 1"),
}
"""By name, what properties and methods of plugins give: the test, and its words."""
_TEXT = "text that UTF-8 can write (a str without lone surrogates)"


def _promised(plugin: Plugin | str, name: str, value: object, what: str = "") -> Any:
    fits, expected = _PROMISES[name]
    if not fits(value):
        raise refused(plugin, f"{_typed(value)} as `{what or name}`", expected)
    return value


def _answer(plugin: Plugin, name: str, *arguments: object, what: str = "") -> Any:
    """What a plugin's method gives, if it is what is promised; `what` is its name in messages."""
    with asking(plugin):
        value = getattr(plugin, name)(*arguments)
    return _promised(plugin, name, value, what)


def fact(plugin: Backbone | Scorer, name: str, who: str = "") -> Any:
    """A plugin's property; `who` is what to call the plugin in messages."""
    with asking(who or plugin):
        value = getattr(plugin, name)
    return _promised(who or plugin, name, value)


def label_scorers(plugin: Method | Aggregation, pool: Sequence[str]) -> tuple[str, ...]:
    """The scorers that a method's or an aggregation's labels read."""
    name = "label_scorers" if isinstance(plugin, Method) else "needs"
    return tuple(_answer(plugin, name, pool))


def labelled_by(pairs: PreferenceSet) -> tuple[str, ...]:
    """The scorers whose rewards made the labels of a preference set."""
    return tuple(_answer(pairs, "labelled_by"))


def resolved(method: Method, family: str) -> Method:
    """The method with every open hyper-parameter set, and nothing else of it changed.

    Otherwise its row would bear a name that is not its own.
    """
    with asking(method):
        filled = method.resolved(family)
        if type(filled) is not type(method):
            raise refused(method, f"{_typed(filled)} as `resolved`", "the same method, filled in")
        given = [f.name for f in fields(method) if getattr(method, f.name) is not None]
        changed = [name for name in given if getattr(filled, name) != getattr(method, name)]
    if changed:
        raise refused(
            method,
            f"another {changed[0]} as `resolved`: {_typed(getattr(filled, changed[0]))}",
            "that only options which are open (None) are set",
        )
    return filled


def trainable(method: Method) -> bool:
    """Whether the method is trained; no instance can say otherwise than its class."""
    return bool(_promised(method, "trainable", type(method).trainable))


def method_nfe(method: Method, pairs_seen: int) -> int:
    """Expected denoiser evaluations of training."""
    return int(_answer(method, "nfe", pairs_seen))


def prompts_of(prompt_set: PromptSet) -> tuple[Prompt, ...]:
    """All prompts of a set."""
    with asking(prompt_set):
        prompts = tuple(prompt_set.load())
    for position, prompt in enumerate(prompts):
        where = f"prompt {position}"
        if not isinstance(prompt, Prompt):
            raise refused(prompt_set, f"{_typed(prompt)} as {where}", "a bench.Prompt")
        text, groups = prompt.text, prompt.groups
        if not _is_text(text):
            raise refused(prompt_set, f"{_typed(text)} as the text of {where}", _TEXT)
        parts = groups.items() if isinstance(groups, Mapping) else [(None,)]
        if not all(_is_text(part) for pair in parts for part in pair):
            came = f"{_typed(groups)} as the groups of {where}"
            raise refused(prompt_set, came, "a mapping from text to text")
    return prompts


_IMAGE = "the encoded image (bytes)"
_LABEL = (
    "the share of people who prefer image 0 of two, a number from 0 to 1; a tuple with the rank of "
    "each image, whole numbers; or None"
)


def pair_count(pairs: PreferenceSet) -> int:
    """How many pairs a set holds."""
    return int(_answer(pairs, "count"))


def published_count(plugin: PreferenceSet | PromptSet) -> int | None:
    """The published count of a set that is not here."""
    count = _answer(plugin, "published_count")
    return None if count is None else int(count)


def unavailable_reason(scorer: Scorer) -> str:
    """Why a scorer could not be loaded now, or ""."""
    return str(_answer(scorer, "unavailable_reason"))


# What stages are given.


def read_pairs(pairs: PreferenceSet, rows: Iterable[int] | None = None) -> Iterator[PreferencePair]:
    """The pair of every group that `read_groups` gives.

    Raises:
        BenchError: as `read_groups`, or there are more than two images that nobody has ranked.
    """
    for group in read_groups(pairs, rows):
        if len(group.images) > 2 and group.human is None:
            raise BenchError(
                f"{pairs.source}: row {group.row} holds {len(group.images)} images and no ranking "
                f"of them, so it gives no pair"
            )
        yield _best_worst(group)


def _best_worst(group: PreferenceGroup) -> PreferencePair:
    """The pair that a group gives: of two images these, of more the best and the worst.

    Ever one pair a group, so that both have the same row. The images keep their order; of equal
    ranks the first counts. Two images that nobody was asked about are a tie; more have no pair.
    """
    if isinstance(group, PreferencePair):
        return group
    first, second, share = 0, 1, 0.5
    if isinstance(group.human, tuple):
        best, worst = (group.human.index(most(group.human)) for most in (min, max))
        if best != worst:
            first, second, share = min(best, worst), max(best, worst), float(best < worst)
    elif group.human is not None:
        share = group.human
    return PreferencePair(
        row=group.row,
        caption=group.caption,
        images=(group.images[first], group.images[second]),
        human=share,
        source=group.source,
    )


def read_groups(
    pairs: PreferenceSet, rows: Iterable[int] | None = None
) -> Iterator[PreferenceGroup]:
    """The groups at ascending positions, or all: each checked, none missing and none too many.

    Args:
        pairs: the preference set.
        rows: positions; not read further ahead than the plugin does.

    Raises:
        PluginError: a group is not what it should be; names the row.
        BenchError: a row that is wanted is not there.
    """
    pending: deque[int] = deque()

    def noted(rows: Iterable[int]) -> Iterator[int]:
        for row in rows:
            pending.append(row)
            yield row

    wanted = None if rows is None else noted(rows)
    with asking(pairs):
        stream = iter(pairs.read(wanted))
    end: Any = object()
    while True:
        with asking(pairs):
            group = next(stream, end)
        if group is end:
            break
        _check_group(pairs, group)
        if wanted is not None:
            row = pending.popleft() if pending else None
            if group.row != row:
                if row is not None and group.row > row:
                    raise _missing(pairs, row)
                expected = "nothing more" if row is None else f"row {row}, which was asked for"
                raise refused(pairs, f"the group of row {group.row}", expected)
        yield group
    left = pending.popleft() if pending else next(wanted or iter(()), None)
    if left is not None:
        raise _missing(pairs, left)


def _missing(pairs: PreferenceSet, row: int) -> BenchError:
    return BenchError(f"{pairs.source}: row {row} was counted but is not there")


def _check_group(pairs: PreferenceSet, group: object) -> None:
    if not isinstance(group, PreferenceGroup) or not _is_whole(group.row):
        raise refused(pairs, _typed(group), "a bench.PreferenceGroup whose row is its position")

    def expect(passes: bool, value: object, what: str, expected: str) -> None:
        if not passes:
            raise refused(pairs, f"{_typed(value)} as the {what} of row {group.row}", expected)

    images, source = group.images, group.source
    expect(_is_text(group.caption), group.caption, "caption", _TEXT)
    several = isinstance(images, tuple) and len(images) >= 2
    whole = several and all(isinstance(image, PreferenceImage) for image in images)
    expect(whole, images, "images", "a tuple of two or more bench.PreferenceImage")
    expect(source is None or isinstance(source, bytes), source, "source", _IMAGE)
    expect(_is_labelled(group), group.human, "human label", _LABEL)
    for number, image in enumerate(images):
        for name in ("model", "problem"):
            text = getattr(image, name)
            expect(_is_text(text), text, f"{name} of image {number}", _TEXT)
        data, seed, scores = image.data, image.seed, image.scores
        expect(isinstance(data, bytes), data, f"data of image {number}", _IMAGE)
        known = seed is None or (_is_whole(seed) and seed < 2**63)
        expect(known, seed, f"seed of image {number}", "a whole number from 0 below 2^63, or None")
        scored = isinstance(scores, Mapping) and all(
            _is_text(name) and isinstance(value, Real) for name, value in scores.items()
        )
        expect(scored, scores, f"scores of image {number}", "a mapping from scorers to numbers")


def _is_labelled(group: PreferenceGroup) -> bool:
    human, count = group.human, len(group.images)
    if count == 2 and _is_share(human):
        return True
    if isinstance(group, PreferencePair):
        return False
    if isinstance(human, tuple):
        return len(human) == count and all(map(_is_whole, human))
    return human is None


def labels_of(aggregation: Aggregation, pairs: PairRewards, seed: int) -> Labels:
    """All labels by an aggregation, which cannot change the rewards that it is shown."""
    with asking(aggregation):
        labels = aggregation.label(read_only(pairs), seed)
    return checked_labels(aggregation, labels, len(pairs.human))


def read_only(pairs: PairRewards) -> PairRewards:
    """A copy that may only be read."""

    def frozen(array: np.ndarray) -> np.ndarray:
        copy = array.copy()
        copy.setflags(write=False)
        return copy

    rewards = {name: frozen(values) for name, values in pairs.rewards.items()}
    return PairRewards(human=frozen(pairs.human), rewards=rewards)


def checked_labels(plugin: Plugin | str, labels: object, pairs: int) -> Labels:
    """Labels of N pairs as training takes them: p float64 [N], kept bool [N].

    Args:
        plugin: who gave them.
        labels: what came.
        pairs: N.

    Raises:
        PluginError: they are something else.
    """
    import numpy as np

    if not isinstance(labels, Labels):
        raise refused(plugin, _typed(labels), "bench.Labels(p=..., kept=...)")
    for name, kinds, expected in (
        ("p", "f", f"a float array of shape ({pairs},), one chance a pair"),
        ("kept", "b", f"a boolean array of shape ({pairs},), False for pairs to drop"),
    ):
        array = getattr(labels, name)
        if not isinstance(array, np.ndarray):
            raise refused(plugin, f"{_typed(array)} as `{name}`", expected)
        if array.shape != (pairs,) or array.dtype.kind not in kinds:
            raise refused(plugin, f"{array.dtype} {array.shape} as `{name}`", expected)
    wrong = labels.kept & ~((labels.p >= 0) & (labels.p <= 1))
    if wrong.any():
        pair = int(np.flatnonzero(wrong)[0])
        raise refused(
            plugin,
            f"p = {labels.p[pair]} for pair {pair} ({int(wrong.sum())} of {pairs} are such)",
            "a chance from 0 to 1 for every pair that is kept",
        )
    return Labels(p=labels.p.astype(np.float64), kept=labels.kept.copy())


def noised(trajectory: Trajectory, request: NoiseRequest, *, untouched: bool) -> NoisedPairs:
    """Noisy latents and targets of a micro-batch.

    Args:
        trajectory: decides them.
        request: P images each of B pairs.
        untouched: no step was taken yet, so that a latent that is not finite is not the
            policy's doing; later it may be, and then shows as a diverged loss.
    """
    from bench.api.noising import NoisedPairs

    with asking(trajectory):
        pairs = trajectory.noise(request)
    if not isinstance(pairs, NoisedPairs):
        raise refused(trajectory, _typed(pairs), "bench.NoisedPairs")
    for name in ("latents", "epsilon"):
        _check_tensor(trajectory, name, getattr(pairs, name), request.clean.shape)
        if untouched and not bool(getattr(pairs, name).isfinite().all()):
            raise refused(trajectory, f"`{name}` with NaN or infinity", "finite numbers")
    return pairs


def pair_losses(loss: Loss, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
    """The loss of each pair, [B]; whether it is finite is for the training loop to say."""
    with asking(loss):
        losses = loss(errors, p, beta)
    _check_tensor(loss, "loss", losses, p.shape)
    if not losses.requires_grad:
        raise refused(
            loss,
            "a loss without gradient",
            "one computed from `policy_0` and `policy_1` without detaching them",
        )
    return losses


def _check_tensor(plugin: Plugin, name: str, value: object, shape: Sequence[int]) -> None:
    import torch

    expected = f"a floating-point tensor of shape {tuple(shape)}"
    if not isinstance(value, torch.Tensor):
        raise refused(plugin, f"{_typed(value)} as `{name}`", expected)
    if tuple(value.shape) != tuple(shape) or not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise refused(plugin, f"{kind} {tuple(value.shape)} as `{name}`", expected)


def reference_decay(reference: Reference, step: int) -> float:
    """Which share of itself the reference keeps after a step."""
    return float(_answer(reference, "decay_at", step, what=f"decay_at({step})"))


def trained(method: Method, setup: TrainingSetup) -> TrainingOutcome:
    """Train by a method, within its budget."""
    from bench.api.training import StepReport, TrainingOutcome

    with asking(method):
        outcome = method.train(setup)
    if not isinstance(outcome, TrainingOutcome):
        raise refused(method, _typed(outcome), "bench.TrainingOutcome")
    steps, budget = outcome.steps, setup.budget
    if not isinstance(steps, tuple) or not all(isinstance(step, StepReport) for step in steps):
        raise refused(method, f"{_typed(steps)} as `steps`", "a tuple of StepReport")
    if [step.step for step in steps] != [*range(1, len(steps) + 1)] or len(steps) > budget.steps:
        raise refused(
            method,
            f"{len(steps)} steps, the last of them number {steps[-1].step}",
            f"reports of the steps 1, 2, ... up to the budget's {budget.steps}",
        )
    most = {
        "pairs_kept": len(setup.pairs),
        "pairs_dropped": len(setup.pairs)
        - int(_is_whole(outcome.pairs_kept) and outcome.pairs_kept),
        "pairs_seen": budget.steps * budget.batch_size,
    }
    for name, limit in most.items():
        count = getattr(outcome, name)
        if not _is_whole(count) or count > limit:
            raise refused(method, f"{_typed(count)} as `{name}`", f"a whole number, 0 to {limit}")
    return outcome


def loaded(backbone: Backbone, device: str) -> Policy:
    """The untouched backbone on a device."""
    with asking(backbone):
        policy = backbone.load(device)
    return _checked_policy(backbone, "load", policy)


def model_of(method: Method, backbone: Policy) -> Policy:
    """The model that stands for a method without training."""
    with asking(method):
        policy = method.model(backbone)
    return _checked_policy(method, "model", policy)


def _checked_policy(plugin: Plugin, function: str, policy: object) -> Policy:
    from bench.api.policy import Policy

    if not isinstance(policy, Policy):
        raise refused(plugin, f"{_typed(policy)} as `{function}`", "a bench.Policy")
    return policy


def checked_images(plugin: Plugin, images: object, count: int) -> list[Image]:
    """The images that a model drew: as many as asked for, RGB."""
    from PIL.Image import Image

    if not isinstance(images, list) or len(images) != count:
        number = len(images) if isinstance(images, list) else _typed(images)
        raise refused(plugin, f"{number} images for {count} prompts", "a list of one a prompt")
    for image in images:
        if not isinstance(image, Image) or image.mode != "RGB":
            raise refused(plugin, f"the image {_typed(image)}", "a Pillow image of mode RGB")
    return images


class CheckedScorer:
    """A loaded scorer whose failures name it."""

    def __init__(self, name: str, scorer: LoadedScorer) -> None:
        """`name` is the scorer's spec; raises `PluginError` if it cannot score."""
        self._called, self._scorer = f"scorer {name!r}", scorer
        if not callable(getattr(scorer, "score", None)):
            raise refused(
                self._called,
                f"{_typed(scorer)} as `load`",
                "an object with `score(images, prompts)`",
            )

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        """What the scorer says."""
        with asking(self._called):
            return self._scorer.score(images, prompts)


def checked_scores(name: str, scores: Any, count: int) -> np.ndarray:
    """Scores of N images as float64 [N], not yet known to be finite.

    Raises:
        PluginError: there are more, fewer or no real numbers.
    """
    import numpy as np

    who = f"scorer {name!r}"
    with asking(who):
        array = np.asarray(scores)
    if array.shape != (count,):
        raise PluginError(f"{who} gave shape {array.shape} for {count} images, expected ({count},)")
    if array.dtype.kind not in "fiu":
        raise refused(who, f"{array.dtype} for {count} images", "real numbers (float64)")
    return array.astype(np.float64)
