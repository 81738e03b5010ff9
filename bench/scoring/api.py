"""`bench.score`: scores in one call, for notebooks and scripts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.api.kinds import LoadedScorer, Scorer
from bench.lib import devices
from bench.lib.errors import BenchError
from bench.lib.reading import MOST_IMAGE, expanded, is_half, read_bytes
from bench.lib.wording import quoted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from PIL.Image import Image
    from torch import Tensor

    AnyImage: TypeAlias = "Image | Tensor | str | PathLike[str] | bytes"
    AnyScorer: TypeAlias = "str | Scorer | LoadedScorer"


def score(
    images: Iterable[AnyImage],
    prompts: Iterable[str],
    scorers: Sequence[str | Scorer] | Mapping[str, AnyScorer],
    device: str = "auto",
) -> pd.DataFrame:
    """Score image i under prompt i.

        bench.score(["a.png", "b.png"], ["a red fox", "a harbour"], ["pickscore", "hpsv2.1"])

    Files are read and decoded beside the scorer, so they need not fit into memory.

    Args:
        images: N images of any size and mode: PIL images, paths of files, encoded bytes, or
            tensors [3, H, W], uint8 or floats in [0, 1] (also one tensor [N, 3, H, W]).
        prompts: N prompts.
        scorers: specs ("hpsv2.1", "pickscore[dtype=fp16]") or scorer plugins; or a mapping from
            column names to such or to loaded scorers, which stay loaded from call to call:
            {"pickscore": PickScore().load("cuda")}.
        device: "auto", "cpu", "cuda", "cuda:1", ...; loaded scorers stay where they are.

    Returns:
        A row an image in the order given, a float64 column a scorer.

    Raises:
        BenchError: lengths differ, a prompt is no text, a name is unknown, there is no such
            device, an image cannot be read, a scorer's weights cannot be loaded, or it gives a
            wrong shape or a number that is not finite. Other errors of a scorer are passed on.
    """
    import pandas as pd

    if isinstance(images, str | bytes) or isinstance(prompts, str):
        raise BenchError("images and prompts are lists, even of one")
    # A Series of pandas looks [i] up by label, which is not the position.
    images, prompts = list(images), list(prompts)
    if len(images) != len(prompts):
        raise BenchError(
            f"{len(images)} images but {len(prompts)} prompts: image i is scored under prompt i"
        )
    for position, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise BenchError(f"prompt {position} is {quoted(prompt)}, no text")
        if is_half(prompt):
            raise BenchError(f"prompt {position} is {quoted(prompt)}, with half of a character")
    named = _named(scorers)
    if not named:
        raise BenchError("scorers names nothing")
    loaders = {name: _loader(scorer, device) for name, scorer in named.items()}
    columns = {}
    # A loop, since a comprehension is a frame of its own in some versions of Python, and the
    # warnings inside point at the caller's line.
    for name, load in loaders.items():
        columns[name] = _scores(name, load, images, prompts)
    return pd.DataFrame(columns)


def _named(
    scorers: Sequence[str | Scorer] | Mapping[str, AnyScorer],
) -> dict[str, Scorer | LoadedScorer]:
    """Column -> scorer; every name is looked up before any weight is read."""
    from bench.registry.registry import default_registry, spec_text

    def built(scorer: AnyScorer) -> Any:
        return default_registry().build("scorers", scorer) if isinstance(scorer, str) else scorer

    if isinstance(scorers, Mapping):
        named = {name: built(scorer) for name, scorer in scorers.items()}
        for name, scorer in named.items():
            loaded = callable(getattr(scorer, "score", None)) and not isinstance(scorer, type)
            if not (loaded or isinstance(scorer, Scorer)):
                raise BenchError(
                    f"scorers[{name!r}] is neither a scorer's spec, a scorer plugin nor a loaded "
                    f"scorer but {scorer!r}"
                )
        return named
    if isinstance(scorers, str | Scorer):
        raise BenchError(f"scorers is a list, even of one: [{scorers!r}]")
    plugins = [built(scorer) for scorer in scorers]
    for scorer in plugins:
        if not isinstance(scorer, Scorer):
            raise BenchError(
                f"scorers holds {scorer!r}, which is neither a scorer's spec nor a scorer plugin; "
                f'a loaded scorer is given with the name of its column: {{"name": scorer}}'
            )
    return {spec_text(scorer): scorer for scorer in plugins}


def _loader(scorer: Scorer | LoadedScorer, device: str) -> Callable[[], LoadedScorer]:
    from bench.lib.distributed import ALONE
    from bench.scoring.isolation.scorer import load

    if isinstance(scorer, Scorer):
        return lambda: load(scorer, devices.named(device, ALONE))
    return lambda: scorer


def _scores(
    name: str,
    load: Callable[[], LoadedScorer],
    images: Sequence[AnyImage],
    prompts: Sequence[str],
) -> np.ndarray:
    import numpy as np

    from bench.lib.prefetch import ahead
    from bench.lib.turns import chunks_of
    from bench.scoring import truncation
    from bench.scoring.chunks import CHUNK, rated

    if not prompts:
        return np.zeros(0)
    opened = ahead(lambda item: _open(*item), enumerate(images), CHUNK)
    scorer = load()
    if warning := truncation.warning(name, truncation.count(scorer, prompts)):
        warnings.warn(warning, stacklevel=3)
    chunks = chunks_of(len(prompts), CHUNK)
    return np.concatenate([*rated(scorer, name, opened, prompts, chunks)])


def _open(position: int, image: AnyImage) -> Image:
    from bench.lib.images import decode, upright_rgb

    try:
        if isinstance(image, str | PathLike):
            image = read_bytes(expanded(os.fsdecode(image)), MOST_IMAGE)
        return decode(image) if isinstance(image, bytes) else upright_rgb(image)
    except (OSError, ValueError, BenchError) as error:
        raise BenchError(f"image {position}: {error}") from error
