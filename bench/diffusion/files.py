"""Which files a diffusers pipeline is made of, and where they are: a folder or the Hub.

Reads JSON alone, so that planning can ask what a folder is without importing torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import hub
from bench.errors import BenchError
from bench.reading import exists, json_value, read_text

DENOISER = "unet"
VAE = "vae"
INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
_TRANSFORMERS_PARTS = ("text_encoder", "text_encoder_2")
_CLASSES = {DENOISER: "UNet2DConditionModel", VAE: "AutoencoderKL"}
_SUFFIXES = (".safetensors", ".bin")
"""In the order of preference; pickles are read with weights_only=True."""


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


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A part's folder, complete: config.json and weights of one variant."""

    folder: Path
    variant: str | None = None


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
            patterns = weight_patterns(part, suffix, self.variant)
            folder = self.fetch(config, *patterns)
            if any(found for pattern in patterns for found in folder.glob(pattern)):
                break
        else:
            raise BenchError(self._no_weights(folder, part))
        if not (folder / config).is_file():
            raise BenchError(f"{self.where}: there is no {config}")
        return Weights(folder=folder / part, variant=self.variant)

    def _no_weights(self, folder: Path, part: str) -> str:
        wanted = weight_patterns(part, ".safetensors", self.variant)[0]
        found = sorted(path.name for path in (folder / part).glob("*.safetensors"))
        hint = ""
        if found:
            hint = f"; there is {', '.join(found[:4])} (see option variant)"
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
        folder = self.pipeline.fetch(INDEX, SCHEDULER, "*/config.json", "tokenizer*/*")
        if not (folder / INDEX).is_file():
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
        for part in (DENOISER, VAE, *_TRANSFORMERS_PARTS):
            source, _ = self._source(part)
            if hub.local(source.source) and self.index.get(part, [None])[0] is not None:
                self.weights(part)

    def fingerprint(self) -> str:
        """What identifies the bytes that are read; nothing is downloaded."""
        parts = [p for p in (DENOISER, VAE, *_TRANSFORMERS_PARTS) if not self._own(p)]
        patterns = [INDEX, SCHEDULER, "tokenizer*/*", *(f"{part}/config.json" for part in parts)]
        for part in parts:
            for suffix in _SUFFIXES:
                patterns += weight_patterns(part, suffix, self.pipeline.variant)
        told = [_fingerprint(self.pipeline, patterns)]
        for part, own in ((VAE, self.vae), (DENOISER, self.denoiser)):
            if own:
                roots = [weight_patterns(root, s) for root in (part, "") for s in _SUFFIXES]
                print_ = _fingerprint(own, [*_configs(part), *(n for root in roots for n in root)])
                told.append(f"{part}={print_}")
        return ";".join(told)

    def _own(self, part: str) -> Files | None:
        return {VAE: self.vae, DENOISER: self.denoiser}.get(part)

    def _source(self, part: str) -> tuple[Files, str]:
        """Where a part comes from, and its subfolder there ("" where it stands alone)."""
        own = self._own(part)
        if own is None:
            return self.pipeline, part
        folder = own.fetch(*_configs(part))
        for root in (part, ""):
            if (folder / root / "config.json").is_file():
                return own, root
        raise BenchError(f"{own.where}: there is neither config.json nor {part}/config.json")

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


def _fingerprint(files: Files, patterns: Sequence[str]) -> str:
    return hub.fingerprint(files.source, revision=files.revision, patterns=patterns)
