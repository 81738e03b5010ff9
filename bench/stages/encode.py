"""encode: a preference set as a backbone's denoiser sees it, once for all methods.

Reads the usable pairs' images and captions. Leaves plain NumPy arrays, of which training reads the
rows that a step needs, so that neither the images nor the latents nor the conditions of a whole
set are ever in memory. Its key hashes the backbone, the inspected pairs, crop and flip.
The files:

    mean.npy, std.npy       [N, 2, V, C, h, w]: pair, image 0 and 1, view (plain, mirrored)
    prompt_index.npy        int64 [N]: row of each pair's caption in the conditions
    condition.<name>.npy    [M, ...]: the empty prompt first, then every distinct caption, sorted
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bound
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api.contracts import asking, read_pairs
from bench.api.kinds import Backbone, PreferencePair, PreferenceSet
from bench.lib.distributed import World
from bench.lib.errors import BenchError
from bench.lib.prefetch import ahead
from bench.lib.turns import chunks_of, turns
from bench.preferences.pair_table import PairTable
from bench.recipe.recipe import Framing
from bench.stages.generated import opened
from bench.stages.inspect import InspectStage
from bench.stages.stage import Made, Stage

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from bench.api.encoded_pairs import EncodedPairs
    from bench.api.policy import Policy
    from bench.lib.progress import Task
    from bench.stages.context import Context
    from bench.store.store import Partial

CHUNK = 64
"""Pairs, or prompts, encoded between two marks that an interrupted run goes on from."""
PAIRS_AT_ONCE = 16
"""Pairs whose images are in memory at a time; as many again are decoded beside the encoder."""
THREADS = min(8, os.cpu_count() or 1)

_BACKBONE = "the backbone"
_CONDITION = "condition."
_PREPARED = "prepared"


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodeStage(Stage):
    """Latent moments and prompt conditions of a preference set; units: pairs."""

    name: ClassVar[str] = "encode"
    version: ClassVar[int] = 2

    backbone: Backbone
    inspect: InspectStage
    """Says which pairs are usable."""
    pairs: PreferenceSet
    pair_count: int
    framing: Framing

    @property
    def inputs(self) -> tuple[Stage, ...]:  # noqa: D102
        return (self.inspect,)

    def key_data(self) -> Mapping[str, Any]:  # noqa: D102
        return {"pairs": self.inspect.key, "framing": self.framing.model_dump()}

    @property
    def units(self) -> int:  # noqa: D102
        return self.pair_count

    def units_now(self, context: Context) -> int:  # noqa: D102
        return len(context.table(self.inspect).rows)

    @property
    def seconds_per_load(self) -> float:
        """Encoding an image takes 0.7 (SDXL) to 1.4 (SD 1.5) times an evaluation's operations."""
        return 2 * self.framing.views * self.backbone.seconds_per_evaluation

    def run(self, context: Context, partial: Partial, task: Task) -> Made:  # noqa: D102
        usable = context.table(self.inspect)
        with context.untouched(self.backbone) as policy:
            encode(
                policy,
                opened(self.pairs, context),
                usable,
                resolution=self.backbone.resolution,
                framing=self.framing,
                folder=partial.out,
                work=partial.work,
                world=context.world,
                advance=task.advance,
            )
        return Made(info={"pairs": len(usable.rows)})


def encode(
    policy: Policy,
    pairs: PreferenceSet,
    table: PairTable,
    *,
    resolution: int,
    framing: Framing,
    folder: Path,
    work: Path,
    world: World,
    advance: Callable[[int], None],
) -> None:
    """Encode the usable pairs of a preference set.

    Moments and conditions are float32 for a float32 backbone and float16 otherwise. That holds
    the numbers of a bfloat16 or float16 encoder as they are; what was computed in more digits
    (latents are scaled in float32) changes by at most one part in 2,048, less than the 8 bits of
    the images' own pixels leave open. Above 65,504 float16 ends; no published pipeline of these
    families comes near it, since all run in float16 too, and what does is refused.

    Args:
        policy: the backbone.
        pairs: the whole set.
        table: the N pairs to encode, in order.
        resolution: height and width in pixels that images are scaled and cropped to.
        framing: where to crop, and whether to encode mirrored views too.
        folder: gets the files.
        work: keeps marks of what is finished, for an interrupted call to go on from.
        world: the processes that share the chunks; they need the same `folder` and `work`.
        advance: called with the number of pairs that all processes have finished.

    Raises:
        BenchError: there is no pair, an image cannot be read, or a value is not finite.
    """
    if len(table.rows) == 0:
        raise BenchError(f"{pairs.source}: no usable pair is left to train on")
    prompts = ["", *sorted(set(table.captions) - {""})]
    with world.all_or_none():
        if world.is_main and not (work / _PREPARED).exists():
            _prepare(policy, table, prompts, framing, folder)
            (work / _PREPARED).touch()
    with world.all_or_none():
        _encode_images(policy, pairs, table, resolution, framing, folder, work, world, advance)
        for chunk in world.shard(chunks_of(len(prompts), CHUNK)):
            done = work / f"prompts-{chunk.start:08d}"
            if not done.exists():
                with asking(_BACKBONE):
                    conditions = policy.encode_prompts([prompts[i] for i in chunk])
                for name, values in conditions.items():
                    _write(folder / f"{_CONDITION}{name}.npy", chunk.start, values, "a prompt")
                done.touch()


def read(folder: Path) -> EncodedPairs:
    """What `encode` wrote; the large arrays stay on disk."""
    import torch

    from bench.api.encoded_pairs import EncodedPairs

    return EncodedPairs(
        mean=np.load(folder / "mean.npy", mmap_mode="r"),
        std=np.load(folder / "std.npy", mmap_mode="r"),
        prompt_index=torch.from_numpy(np.load(folder / "prompt_index.npy")),
        conditions={
            file.stem.removeprefix(_CONDITION): np.load(file, mmap_mode="r")
            for file in sorted(folder.glob(f"{_CONDITION}*.npy"))
        },
    )


def _prepare(
    policy: Policy, table: PairTable, prompts: Sequence[str], framing: Framing, folder: Path
) -> None:
    """Make all files in their final size, so that any process can write any row."""
    import torch

    small = torch.float32 if policy.dtype == torch.float32 else torch.float16
    moments = (len(table.rows), 2, framing.views, *policy.latent_shape)
    arrays = {"mean": (moments, small), "std": (moments, small)}
    with asking(_BACKBONE):
        conditions = policy.encode_prompts([""])
    for name, value in conditions.items():
        dtype = small if value.is_floating_point() else value.dtype
        arrays[_CONDITION + name] = ((len(prompts), *value.shape[1:]), dtype)
    for name, (shape, dtype) in arrays.items():
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
    index = {prompt: i for i, prompt in enumerate(prompts)}
    np.save(folder / "prompt_index.npy", np.array([index[caption] for caption in table.captions]))


def _encode_images(
    policy: Policy,
    pairs: PreferenceSet,
    table: PairTable,
    resolution: int,
    framing: Framing,
    folder: Path,
    work: Path,
    world: World,
    advance: Callable[[int], None],
) -> None:
    """Write the moments of this process's chunks; images are made ready beside the encoder."""
    mine = turns(chunks_of(len(table.rows), CHUNK), world)
    marks = {chunk: work / f"pairs-{chunk.start:08d}" for chunk, _ in mine}
    missing = {chunk for chunk, mark in marks.items() if not mark.exists()}
    wanted = [int(table.rows[i]) for chunk, _ in mine if chunk in missing for i in chunk]
    ready = bound(_views, source=pairs.source, resolution=resolution, framing=framing)
    stream: Iterator[list[Image]] = ahead(ready, read_pairs(pairs, wanted), PAIRS_AT_ONCE, THREADS)
    for chunk, done in mine:
        if chunk in missing:
            for start in range(chunk.start, chunk.stop, PAIRS_AT_ONCE):
                size = min(PAIRS_AT_ONCE, chunk.stop - start)
                images = [image for views in islice(stream, size) for image in views]
                with asking(_BACKBONE):
                    moments = policy.encode_images(images)
                rows = f"{pairs.source}: an image of rows {table.rows[start]} to "
                rows += f"{table.rows[start + size - 1]}"
                for name, values in (("mean", moments.mean), ("std", moments.std)):
                    _write(folder / f"{name}.npy", start, values, rows)
            marks[chunk].touch()
        # The other processes are at their chunk of the same turn.
        advance(done)


def _views(pair: PreferencePair, *, source: str, resolution: int, framing: Framing) -> list[Image]:
    """The pair's training images: image 0 plain (and mirrored), image 1 plain (and mirrored)."""
    from PIL import ImageOps

    from bench.lib.images import CENTER, decode, fit

    if pair.problem:
        raise BenchError(f"{source}: row {pair.row}: {pair.problem}")
    views = []
    for number, encoded in enumerate(pair.images):
        try:
            image = decode(encoded.data)
        except ValueError as error:
            raise BenchError(
                f"{source}: row {pair.row}: image {number} can no longer be decoded ({error}); "
                f"the data changed since they were inspected"
            ) from error
        place = CENTER if framing.crop == "center" else _random_place(pair.row, number)
        plain = fit(image, resolution, place)
        views += [plain, ImageOps.mirror(plain)] if framing.flip else [plain]
    return views


def _random_place(row: int, number: int) -> tuple[float, float]:
    """Where image `number` of a row is cropped: a function of the two alone."""
    import torch

    from bench.lib.seeding import generator

    x, y = torch.rand(2, generator=generator("crop", row, number), dtype=torch.float64).tolist()
    return x, y


def _write(file: Path, row: int, values: torch.Tensor, what: str) -> None:
    """Put `values` into an array's file from `row` on, in the array's type."""
    array = np.load(file, mmap_mode="r")
    with np.errstate(over="ignore"):
        rows = values.cpu().numpy() if array.dtype.kind != "f" else values.float().cpu().numpy()
        rows = rows.astype(array.dtype).reshape(-1, *array.shape[1:])
    if not np.isfinite(rows).all():
        raise BenchError(
            f"{what} was encoded to numbers that are not finite; choose dtype=fp32 for the "
            f"backbone, or a VAE that is made for 16 bits"
        )
    # Not through the map: on a full disk that would kill the process instead of raising.
    with file.open("r+b") as out:
        out.seek(array.offset + row * array[0].nbytes)
        out.write(rows.tobytes())
