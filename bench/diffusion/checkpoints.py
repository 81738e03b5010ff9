"""Denoiser weights on disk, as diffusers and peft write and read them.

Written: the whole denoiser (`<folder>/unet/`, for `from_pretrained(folder, subfolder="unet")`), or
its adapter (`<folder>/pytorch_lora_weights.safetensors`, for `pipeline.load_lora_weights(folder)`).
Read: those, a peft folder (`adapter_config.json`), LoRA files in diffusers' or kohya's naming, and
bare state dicts. Every key of what is read is accounted for.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.diffusion import lora
from bench.diffusion.files import DENOISER, Files, Weights, read_json
from bench.errors import BenchError

# diffusers 0.40 renamed the option, and later ones warn of the old name.
_RENAMED = tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 40)
_DTYPE = "dtype" if _RENAMED else "torch_dtype"

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_NESTED = ("state_dict", DENOISER)
_PREFIXES = (f"{DENOISER}.", "module.")


def save(denoiser: Any, folder: Path) -> None:
    """Write the policy's adapter if the denoiser carries one, else the whole denoiser.

    The same weights give the same bytes.
    """
    if lora.POLICY not in lora.names(denoiser):
        # One file whatever the size.
        with _quietly():
            denoiser.save_pretrained(folder / DENOISER, max_shard_size="1TB")
        return
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(denoiser, adapter_name=lora.POLICY)
    config = denoiser.peft_config[lora.POLICY]
    told = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules),
        # Early versions of diffusers ask for these.
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    # One key alone: safetensors writes several in an order that changes from run to run.
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps({f"{DENOISER}.{k}": told[k] for k in told})}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{DENOISER}.{k}": v.detach().cpu().contiguous() for k, v in state.items()},
        folder / LORA_FILE,
        metadata=metadata,
    )


def load(
    path: Path,
    backbone: Callable[[], Any],
    structure: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> torch.nn.Module:
    """The denoiser that the weights in `path` make.

    Args:
        path: a folder that `save` wrote, a U-Net folder, a peft folder, or a file of weights.
        backbone: reads the untouched denoiser, for weights that are not a whole one.
        structure: the backbone's denoiser configuration.
        dtype: of a whole denoiser.
        device: likewise.

    Raises:
        BenchError: it is none of these, cannot be read, or does not fit the backbone.
    """
    if path.is_file():
        return _from_file(path, backbone())
    for root in (path / DENOISER, path):
        config = root / "config.json"
        if config.is_file():
            kind = read_json(config).get("_class_name")
            if kind != UNet2DConditionModel.__name__:
                raise BenchError(f"{root}: holds a {kind}, not a {UNet2DConditionModel.__name__}")
            return read_denoiser(Files(source=str(root)).weights(""), structure, dtype, device)
    if (path / PEFT_CONFIG).is_file():
        return _from_peft(path, backbone())
    return _from_file(weights_file(path), backbone())


def weights_file(folder: Path) -> Path:
    """The one file of weights in a folder.

    Raises:
        BenchError: there is none, or there are several.
    """
    if (folder / LORA_FILE).is_file():
        return folder / LORA_FILE
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES)
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found[:4])
    raise BenchError(
        f"{folder}: holds several weights files ({names}); name one of them"
        if found
        else f"{folder}: holds no denoiser weights (no {DENOISER}/, {LORA_FILE}, {PEFT_CONFIG} or "
        f"file of weights)"
    )


def read_denoiser(
    weights: Weights,
    structure: Mapping[str, Any] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.nn.Module:
    """A U-Net on `device`, in eval mode; refused if its weights are not those of `structure`."""
    unet = read_part(UNet2DConditionModel, weights, dtype)
    if structure is not None:
        _compare(unet.state_dict(), _shapes(structure), weights.folder)
    # diffusers would write the place it was read from into every saved config, and a path must
    # not change an artefact's bytes.
    unet.register_to_config(_name_or_path="")
    module: torch.nn.Module = unet.to(device, memory_format=torch.channels_last).eval()
    return module


def read_part(kind: Any, weights: Weights, dtype: torch.dtype) -> Any:
    """A diffusers or transformers model, with every one of its weights from the files.

    Raises:
        BenchError: the files cannot be read, or lack a weight.
    """
    options: dict[str, Any] = {_DTYPE: dtype} if issubclass(kind, ModelMixin) else {"dtype": dtype}
    try:
        with _quietly():
            part, found = kind.from_pretrained(
                weights.folder,
                variant=weights.variant,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        # Damaged and foreign files fail in many ways, all of them the files' fault.
        raise BenchError(f"cannot read {weights.folder}: {_line(error)}") from error
    missing = sorted([*found["missing_keys"], *(str(key[0]) for key in found["mismatched_keys"])])
    if missing:
        raise BenchError(
            f"{weights.folder}: the weights lack {_some(missing)} of a {kind.__name__}"
        )
    # Those of published text encoders hold position ids, which current versions have no use for.
    foreign = sorted(found["unexpected_keys"]) if issubclass(kind, ModelMixin) else []
    if foreign:
        raise BenchError(
            f"{weights.folder}: the weights hold {_some(foreign)}, which a {kind.__name__} of "
            f"this configuration does not have"
        )
    return part


def _from_file(file: Path, denoiser: Any) -> torch.nn.Module:
    state, metadata = _read_state(file)
    if any("lora" in key for key in state):
        return _with_lora(denoiser, state, metadata, file)
    for key in _NESTED:
        if isinstance(state.get(key), Mapping):
            state = dict(state[key])
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    _compare(state, denoiser.state_dict(), file)
    denoiser.load_state_dict(state)
    module: torch.nn.Module = denoiser
    return module


def _from_peft(folder: Path, denoiser: Any) -> torch.nn.Module:
    from peft import LoraConfig

    kind = read_json(folder / PEFT_CONFIG).get("peft_type")
    if kind != "LORA":
        raise BenchError(f"{folder}: is a {kind} adapter; only LORA is supported")
    file = next((folder / n for n in PEFT_FILES if (folder / n).is_file()), None)
    if file is None:
        raise BenchError(f"{folder}: holds {PEFT_CONFIG} but no {PEFT_FILES[0]}")
    told = LoraConfig.from_pretrained(str(folder)).to_dict()
    state, _ = _read_state(file)
    bare = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    return _with_lora(denoiser, bare, {f"{DENOISER}.{k}": told[k] for k in told}, file)


def _with_lora(
    denoiser: Any, state: dict[str, Any], metadata: dict[str, Any] | None, file: Path
) -> torch.nn.Module:
    """Load an adapter by diffusers' own means, and see that it took every key."""
    from peft.utils import get_peft_model_state_dict

    if dora := [key for key in state if "dora_scale" in key]:
        raise BenchError(f"{file}: is a DoRA ({_some(dora)}), which diffusers does not load")
    root, problem = f"{DENOISER}.", f"{file}: the adapter does not fit this backbone's denoiser"
    try:
        state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(
            dict(state), unet_config=denoiser.config
        )
    except (KeyError, ValueError) as error:
        raise BenchError(f"{file}: is no LoRA that diffusers knows: {_line(error)}") from error
    if texts := [key for key in state if key.startswith("text_encoder")]:
        raise BenchError(
            f"{file}: also adapts the text encoder ({_some(texts)}), which is not supported"
        )
    state = convert_unet_state_dict_to_peft({k.removeprefix(root): state[k] for k in state})
    modules = dict(denoiser.named_modules())
    if foreign := sorted(key for key in state if key.partition(".lora_")[0] not in modules):
        raise BenchError(f"{problem}: it holds {_some(foreign)}, which it does not have")
    try:
        with _quietly(), warnings.catch_warnings(action="ignore"):
            denoiser.load_lora_adapter(
                {root + key: value for key, value in state.items()},
                prefix=DENOISER,
                network_alphas=alphas,
                metadata=metadata,
                adapter_name=lora.POLICY,
            )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BenchError(f"{problem}: {_line(error)}") from error
    _compare(state, get_peft_model_state_dict(denoiser, adapter_name=lora.POLICY), file)
    module: torch.nn.Module = denoiser
    return module


def _read_state(file: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A state dict and, for an adapter of diffusers, its LoraConfig."""
    try:
        if file.suffix != ".safetensors":
            data = torch.load(file, map_location="cpu", weights_only=True)
        else:
            with safe_open(file, framework="pt") as opened:
                told = (opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
            return load_file(file), json.loads(told) if told else None
    except Exception as error:
        # Damaged bytes fail in any way at all.
        raise BenchError(
            f"{file}: cannot be read as a file of weights alone: {_line(error)}"
        ) from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise BenchError(f"{file}: expected a state dict, not a {type(data).__name__}")
    return data, None


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the libraries' own progress bars and warnings off the terminal.

    There is a progress bar already, and what the warnings say is an error here.
    """
    libraries = [module.utils.logging for module in (diffusers, transformers)]
    levels = [library.get_verbosity() for library in libraries]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in libraries:
        library.set_verbosity(logging.CRITICAL)
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        for library in shown:
            library.enable_progress_bar()


def _shapes(structure: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a U-Net of this configuration, without their values."""
    with torch.device("meta"):
        state: dict[str, torch.Tensor] = UNet2DConditionModel.from_config(structure).state_dict()
    return state


def _compare(state: Mapping[str, Any], wanted: Mapping[str, torch.Tensor], where: Path) -> None:
    """Refuse weights that are not exactly those of the backbone's denoiser."""
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"lack {_some(missing)}")
    if foreign := sorted(state.keys() - wanted.keys()):
        problems.append(f"hold {_some(foreign)}, which it does not have")
    if other := [
        f"{k} {tuple(state[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in sorted(wanted.keys() & state.keys())
        if state[k].shape != wanted[k].shape
    ]:
        problems.append(f"hold {_some(other)}")
    if problems:
        raise BenchError(
            f"{where}: the weights do not fit this backbone's denoiser: they "
            f"{' and '.join(problems)}"
        )


def _some(names: Iterable[str]) -> str:
    """The first names and how many there are."""
    found = list(names)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def _line(error: BaseException) -> str:
    """What a library says, without its lists of names."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
