from __future__ import annotations

import hashlib
import io
import os
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from bench import BenchError, PreferencePair, PreferenceSet
from bench.api.encoded_pairs import EncodedPairs
from bench.api.policy import Condition, Moments
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from bench.lib.distributed import ALONE, World
from bench.lib.images import decode, fit
from bench.preferences.pair_table import PairTable
from bench.recipe.recipe import Framing
from bench.stages import encode as encoding
from bench.stages.encode import encode, read
from tests import toy
from tests.tiny import LATENT_SHAPE, RESOLUTION, TOKENS, WIDTH
from tests.training.conftest import exit_code, forked

SIZES = ((20, 20), (40, 24), (24, 40), (RESOLUTION, RESOLUTION))
COUNT = 150


def picture(row: int, number: int) -> bytes:
    """A PNG of smooth random colours, of one of four sizes."""
    rng = np.random.default_rng([row, number])
    width, height = SIZES[(row + number) % len(SIZES)]
    pixels = np.kron(rng.integers(0, 256, (height // 4, width // 4, 3)), np.ones((4, 4, 1)))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class Drawn(PreferenceSet):
    """Pairs that are drawn while they are read; counts how many are held at once."""

    name: ClassVar[str] = "drawn"
    alive: ClassVar[weakref.WeakSet[PreferencePair]] = weakref.WeakSet()
    most: ClassVar[list[int]] = []
    broken: int | None = None
    problem: int | None = None

    @property
    def source(self) -> str:
        return "drawn.parquet"

    def read(self, rows: Iterable[int] | None = None) -> Iterator[PreferencePair]:
        for row in range(COUNT) if rows is None else rows:
            pair = toy.pair(
                row=row,
                caption=caption(row),
                image_0=picture(row, 0),
                image_1=b"text" if row == self.broken else picture(row, 1),
                human=1.0,
                problem="jpg_1: there is no file x.jpg" if row == self.problem else "",
            )
            self.alive.add(pair)
            self.most.append(len(self.alive))
            yield pair
            del pair


def caption(row: int) -> str:
    return "" if row == 7 else f"picture {row % 70}"


def table(rows: Sequence[int] = range(COUNT)) -> PairTable:
    return PairTable(
        rows=np.array(rows, dtype=np.int64),
        captions=tuple(caption(row) for row in rows),
        human=np.ones(len(rows)),
    )


def run(
    folder: Path,
    policy: StableDiffusionPolicy,
    *,
    pairs: PreferenceSet | None = None,
    usable: PairTable | None = None,
    framing: Framing | None = None,
    advance: Callable[[int], None] = lambda _: None,
    world: World = ALONE,
) -> EncodedPairs:
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    encode(
        policy,
        pairs or Drawn(),
        usable or table(),
        resolution=RESOLUTION,
        framing=framing or Framing(),
        folder=folder / "out",
        work=folder / "work",
        world=world,
        advance=advance,
    )
    return read(folder / "out")


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((folder / "out").iterdir())
    }


@pytest.fixture
def policy(pipeline: Path) -> StableDiffusionPolicy:
    return StableDiffusionPolicy.load(pipeline, "cpu")


@pytest.fixture(scope="module")
def plain(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoding that nothing interrupted."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder, StableDiffusionPolicy.load(pipeline, "cpu"))
    return folder


def test_rows_are_the_encoders_own_moments(plain: Path, policy: StableDiffusionPolicy) -> None:
    encoded = read(plain / "out")
    assert len(encoded) == COUNT
    assert encoded.latent_shape == LATENT_SHAPE
    assert not encoded.has_mirrored
    rows = torch.tensor([149, 0, 63, 64, 15, 16])
    found = encoded.moments(rows, torch.zeros(6, 2, dtype=torch.bool))
    images = [
        fit(decode(picture(row, number)), RESOLUTION) for row in rows.tolist() for number in (0, 1)
    ]
    expected = policy.encode_images(images)
    for name in ("mean", "std"):
        value = getattr(found, name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.flatten(0, 1), getattr(expected, name))


def test_prompts_are_encoded_once_each(plain: Path, policy: StableDiffusionPolicy) -> None:
    encoded = read(plain / "out")
    rows = torch.tensor([0, 7, 70, 69, 140, 149])
    index = encoded.prompt_index[rows]
    assert index[1] == 0, "the empty prompt comes first"
    assert index[0] == index[2] == index[4]
    assert encoded.prompt_index.max() == 70
    found = encoded.condition(index)["prompt"]
    expected = policy.encode_prompts([caption(row) for row in rows.tolist()])["prompt"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert encoded.conditions["prompt"].shape == (71, TOKENS, WIDTH)


def test_large_arrays_stay_on_disk_and_few_pairs_are_held(
    tmp_path: Path, policy: StableDiffusionPolicy
) -> None:
    Drawn.most.clear()
    encoded = run(tmp_path, policy)
    assert len(Drawn.most) == COUNT
    # Those being decoded ahead; what is decoded and resized is no pair any more.
    assert max(Drawn.most) <= encoding.PAIRS_AT_ONCE + encoding.THREADS + 2
    arrays = [encoded.mean, encoded.std, *encoded.conditions.values()]
    assert all(isinstance(array, np.memmap) for array in arrays)


def test_mirrored_views_are_encodings_of_mirrored_images(
    tmp_path: Path, policy: StableDiffusionPolicy, plain: Path
) -> None:
    encoded = run(tmp_path, policy, framing=Framing(flip=True))
    assert encoded.has_mirrored
    rows = torch.tensor([3, 4])
    mirrored = torch.tensor([[False, True], [True, False]])
    found = encoded.moments(rows, mirrored).mean
    images = [fit(decode(picture(row, n)), RESOLUTION) for row in (3, 4) for n in (0, 1)]
    images = [ImageOps.mirror(i) if i_ in (1, 2) else i for i_, i in enumerate(images)]
    torch.testing.assert_close(found.flatten(0, 1), policy.encode_images(images).mean)
    assert np.array_equal(encoded.mean[:, :, :1], read(plain / "out").mean)


def test_random_crop_is_a_function_of_row_and_image(
    tmp_path: Path, policy: StableDiffusionPolicy, plain: Path
) -> None:
    framing = Framing(crop="random")
    whole = run(tmp_path / "whole", policy, framing=framing)
    subset = [1, 5, 66, 149]
    part = run(tmp_path / "part", policy, framing=framing, usable=table(subset))
    torch.testing.assert_close(torch.tensor(part.mean), torch.tensor(whole.mean[subset]))
    centre = read(plain / "out")
    moved = np.abs(whole.mean - centre.mean).max(axis=(2, 3, 4, 5)) > 1e-3
    square = np.array(
        [
            [SIZES[(row + n) % 4][0] == SIZES[(row + n) % 4][1] for n in (0, 1)]
            for row in range(COUNT)
        ]
    )
    assert not moved[square].any()
    assert moved[~square].mean() > 0.8


@pytest.mark.parametrize(
    ("place", "left"), [((0.0, 0.5), 0), ((0.25, 0.5), 5), ((1.0, 0.5), 20), ((1.0, 0.0), 20)]
)
def test_square_is_cut_where_it_is_asked_for(place: tuple[float, float], left: int) -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None], (20, 40, 3))
    cut = np.asarray(fit(Image.fromarray(ramp), 20, place))
    assert np.array_equal(cut, ramp[:, left : left + 20])
    upright = np.asarray(fit(Image.fromarray(ramp.swapaxes(0, 1)), 20, place[::-1]))
    assert np.array_equal(upright, cut.swapaxes(0, 1))


def test_places_cover_the_way_evenly() -> None:
    places = np.array([encoding._random_place(row, n) for row in range(500) for n in (0, 1)])
    assert places.min() >= 0
    assert places.max() < 1
    np.testing.assert_allclose(places.mean(axis=0), 0.5, atol=0.03)
    assert len(np.unique(places)) == places.size


class Stop(KeyboardInterrupt):
    """Stands for a killed process."""


class Interrupted(StableDiffusionPolicy):
    """Encodes so many batches of images or of prompts, then stops."""

    images = prompts = 10**9
    encoded = 0

    def encode_images(self, images: Sequence[Any]) -> Moments:
        if self.images == 0:
            raise Stop
        self.images -= 1
        self.encoded += len(images)
        return super().encode_images(images)

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        if self.prompts == 0:
            raise Stop
        self.prompts -= 1
        return super().encode_prompts(prompts)


@pytest.mark.parametrize(
    ("images", "prompts"), [(0, 10), (1, 10), (4, 10), (6, 10), (9, 10), (10, 1), (10, 2)]
)
def test_interrupted_and_resumed_gives_the_same_bytes(
    tmp_path: Path, pipeline: Path, plain: Path, images: int, prompts: int
) -> None:
    first = Interrupted.load(pipeline, "cpu")
    first.images, first.prompts = images, prompts
    with pytest.raises(Stop):
        run(tmp_path, first)
    again, advanced = Interrupted.load(pipeline, "cpu"), []
    run(tmp_path, again, advance=advanced.append)
    assert digests(tmp_path) == digests(plain)
    assert sum(advanced) == COUNT
    # Four batches make a chunk, and whole chunks are not encoded again.
    finished = min(images // 4 * encoding.CHUNK, COUNT) if images < 10 else COUNT
    assert again.encoded == 2 * (COUNT - finished)
    assert run(tmp_path, again) is not None
    assert again.encoded == 2 * (COUNT - finished), "finished: nothing is encoded again"


def test_killed_and_resumed_gives_the_same_bytes(
    tmp_path: Path, pipeline: Path, plain: Path
) -> None:
    """A real SIGKILL in the middle of the second chunk."""

    def encode_until_killed() -> None:
        policy = Interrupted.load(pipeline, "cpu")
        policy.images = 6
        try:
            run(tmp_path, policy)
        except Stop:
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(forked(encode_until_killed)) == -signal.SIGKILL
    assert any((tmp_path / "work").glob("pairs-*"))
    run(tmp_path, StableDiffusionPolicy.load(pipeline, "cpu"))
    assert digests(tmp_path) == digests(plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_backbones_are_kept_in_float16(
    tmp_path: Path, pipeline: Path, plain: Path, dtype: torch.dtype
) -> None:
    policy = StableDiffusionPolicy.load(pipeline, "cpu", dtype=dtype)
    encoded = run(tmp_path, policy, usable=table(range(16)))
    assert {a.dtype for a in (encoded.mean, encoded.std, encoded.conditions["prompt"])} == {
        np.dtype(np.float16)
    }
    rows, plainly = torch.arange(16), torch.zeros(16, 2, dtype=torch.bool)
    found = encoded.moments(rows, plainly)
    exact = policy.encode_images(
        [fit(decode(picture(row, n)), RESOLUTION) for row in range(16) for n in (0, 1)]
    )
    # The scaling factor comes after the encoder, so that a bfloat16 may need one more rounding.
    torch.testing.assert_close(found.mean.flatten(0, 1), exact.mean, rtol=2**-11, atol=2**-24)
    told = encoded.condition(encoded.prompt_index)["prompt"]
    own = policy.encode_prompts([caption(row) for row in range(16)])["prompt"].float()
    assert torch.equal(told, own), "each of the encoder's numbers is a float16, too"


class Overflowing(StableDiffusionPolicy):
    """A text encoder whose states are too large for float16."""

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        return {name: 1e6 * value for name, value in super().encode_prompts(prompts).items()}


def test_what_cannot_be_kept_is_refused(tmp_path: Path, pipeline: Path) -> None:
    policy = Overflowing.load(pipeline, "cpu", dtype=torch.bfloat16)
    with pytest.raises(BenchError, match=r"prompt was encoded to .* choose dtype=fp32"):
        run(tmp_path, policy, usable=table([0]))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (Drawn(broken=20), r"drawn.parquet: row 20: image 1 can no longer be decoded"),
        (Drawn(problem=20), r"drawn.parquet: row 20: jpg_1: there is no file x.jpg"),
    ],
)
def test_rows_that_broke_since_the_inspection_are_named(
    tmp_path: Path, policy: StableDiffusionPolicy, pairs: PreferenceSet, message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        run(tmp_path, policy, pairs=pairs)


def test_no_pair_is_an_error(tmp_path: Path, policy: StableDiffusionPolicy) -> None:
    with pytest.raises(BenchError, match=r"drawn.parquet: no usable pair is left"):
        run(tmp_path, policy, usable=table([]))
