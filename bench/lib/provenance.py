"""What makes an artefact's bytes beside its key: the device, and the versions of the libraries."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version

_LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy")


def made_here(device: str) -> dict[str, str]:
    """The device, as which of a machine's GPUs it is does not matter, and the versions."""
    return {
        "device": _named(device),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def joined(origins: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What several artefacts were made with; where they differ, every value, by its order."""
    versions: dict[str, set[str]] = {name: set() for name in ("device", "python", *_LIBRARIES)}
    for origin in origins:
        for name, value in origin.items():
            versions.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(values)) for name, values in versions.items() if values}


def _named(device: str) -> str:
    kind = device.partition(":")[0]
    if kind != "cuda":
        return kind
    import torch

    return f"{kind} ({torch.cuda.get_device_name(device)})"
