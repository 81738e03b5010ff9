"""What a checkpoint on disk is, and which of its files make it; reads JSON alone, never torch.

Loading and fingerprints ask here, so that both see the same files: a change of what is read always
shows, and a model card or a training curve beside the weights never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.diffusion.files import Files, read_json
from bench.lib import hub
from bench.lib.errors import BenchError

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
DENOISERS = ("unet", "transformer")
"""The names that a denoiser has in diffusers' pipelines, and so the folders that hold one."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights of a denoiser, or of an adapter of one."""

    form: Literal["denoiser", "peft", "file"]
    folder: Path
    files: tuple[str, ...]
    """Names of all files that loading reads, in `folder`."""

    def fingerprint(self) -> str:
        """A hash of the files; of a single file its sha256, whatever it is called."""
        if len(self.files) == 1:
            return hub.cached_sha256(self.folder / self.files[0])
        return hub.files_hash(self.folder, self.files)


def find(path: Path, parts: Sequence[str] = DENOISERS) -> Checkpoint | None:
    """The checkpoint that a file or folder holds; None if it is of no known form.

    Args:
        path: a file of weights, a denoiser's folder, a folder that holds it as one of `parts`, a
            peft folder, or a folder with one file of weights.
        parts: names of subfolders.

    Raises:
        BenchError: it holds several, is incomplete, or is a link that leads nowhere.
    """
    if hub.is_file(path):
        return Checkpoint(form="file", folder=path.parent, files=(path.name,))
    roots = [root for root in (*parts, "") if hub.is_file(path / root / "config.json")]
    if roots:
        weights = Files(source=str(path / roots[0])).weights("")
        return Checkpoint(form="denoiser", folder=weights.folder, files=weights.files)
    if hub.is_file(path / PEFT_CONFIG):
        kind = read_json(path / PEFT_CONFIG).get("peft_type")
        if kind != "LORA":
            raise BenchError(f"{path}: is a {kind} adapter; only LORA is supported")
        file = next((name for name in PEFT_FILES if hub.is_file(path / name)), None)
        if file is None:
            raise BenchError(f"{path}: holds {PEFT_CONFIG} but no {PEFT_FILES[0]}")
        return Checkpoint(form="peft", folder=path, files=(PEFT_CONFIG, file))
    if hub.is_file(path / LORA_FILE):
        return Checkpoint(form="file", folder=path, files=(LORA_FILE,))
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise BenchError(f"{path}: cannot be read as a folder ({error.strerror})") from error
    candidates = [
        entry
        for entry in entries
        if entry.suffix.lower() in WEIGHT_SUFFIXES and not entry.name.startswith(".")
    ]
    if len(candidates) > 1:
        names = ", ".join(entry.name for entry in candidates[:4])
        raise BenchError(f"{path}: holds several weights files ({names}); name one of them")
    named = [entry.name for entry in candidates if hub.is_file(entry)]
    return Checkpoint(form="file", folder=path, files=(named[0],)) if named else None
