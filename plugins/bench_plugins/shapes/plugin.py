"""The plugins of the embedded world; `bench_plugins.shapes` says what it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench import (
    Backbone,
    Command,
    PreferencePair,
    PreferenceSet,
    Prompt,
    PromptSet,
    RecipePreset,
    Scorer,
    StartModel,
    hookimpl,
)
from bench.diffusion import STABLE_DIFFUSION
from bench_plugins.preference_sets import PickAPic
from bench_plugins.prompt_sets import HPDv2, PartiPrompts
from bench_plugins.shapes import PIPELINE, files
from bench_plugins.shapes.scorers import (
    Gold,
    ShapesAesthetic,
    ShapesClip,
    ShapesPreference,
)

if TYPE_CHECKING:
    import typer

    from bench import Policy

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True)
class ShapesBackbone(Backbone):
    """A latent diffusion model of 64x64 drawings, a StableDiffusionPipeline in small."""

    name: ClassVar[str] = "shapes"

    # Of its own: hyper-parameters do not carry over to large models.
    family: ClassVar[str] = "shapes"
    resolution: ClassVar[int] = 64
    # On two CPU cores, in batches.
    seconds_per_evaluation: ClassVar[float] = 0.0025

    def fingerprint(self) -> str:
        """A hash of every file of the pipeline."""
        return files.folder_hash(PIPELINE)

    @property
    def start_model(self) -> StartModel:
        """The folder in this package."""
        return StartModel(
            layout=STABLE_DIFFUSION,
            code=(
                "from bench_plugins.shapes import PIPELINE\n\n"
                f"pipeline = {STABLE_DIFFUSION.pipeline}.from_pretrained(PIPELINE)"
            ),
            needs="diffusion-preference-bench",
        )

    def load(self, device: str) -> Policy:
        """Read the pipeline."""
        from bench.diffusion import StableDiffusionPolicy

        return StableDiffusionPolicy.load(PIPELINE, device)


@dataclass(frozen=True, kw_only=True)
class ShapesPairs(PreferenceSet):
    """Pairs sampled from the shapes backbone, labelled by a simulated population."""

    name: ClassVar[str] = "shapes"

    def fingerprint(self) -> str:
        """The sha256 of the file."""
        return self._file.fingerprint()

    def count(self) -> int:
        """Rows of the file."""
        return self._file.count()

    def read(self, rows: Iterable[int] | None = None) -> Iterator[PreferencePair]:
        """The pairs in the order of the rows."""
        return self._file.read(rows)

    @cached_property
    def _file(self) -> PickAPic:
        return PickAPic(path=str(ASSETS / "pairs.parquet"))


@dataclass(frozen=True, kw_only=True)
class ShapesParti(PromptSet):
    """Shapes prompts by category and challenge, a PartiPrompts in small."""

    name: ClassVar[str] = "shapes-parti"

    def load(self) -> tuple[Prompt, ...]:
        """All rows."""
        return PartiPrompts(path=str(ASSETS / "prompts" / "parti.tsv")).load()


@dataclass(frozen=True, kw_only=True)
class ShapesHPD(PromptSet):
    """Shapes prompts by style, an HPDv2 benchmark in small."""

    name: ClassVar[str] = "shapes-hpd"

    def load(self) -> tuple[Prompt, ...]:
        """All four styles."""
        return HPDv2(path=str(ASSETS / "prompts" / "hpd")).load()


@dataclass(frozen=True, kw_only=True)
class ShapesRecipe(RecipePreset):
    """The default: everything embedded, minutes on a CPU."""

    name: ClassVar[str] = "shapes"

    def text(self) -> str:
        """The YAML beside this file."""
        return (Path(__file__).parent / "recipe.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class ShapesCommand(Command):
    """Rebuild the embedded shapes world."""

    name: ClassVar[str] = "shapes"

    def app(self) -> typer.Typer:
        """`bench shapes build`."""
        from bench_plugins.shapes.command import app

        return app


@hookimpl
def bench_backbones() -> Sequence[type[Backbone]]:
    """The pretrained model."""
    return (ShapesBackbone,)


@hookimpl
def bench_preference_sets() -> Sequence[type[PreferenceSet]]:
    """The labelled pairs."""
    return (ShapesPairs,)


@hookimpl
def bench_prompt_sets() -> Sequence[type[PromptSet]]:
    """The evaluation prompts."""
    return (ShapesParti, ShapesHPD)


@hookimpl
def bench_scorers() -> Sequence[type[Scorer]]:
    """Three learned scorers that disagree, and the truth."""
    return (ShapesClip, ShapesAesthetic, ShapesPreference, Gold)


@hookimpl
def bench_recipes() -> Sequence[type[RecipePreset]]:
    """The default recipe."""
    return (ShapesRecipe,)


@hookimpl
def bench_commands() -> Sequence[type[Command]]:
    """`bench shapes`."""
    return (ShapesCommand,)
