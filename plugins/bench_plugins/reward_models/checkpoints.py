"""Reading weights into a network, with every name of the file accounted for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench import BenchError

_SHOWN = 3
"""Names in a message."""


@dataclass(frozen=True)
class Origin:
    """Where in a file one parameter of a network stands."""

    names: tuple[str, ...]
    """Tensors of equal shape that are joined along their first axis."""
    transposed: bool = False
    """The file holds the matrix the other way round."""

    def shape_of_each(self, target: torch.Size) -> tuple[int, ...]:
        """The shape that each named tensor must have for a parameter of shape `target`."""
        shape = tuple(reversed(target)) if self.transposed else tuple(target)
        if len(self.names) == 1:
            return shape
        return (shape[0] // len(self.names), *shape[1:])

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The parameter."""
        parts = [tensors[name] for name in self.names]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.T if self.transposed else whole


def renamed(name: str, parts: Mapping[str, str]) -> str:
    """The name, with each part on the left replaced by the one on the right, in their order."""
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


def read(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file, or of a torch file that holds only tensors.

    Raises:
        BenchError: it is damaged, or is no checkpoint.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What the parsers raise on foreign or cut off bytes has no common type.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BenchError(f"{path} is no checkpoint, or is damaged or cut off: {reason}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise BenchError(f"{path} is no checkpoint: it does not hold named tensors alone")
    return content


def load_weights(
    network: nn.Module,
    path: Path,
    *,
    device: str,
    dtype: torch.dtype,
    layout: Mapping[str, Origin] | None = None,
    ignored: Collection[str] = (),
    full: tuple[str, ...] = (),
) -> None:
    """Fill a network that was built on torch's meta device, and freeze it for inference.

    Args:
        network: where the weights go.
        path: the file.
        device: where they shall be.
        dtype: what they shall be; scalars stay in float32.
        layout: parameter of the network -> its place in the file; default: the same names.
        ignored: names that the file may hold beside those, and that do not matter.
        full: how the names of parameters begin that stay in float32.

    Raises:
        BenchError: the file cannot be read, or a name is missing, unexpected or of another shape.
    """
    wanted = network.state_dict()
    if layout is None:
        layout = {name: Origin((name,)) for name in wanted}
    tensors = read(path)
    _account(wanted, tensors, layout, ignored, path)
    state = {}
    for name, origin in layout.items():
        # Taken out of the file's dictionary, so that memory holds one copy of the weights.
        whole = origin.join({part: tensors.pop(part) for part in origin.names})
        precision = torch.float32 if name.startswith(full) or not whole.ndim else dtype
        state[name] = whole.to(device=device, dtype=precision, copy=True).contiguous()
    network.load_state_dict(state, strict=True, assign=True)
    network.eval().requires_grad_(False)
    filled = itertools.chain(network.named_parameters(), network.named_buffers())
    if empty := [name for name, tensor in filled if tensor.is_meta]:
        raise BenchError(
            f"{type(network).__name__} has tensors that its checkpoint does not fill "
            f"({_some(empty)}): this version of the package that defines it is not supported"
        )


def _account(
    wanted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    layout: Mapping[str, Origin],
    ignored: Collection[str],
    path: Path,
) -> None:
    expected = {
        name: origin.shape_of_each(wanted[target].shape)
        for target, origin in layout.items()
        for name in origin.names
    }
    wrong = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected and name not in ignored],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ],
    }
    problems = [f"{len(names)} {what} ({_some(names)})" for what, names in wrong.items() if names]
    if problems:
        raise BenchError(
            f"{path} does not hold the weights of this model: of {len(expected)} tensors, "
            f"{'; '.join(problems)}"
        )


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
