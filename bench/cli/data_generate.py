"""`bench data generate`: preference pairs from models' own images, labelled by reward models."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli.frame import (
    STORE,
    Device,
    DryRun,
    Frame,
    Overwrite,
    Processes,
    StoreFolder,
    joined,
)
from bench.lib.errors import BenchError
from bench.lib.files import replacing
from bench.registry.spec_language import split_list

if TYPE_CHECKING:
    from bench.api.kinds import Backbone
    from bench.registry.registry import Registry
    from bench.running.plan import Plan
    from bench.running.walk import Status
    from bench.stages.pairs import PairsStage


def generate(
    backbone: Annotated[
        str, typer.Option(help="Comma-separated models or their folders; all draw every prompt.")
    ],
    prompts: Annotated[str, typer.Option(help="Comma-separated prompt sets or their files.")],
    scorers: Annotated[str, typer.Option(help="Comma-separated scorers; they rate the images.")],
    images_per_prompt: Annotated[int, typer.Option(min=2, help="Of each model.")] = 4,
    label_with: Annotated[
        str, typer.Option(help="The aggregation that makes labels of the scores.")
    ] = "average[normalise=zscore]",
    form: Annotated[
        Literal["best-worst", "adjacent", "all"],
        typer.Option(help="Which of a prompt's images are paired, by their rank."),
    ] = "best-worst",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Prompts a set, a stratified sample by category.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 25,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance; 1 is none.")] = 7.5,
    scheduler: Annotated[Literal["ddim", "euler", "dpm++"], typer.Option(help="Solver.")] = "ddim",
    sampling_batch: Annotated[
        int, typer.Option(min=1, help="Prompts sampled at a time; changes no image.")
    ] = 8,
    out: Annotated[Path, typer.Option(help="The Parquet file of pairs.")] = Path("pairs.parquet"),
    overwrite: Overwrite = False,
    store: StoreFolder = STORE,
    device: Device = "auto",
    num_processes: Processes = 1,
    dry_run: DryRun = False,
) -> None:
    """Make preference pairs: sample images, score them, pair them by their scores.

    The same command goes on where it was interrupted. What is there is not made again.
    """
    world = joined(num_processes, dry_run=dry_run)
    from bench.lib import own_files
    from bench.lib.files import file_sha256
    from bench.preferences.generating import FILE
    from bench.recipe.recipe import validate
    from bench.registry import location
    from bench.registry.registry import default_registry
    from bench.running import planning
    from bench.stages.generated import GeneratedPairs
    from bench.store.store import Artefact

    if out.suffix != ".parquet" or out.is_dir():
        raise BenchError(f"--out {out}: expected the name of a .parquet file")
    for flag, text in (("backbone", backbone), ("prompts", prompts), ("scorers", scorers)):
        if not split_list(text):
            raise BenchError(f"--{flag} names nothing")
    registry = default_registry()
    data = {
        "name": "generate",
        "backbone": split_list(backbone)[0],
        "pairs": GeneratedPairs.name,
        "prompts": prompts,
        "scorers": scorers,
        "label_scorers": scorers,
        # Nothing is trained.
        "methods": [location.baseline(registry)],
        "generate": {
            "prompts": prompts,
            "limit": limit,
            "backbones": backbone,
            "images_per_prompt": images_per_prompt,
            "label_with": label_with,
            "form": form,
        },
        "sampling": {
            "scheduler": scheduler,
            "steps": steps,
            "guidance": guidance,
            "batch_size": sampling_batch,
        },
    }
    recipe = validate(data, "bench data generate")
    prompt_sets = (
        location.named_or_path(registry, "prompt_sets", text) for text in split_list(prompts)
    )
    models = (location.named_or_path(registry, "backbones", text) for text in split_list(backbone))
    own_files.apart(out, own_files.sources(*prompt_sets, *models))
    plan, stage = planning.make_generation(recipe, registry, download=not dry_run)
    frame = Frame(folder=store, asked_device=device, world=world)
    with frame.open(out.parent):
        here = frame.status(plan.stages)
        _print_plan(frame, plan, stage, here)
        if dry_run:
            return
        made = Artefact(frame.store.path(stage.name, stage.key))
        finished = stage.key in here.finished
        same = finished and made.manifest.files[FILE].sha256
        lost = world.is_main and not overwrite and out.exists() and file_sha256(out) != same
        if world.broadcast(lost):
            raise BenchError(
                f"{out} is there and holds other pairs than this command makes; choose another "
                f"--out, or give --overwrite to replace it"
            )
        outcome = frame.make(plan.stages, here) if not finished else None
        if outcome and outcome.failures:
            reasons = "; ".join(dict.fromkeys(outcome.failures.values()))
            raise BenchError(reasons.replace("--set sampling.batch_size=", "--sampling-batch "))
        if world.is_main:
            _deliver(made.path / FILE, out)
            _print_outcome(frame, made.info, out, _recipe_for(plan.backbone, registry))


def _print_plan(frame: Frame, plan: Plan, stage: PairsStage, here: Status) -> None:
    from bench.registry.registry import spec_text

    prompts, images = len(stage.prompts.texts), len(stage.models)
    frame.say(
        f"Plan: {images} images for each of {prompts:,} prompts ({stage.prompts.name}) from "
        f"{', '.join(dict.fromkeys(stage.models))}; rated by {', '.join(stage.rewards)}; labelled "
        f"by {spec_text(stage.label_with)}; paired {stage.form}. "
        f"{len(plan.stages)} stages, {len(here.finished)} of them cached."
    )
    frame.print_costs(plan, here)


def _deliver(made: Path, out: Path) -> None:
    """Copy the finished file so that `out` is there whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as part:
        shutil.copyfile(made, part)


def _print_outcome(frame: Frame, counts: Mapping[str, int], out: Path, recipe: str) -> None:
    ties = f", {counts['ties']:,} of them ties" if counts["ties"] else ""
    name = shlex.quote(str(out))
    for line in (
        f"{counts['pairs']:,} pairs{ties}, from {counts['images']:,} images of "
        f"{counts['prompts']:,} prompts: {out}",
        "Next:",
        f"  bench data check {name}",
        f"  bench run --recipe {recipe} --set pairs={name}",
    ):
        frame.say(line)


def _recipe_for(backbone: Backbone, registry: Registry) -> str:
    """The preset named like the backbone, else a placeholder."""
    presets = {entry.cls.name for entry in registry.entries("recipes")}
    return backbone.name if backbone.name in presets else "RECIPE"
