"""Denoiser weights on disk, as diffusers and peft write and read them.

Written: the whole denoiser (`<folder>/<part>/`, for `from_pretrained(folder, subfolder=part)`), or
its adapter (`<folder>/pytorch_lora_weights.safetensors`, for `pipeline.load_lora_weights(folder)`).
Read: those, a peft folder (`adapter_config.json`), LoRA files in the naming of diffusers' or, for
its pipelines that convert them, of others' (kohya), and bare state dicts. Every key of what is read
is accounted for, and every weight is a finite floating-point number.
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
from diffusers import ModelMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.api.kinds import PipelineLayout
from bench.diffusion import lora
from bench.diffusion.checkpoint_files import LORA_FILE, PEFT_CONFIG, Checkpoint, find
from bench.diffusion.files import Files, Weights, read_json
from bench.lib.errors import BenchError
from bench.lib.wording import one_line

# diffusers 0.40 renamed the option, and later ones warn of the old name.
_RENAMED = tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 40)
_DTYPE = "dtype" if _RENAMED else "torch_dtype"

_NESTED = ("state_dict",)
_PREFIX = "module."
_SCALES = ("alpha", "scale")
"""How the names of an adapter's scalars end, which may be whole numbers."""


def save(denoiser: Any, folder: Path, layout: PipelineLayout) -> None:
    """Write the policy's adapter if the denoiser carries one, else the whole denoiser.

    The same weights give the same bytes.

    Args:
        denoiser: a diffusers model.
        folder: where to.
        layout: of the pipeline that is to load it.
    """
    part = layout.part
    if lora.POLICY not in lora.names(denoiser):
        # One file whatever the size.
        with _quietly():
            denoiser.save_pretrained(folder / part, max_shard_size="1TB")
        return
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(denoiser, adapter_name=lora.POLICY)
    config = denoiser.peft_config[lora.POLICY]
    settings = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules),
        # Early versions of diffusers ask for these.
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    # One key alone: safetensors writes several in an order that changes from run to run.
    text = json.dumps({f"{part}.{k}": v for k, v in settings.items()})
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{part}.{k}": v.detach().cpu().contiguous() for k, v in state.items()},
        folder / LORA_FILE,
        metadata={LORA_ADAPTER_METADATA_KEY: text},
    )


def load(
    path: Path,
    backbone: Callable[[], Any],
    structure: Mapping[str, Any],
    layout: PipelineLayout,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.nn.Module:
    """The denoiser that the weights in `path` make.

    Args:
        path: a folder that `save` wrote, a denoiser's folder, a peft folder, or a file of weights.
        backbone: reads the untouched denoiser, for weights that are not a whole one.
        structure: the backbone's denoiser configuration.
        layout: of the backbone's pipeline.
        dtype: of a whole denoiser.
        device: likewise.

    Raises:
        BenchError: it is none of these, cannot be read, or does not fit the backbone.
    """
    checkpoint = find(path, [layout.part])
    if checkpoint is None:
        raise BenchError(
            f"{path}: holds no denoiser weights (no {layout.part}/, {LORA_FILE}, {PEFT_CONFIG} or "
            f"file of weights)"
        )
    match checkpoint.form:
        case "denoiser":
            weights = Files(source=str(checkpoint.folder)).weights("")
            return read_denoiser(weights, structure, layout, dtype, device)
        case "peft":
            return _from_peft(checkpoint, backbone(), layout)
        case "file":
            return _from_file(checkpoint.folder / checkpoint.files[0], backbone(), layout)


def read_denoiser(
    weights: Weights,
    structure: Mapping[str, Any] | None,
    layout: PipelineLayout,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.nn.Module:
    """A denoiser on `device`, in eval mode; refused if its weights are not those of `structure`."""
    kind_name = read_json(weights.folder / "config.json").get("_class_name")
    if kind_name != layout.denoiser:
        raise BenchError(f"{weights.folder}: holds a {kind_name}, not a {layout.denoiser}")
    kind = getattr(diffusers, layout.denoiser)
    denoiser = read_part(kind, weights, dtype)
    if structure is not None:
        _compare(denoiser.state_dict(), _shapes(kind, structure), weights.folder)
    # diffusers would write the place it was read from into every saved config, and a path must
    # not change an artefact's bytes.
    denoiser.register_to_config(_name_or_path="")
    module: torch.nn.Module = denoiser.to(device, memory_format=torch.channels_last).eval()
    return module


def read_part(kind: Any, weights: Weights, dtype: torch.dtype) -> Any:
    """A diffusers or transformers model, with every one of its weights from the files.

    Raises:
        BenchError: the files cannot be read, or lack a weight.
    """
    options: dict[str, Any] = {_DTYPE: dtype} if issubclass(kind, ModelMixin) else {"dtype": dtype}
    try:
        with _quietly(), warnings.catch_warnings(action="ignore"):
            part, loading = kind.from_pretrained(
                weights.folder,
                variant=weights.variant,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        # Damaged and foreign files fail in many ways, all of them the files' fault.
        raise BenchError(f"cannot read {weights.folder}: {_line(error)}") from error
    other_shapes = (str(key[0]) for key in loading["mismatched_keys"])
    missing = sorted([*loading["missing_keys"], *other_shapes])
    if missing:
        raise BenchError(
            f"{weights.folder}: the weights lack {_some(missing)} of a {kind.__name__}"
        )
    # Those of published text encoders hold position ids, which current versions have no use for.
    foreign = sorted(loading["unexpected_keys"]) if issubclass(kind, ModelMixin) else []
    if foreign:
        raise BenchError(
            f"{weights.folder}: the weights hold {_some(foreign)}, which a {kind.__name__} of "
            f"this configuration does not have"
        )
    state = part.state_dict()
    # Loading has turned whole and complex numbers into others without a word.
    _refuse_types(_stored_types(weights), state, weights.folder)
    _refuse_infinite(state, weights.folder)
    return part


def _from_file(file: Path, denoiser: Any, layout: PipelineLayout) -> torch.nn.Module:
    state, metadata = _read_state(file)
    if any("lora" in key for key in state):
        return _with_lora(denoiser, state, metadata, file, layout)
    for key in (*_NESTED, layout.part):
        if isinstance(state.get(key), Mapping):
            state = dict(state[key])
    for prefix in (f"{layout.part}.", _PREFIX):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    _compare(state, denoiser.state_dict(), file)
    _refuse_types({key: value.dtype for key, value in state.items()}, denoiser.state_dict(), file)
    _refuse_infinite(state, file)
    denoiser.load_state_dict(state)
    module: torch.nn.Module = denoiser
    return module


def _from_peft(checkpoint: Checkpoint, denoiser: Any, layout: PipelineLayout) -> torch.nn.Module:
    from peft import LoraConfig

    file = checkpoint.folder / checkpoint.files[-1]
    try:
        settings = LoraConfig.from_pretrained(str(checkpoint.folder)).to_dict()
    except Exception as error:
        # Its own constructor sees whatever the file says.
        config = checkpoint.folder / PEFT_CONFIG
        raise BenchError(f"{config}: cannot be read: {_line(error)}") from error
    state, _ = _read_state(file)
    bare = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    metadata = {f"{layout.part}.{k}": v for k, v in settings.items()}
    return _with_lora(denoiser, bare, metadata, file, layout)


def _with_lora(
    denoiser: Any,
    state: dict[str, Any],
    metadata: dict[str, Any] | None,
    file: Path,
    layout: PipelineLayout,
) -> torch.nn.Module:
    """Load an adapter by diffusers' own means, and see that it took every key."""
    from peft.utils import get_peft_model_state_dict

    if dora := [key for key in state if "dora_scale" in key]:
        raise BenchError(f"{file}: is a DoRA ({_some(dora)}), which diffusers does not load")
    _refuse_other_values(state, file)
    scalars = {key for key in state if key.endswith(_SCALES)}
    weights = {key: value for key, value in state.items() if key not in scalars}
    _refuse_types({key: value.dtype for key, value in weights.items()}, None, file)
    _refuse_infinite(state, file)
    root, problem = f"{layout.part}.", f"{file}: the adapter does not fit this backbone's denoiser"
    state, alphas = _converted(state, denoiser, layout, file)
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
                prefix=layout.part,
                network_alphas=alphas,
                metadata=metadata,
                adapter_name=lora.POLICY,
            )
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BenchError(f"{problem}: {_line(error)}") from error
    _compare(state, get_peft_model_state_dict(denoiser, adapter_name=lora.POLICY), file)
    module: torch.nn.Module = denoiser
    return module


def _converted(
    state: dict[str, Any], denoiser: Any, layout: PipelineLayout, file: Path
) -> tuple[dict[str, Any], Any]:
    """An adapter in diffusers' naming, and its alphas where the names hold them.

    By the pipeline's own reader, which knows how others name the layers of its denoiser.
    """
    reader = getattr(getattr(diffusers, layout.pipeline, None), "lora_state_dict", None)
    if reader is None:
        return state, None
    # Only readers of U-Nets ask for it, to tell blocks by their place.
    known = {"unet_config": denoiser.config} if layout.part == "unet" else {}
    try:
        converted = reader(dict(state), **known)
    except (KeyError, ValueError) as error:
        raise BenchError(f"{file}: is no LoRA that diffusers knows: {_line(error)}") from error
    return converted[:2] if isinstance(converted, tuple) else (converted, None)


def _read_state(file: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A state dict and, for an adapter of diffusers, its LoraConfig."""
    try:
        if file.suffix.lower() != ".safetensors":
            data = torch.load(file, map_location="cpu", weights_only=True)
        else:
            with safe_open(file, framework="pt") as opened:
                settings = (opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
            return load_file(file), json.loads(settings) if settings else None
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


def _shapes(kind: Any, structure: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a denoiser of this configuration, without their values."""
    with torch.device("meta"):
        state: dict[str, torch.Tensor] = kind.from_config(structure).state_dict()
    return state


def _stored_types(weights: Weights) -> dict[str, torch.dtype]:
    """The types that weights have in their files, of which no values are read."""
    types: dict[str, torch.dtype] = {}
    for name in weights.files:
        file = weights.folder / name
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 (no dict)
                    stored = opened.get_slice(key).get_dtype()
                    types[key] = _SAFETENSORS_TYPES.get(stored, torch.float32)
        elif file.suffix == ".bin":
            state = torch.load(file, map_location="meta", weights_only=True)
            types |= {key: value.dtype for key, value in state.items()}
    return types


_SAFETENSORS_TYPES = {
    **{f"{sign}{bits}": torch.int64 for sign in "IU" for bits in (8, 16, 32, 64)},
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""Those that no weight has, by their names in the file."""


def _refuse_types(
    types: Mapping[str, torch.dtype], wanted: Mapping[str, torch.Tensor] | None, where: Path
) -> None:
    """Refuse whole, boolean and complex numbers where floating-point weights are `wanted`."""
    wrong = [
        f"{key} ({str(dtype).removeprefix('torch.')})"
        for key, dtype in sorted(types.items())
        if not dtype.is_floating_point
        and (wanted is None or (key in wanted and wanted[key].is_floating_point()))
    ]
    if wrong:
        raise BenchError(
            f"{where}: weights are floating-point numbers, but these are not: {_some(wrong)}"
        )


def _refuse_infinite(state: Mapping[str, Any], where: Path) -> None:
    """Refuse weights that are NaN or infinite: they would show as a model that has diverged."""
    wrong = [key for key in sorted(state) if not _is_finite(state[key])]
    if wrong:
        raise BenchError(f"{where}: the weights hold NaN or infinity: {_some(wrong)}")


def _is_finite(weight: Any) -> bool:
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        return True
    if weight.dtype == torch.float16:
        # What overflows as it is turned into float16 shows, and is named, where it is used.
        return not bool(weight.isnan().any())
    # Types of one byte know few operations.
    known = weight.float() if weight.element_size() == 1 else weight
    return bool(known.isfinite().all())


def _refuse_other_values(state: Mapping[str, Any], where: Path) -> None:
    """Refuse a state dict that holds more than weights, such as a training state."""
    if other := sorted(key for key, value in state.items() if not isinstance(value, torch.Tensor)):
        raise BenchError(f"{where}: holds more than weights: {_some(other)}")


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
        if isinstance(state[k], torch.Tensor) and state[k].shape != wanted[k].shape
    ]:
        problems.append(f"hold {_some(other)}")
    if problems:
        raise BenchError(
            f"{where}: the weights do not fit this backbone's denoiser: they "
            f"{' and '.join(problems)}"
        )
    _refuse_other_values(state, where)


def _some(names: Iterable[str]) -> str:
    """The first names and how many there are."""
    every = list(names)
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return ", ".join(every[:3]) + more


def _line(error: BaseException) -> str:
    """What a library says, without its lists of names."""
    text = one_line(error) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
