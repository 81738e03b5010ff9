"""Published checkpoints on the board: evaluated beside what is trained here, never trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench import (
    BenchError,
    Method,
    hookimpl,
    option,
)
from bench.diffusion import (
    DENOISER,
    INDEX,
    PEFT_CONFIG,
    PEFT_FILES,
    Files,
    PipelineFiles,
    find_checkpoint,
)
from bench.files import hub
from bench_plugins.backbones import supported_family

if TYPE_CHECKING:
    from bench import Policy, TrainingOutcome, TrainingSetup

_LORA = "pytorch_lora_weights.*"


@dataclass(frozen=True, kw_only=True)
class Pretrained(Method):
    """A published model: pipeline, U-Net, LoRA or state dict, evaluated without training.

    What it is follows from the files: a pipeline (its own text encoders, VAE and scheduler are
    used), a U-Net folder (config.json there or in unet/), a LoRA of diffusers, peft or kohya, or a
    bare state dict, which is read as weights alone. It must be of the backbone's family, and every
    weight must fit.
    """

    name: ClassVar[str] = "pretrained"
    trainable: ClassVar[bool] = False

    weights: str = option(doc="folder, file or Hub id", affects_results=False)
    revision: str = option("main", "of the Hub id: commit, tag or branch", affects_results=False)
    file: str | None = option(None, "the file of weights in the folder or repository")
    in_loop: tuple[str, ...] = option(
        (), "scorers whose rewards its makers trained on: they are starred", affects_results=False
    )

    def label_scorers(self, pool: Sequence[str]) -> tuple[str, ...]:
        """Those that are said to have been used in its training; nothing here can find out."""
        return self.in_loop

    def fingerprint(self) -> str:
        """A hash of the local files that are read, or the Hub id's commit; nothing is downloaded.

        Raises:
            BenchError: the local files are not there, or are of several checkpoints.
        """
        here = hub.local(self.weights)
        if here is None:
            return hub.fingerprint(self.weights, revision=self.revision)
        if self.file and here.is_dir():
            here = hub.fetch_file(self.weights, self.file, revision=self.revision)
        if hub.is_file(here / INDEX):
            return PipelineFiles(pipeline=Files(source=self.weights)).fingerprint()
        checkpoint = find_checkpoint(here)
        # A backbone may have a form of its own, of which nothing is known here.
        return checkpoint.fingerprint() if checkpoint else hub.fingerprint(str(here), revision="")

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        """Refused."""
        raise BenchError("the method 'pretrained' is evaluated as it is and never trained")

    def model(self, backbone: Policy) -> Policy:
        """The backbone with these weights, or for a pipeline a policy of its own.

        Raises:
            BenchError: the weights cannot be had or do not fit the backbone.
        """
        files = Files(source=self.weights, revision=self.revision)
        if self.file or ((here := hub.local(self.weights)) and here.is_file()):
            backbone.load_checkpoint(self._one_file())
            return backbone
        folder = files.fetch(
            INDEX, "config.json", f"{DENOISER}/config.json", PEFT_CONFIG, *PEFT_FILES
        )
        if hub.is_file(folder / INDEX):
            return self._pipeline(files, backbone)
        if hub.local(self.weights) is None:
            folder = self._downloaded(files, folder)
        backbone.load_checkpoint(folder)
        return backbone

    def _downloaded(self, files: Files, folder: Path) -> Path:
        """The folder of a Hub id, with the weights that its small files announce."""
        for part in (DENOISER, ""):
            if (folder / part / "config.json").is_file():
                return files.weights(part).folder
        if (folder / PEFT_CONFIG).is_file():
            return folder
        folder = files.fetch(_LORA)
        if not any(folder.glob(_LORA)):
            raise BenchError(
                f"{files.where}: there is no {INDEX}, config.json, {PEFT_CONFIG} or {_LORA}; name "
                f"its file of weights: pretrained[weights={self.weights},file=...]"
            )
        return folder

    def _one_file(self) -> Path:
        return hub.fetch_file(self.weights, self.file or "", revision=self.revision)

    def _pipeline(self, files: Files, backbone: Policy) -> Policy:
        """The pipeline as a policy like the backbone, which leaves memory meanwhile."""
        from bench.diffusion import PipelinePolicy

        if not isinstance(backbone, PipelinePolicy):
            raise BenchError(
                f"{files.where} is a pipeline, but the backbone is none; give its denoiser alone"
            )
        own = PipelineFiles(pipeline=files)
        family, wanted = supported_family(own), supported_family(backbone.files)
        if family != wanted:
            kind = own.index.get("_class_name")
            raise BenchError(
                f"{files.where} is a {kind} of the family {family}, but the backbone's family is "
                f"{wanted}; evaluate it in a recipe whose backbone is of its family"
            )
        own.check()
        policy = type(backbone)(
            own, backbone.device, dtype=backbone.dtype, resolution=backbone.resolution
        )
        if policy.latent_shape != backbone.latent_shape:
            raise BenchError(
                f"{files.where}: its latents are {policy.latent_shape}, but the backbone's are "
                f"{backbone.latent_shape}, so that both cannot start from the same noise"
            )
        backbone.release()
        backbone.release(denoiser=True)
        return policy


@hookimpl
def bench_methods() -> Sequence[type[Method]]:
    """Published checkpoints."""
    return (Pretrained,)
