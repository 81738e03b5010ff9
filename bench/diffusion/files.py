"""Which files a diffusers pipeline is made of, and where they are: a folder or the Hub.

Reads JSON alone, so that planning can ask what a folder is without importing torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.api.kinds import PipelineLayout
from bench.lib import hub
from bench.lib.errors import BenchError
from bench.lib.reading import exists, json_value, read_text

DENOISER = "unet"
VAE = "vae"
INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
TOKENIZERS = "tokenizer*/*"
_TRANSFORMERS_PARTS = ("text_encoder", "text_encoder_2")
_CLASSES = {DENOISER: "UNet2DConditionModel", VAE: "AutoencoderKL"}
_SUFFIXES = (".safetensors", ".bin")
"""In the order of preference; pickles are read with weights_only=True."""

STABLE_DIFFUSION, STABLE_DIFFUSION_XL = (
    PipelineLayout(pipeline=pipeline, denoiser=_CLASSES[DENOISER], part=DENOISER)
    for pipeline in ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BenchError: it is absent or no JSON object.
    """
    if not exists(path):
        raise BenchError(f"there is no file {str(path)!r}")
    try:
        data = json_value(read_text(path))
    except ValueError as error:
        raise BenchError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise BenchError(f"{path}: expected a JSON object")
    return data


def weight_patterns(part: str, suffix: str, variant: str | None = None) -> tuple[str, ...]:
    """The names that a part's weights may have; `part` is its subfolder, "" the root."""
    stem = "diffusion_pytorch_model"
    if part in _TRANSFORMERS_PARTS:
        stem = "model" if suffix == ".safetensors" else "pytorch_model"
    root = f"{part}/" if part else ""
    if variant is None:
        names: Sequence[str] = (f"{stem}{suffix}", f"{stem}-?????-of-?????{suffix}")
        index = f"{stem}{suffix}.index.json"
    else:
        names = (
            f"{stem}.{variant}{suffix}",
            f"{stem}.{variant}-?????-of-?????{suffix}",
            f"{stem}-?????-of-?????.{variant}{suffix}",
        )
        index = f"{stem}{suffix}.index.{variant}.json"
    return tuple(root + name for name in (*names, index))


def weight_files(folder: Path, part: str, variant: str | None = None) -> tuple[str, ...]:
    """The weights that diffusers or transformers reads for a part; () where there are none.

    Args:
        folder: of the pipeline, or of the part where `part` is "".
        part: subfolder.
        variant: as in `Files`.

    Returns:
        Names in `folder`: one file, or an index and its shards; safetensors before pickles.

    Raises:
        BenchError: a shard is missing, or the index is none.
    """
    for suffix in _SUFFIXES:
        patterns = weight_patterns(part, suffix, variant)
        single, index = patterns[0], patterns[-1]
        # Where both are there, each library has its own choice.
        choices = (single, index) if part in _TRANSFORMERS_PARTS else (index, single)
        name = next((name for name in choices if hub.is_file(folder / name)), None)
        if name:
            return (name,) if name == single else (index, *_shards(folder, index))
    return ()


def _shards(folder: Path, index: str) -> list[str]:
    """The files that an index of weights names."""
    places = read_json(folder / index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise BenchError(f"{folder / index}: does not say in which file each weight is")
    names = [str(Path(index).parent / name) for name in sorted(set(places.values()))]
    if missing := [name for name in names if not hub.is_file(folder / name)]:
        raise BenchError(
            f"{folder}: there is no {missing[0]}, which {index} names; the copy is not complete"
        )
    return names


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A part's folder, complete: config.json and weights of one variant."""

    folder: Path
    files: tuple[str, ...]
    """Names of all files that are read, in `folder`."""
    variant: str | None = None

    def fingerprint(self) -> str:
        """A hash of the files."""
        return hub.files_hash(self.folder, self.files)


@dataclass(frozen=True, kw_only=True)
class Files:
    """One source: a pipeline, or a repository that holds a single part."""

    source: str
    """A local folder or a Hub id."""
    revision: str = "main"
    """For a Hub id."""
    variant: str | None = None
    """Of the weights, as in "diffusion_pytorch_model.fp16.safetensors"."""

    @property
    def where(self) -> str:
        """For messages."""
        return self.source if hub.local(self.source) else f"{self.source}@{self.revision}"

    def fetch(self, *patterns: str) -> Path:
        """The local folder, with the files that match (downloaded where they are not yet)."""
        folder = hub.fetch_folder(self.source, revision=self.revision, patterns=patterns)
        if not folder.is_dir():
            raise BenchError(f"{self.source} is a file; give the folder that it lies in")
        return folder

    def weights(self, part: str) -> Weights:
        """A part with its configuration and weights; `part` is its subfolder, "" the root.

        Raises:
            BenchError: it cannot be had.
        """
        config = f"{part}/config.json" if part else "config.json"
        for suffix in _SUFFIXES:
            folder = self.fetch(config, *weight_patterns(part, suffix, self.variant))
            if weights := weight_files(folder, part, self.variant):
                break
        else:
            raise BenchError(self._no_weights(folder, part))
        if not hub.is_file(folder / config):
            raise BenchError(f"{self.where}: there is no {config}")
        names = (Path(name).relative_to(part).as_posix() for name in (config, *weights))
        return Weights(folder=folder / part, files=tuple(names), variant=self.variant)

    def _no_weights(self, folder: Path, part: str) -> str:
        wanted = weight_patterns(part, ".safetensors", self.variant)[0]
        others = sorted(path.name for path in (folder / part).glob("*.safetensors"))
        hint = ""
        if others:
            hint = f"; there is {', '.join(others[:4])} (see option variant)"
        elif hub.local(self.source) is None:
            hint = "; if the Hub was out of reach, it has not been downloaded yet"
        return f"{self.where}: there is no {wanted} (nor a .bin file){hint}"


@dataclass(frozen=True, kw_only=True)
class PipelineFiles:
    """A pipeline's files, of which VAE and denoiser may come from elsewhere."""

    pipeline: Files
    vae: Files | None = None
    denoiser: Files | None = None

    @cached_property
    def folder(self) -> Path:
        """The local folder, with everything but weights."""
        folder = self.pipeline.fetch(INDEX, SCHEDULER, "*/config.json", TOKENIZERS)
        if not hub.is_file(folder / INDEX):
            raise BenchError(self._no_pipeline(folder))
        return folder

    @cached_property
    def index(self) -> dict[str, Any]:
        """model_index.json: the pipeline's class and options, and which parts it has."""
        return read_json(self.folder / INDEX)

    def config(self, part: str) -> dict[str, Any]:
        """A part's config.json.

        Raises:
            BenchError: it cannot be had, or the part is of another class than expected.
        """
        source, root = self._source(part)
        folder = self.folder if source is self.pipeline else source.fetch(*_configs(part))
        config = read_json(folder / root / "config.json")
        kind, wanted = config.get("_class_name"), _CLASSES.get(part)
        if wanted and kind != wanted:
            raise BenchError(f"{source.where}: the {part} is a {kind}, not a {wanted}")
        return config

    @property
    def denoiser_structure(self) -> dict[str, Any]:
        """The configuration of the pipeline's own denoiser, which another must fit."""
        return read_json(self.folder / DENOISER / "config.json")

    @property
    def native_resolution(self) -> int:
        """Height and width in pixels that the denoiser was made for."""
        size = self.config(DENOISER).get("sample_size")
        if not isinstance(size, int):
            raise BenchError(
                f"{self.pipeline.where}: the denoiser says no size that it was made for "
                f"(sample_size: {size}); give resolution=..."
            )
        return size * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """How many times smaller than images latents are, along each side."""
        return int(2 ** (len(self.config(VAE)["block_out_channels"]) - 1))

    def weights(self, part: str) -> Weights:
        """A part with its weights."""
        source, root = self._source(part)
        return source.weights(root)

    def check(self) -> None:
        """Say at once if a local folder lacks something; what the Hub has shows when fetched."""
        for part in self._parts:
            source, _ = self._source(part)
            if hub.local(source.source):
                self.weights(part)

    def fingerprint(self) -> str:
        """What identifies the bytes that are read; nothing is downloaded.

        Raises:
            BenchError: a local folder lacks something that is read.
        """
        own = {part: files for part in (VAE, DENOISER) if (files := self._own(part))}
        return ";".join(
            [
                self._own_bytes([part for part in self._parts if part not in own])
                if hub.local(self.pipeline.source)
                else _commit(self.pipeline),
                *(
                    f"{part}="
                    + (self.weights(part).fingerprint() if hub.local(f.source) else _commit(f))
                    for part, f in own.items()
                ),
            ]
        )

    def _own_bytes(self, parts: Sequence[str]) -> str:
        """A hash of what is read from the pipeline's own local folder."""
        names = [INDEX, SCHEDULER, *hub.files_below(self.folder, [TOKENIZERS])]
        # The structure that an own denoiser must fit.
        names += [] if DENOISER in parts else [f"{DENOISER}/config.json"]
        for part in parts:
            names += [f"{part}/{name}" for name in self.pipeline.weights(part).files]
        return hub.files_hash(self.folder, names)

    @property
    def _parts(self) -> list[str]:
        """The parts with weights that this pipeline has."""
        known = (DENOISER, VAE, *_TRANSFORMERS_PARTS)
        return [part for part in known if self._declared(part)[0] is not None]

    def _declared(self, part: str) -> list[Any]:
        """Library and class of a part by model_index.json; nulls where it has none."""
        origin = self.index.get(part, [None])
        if not isinstance(origin, list) or not origin:
            raise BenchError(
                f"{self.pipeline.where}: {INDEX} says {origin!r} of {part}, not its library and "
                f"class"
            )
        return origin

    def _own(self, part: str) -> Files | None:
        return {VAE: self.vae, DENOISER: self.denoiser}.get(part)

    def _source(self, part: str) -> tuple[Files, str]:
        """Where a part comes from, and its subfolder there ("" where it stands alone)."""
        own = self._own(part)
        if own is None:
            return self.pipeline, part
        if (here := hub.local(own.source)) and not here.is_dir():
            raise BenchError(_not_whole(own, part, "is a file"))
        folder = own.fetch(*_configs(part))
        for root in (part, ""):
            if hub.is_file(folder / root / "config.json"):
                return own, root
        raise BenchError(
            _not_whole(own, part, f"there is neither config.json nor {part}/config.json")
        )

    def _no_pipeline(self, folder: Path) -> str:
        where = self.pipeline.where
        config = folder / "config.json"
        kind = read_json(config).get("_class_name", "single model") if config.is_file() else ""
        if kind:
            return (
                f"{where} is a {kind}, not a pipeline (it has no {INDEX}); give the pipeline as "
                f"path and this as unet=... or vae=..."
            )
        return f"{where} is no diffusers pipeline: it has no {INDEX}"


def _configs(part: str) -> tuple[str, str]:
    """Where a repository that is not the pipeline's may have a part's configuration."""
    return "config.json", f"{part}/config.json"


def _not_whole(own: Files, part: str, problem: str) -> str:
    return (
        f"{own.where}: {problem}; {part}=... takes the folder or Hub id of a whole model "
        f"(config.json and its weights), while a LoRA or a bare state dict is evaluated as "
        f"pretrained:{own.source}"
    )


def _commit(files: Files) -> str:
    return hub.fingerprint(files.source, revision=files.revision)
