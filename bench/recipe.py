"""The recipe: YAML and command line become one validated, frozen, typed object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from bench.errors import BenchError, UnknownNameError
from bench.registry import Registry
from bench.specs import Spec, parse, split_list


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingConfig(_Strict):
    """What every trained method gets alike."""

    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(ge=1, description="pairs an optimiser step")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="pairs in memory at a time; none: the whole batch"
    )
    warmup_steps: int = Field(default=0, ge=0, description="linear learning-rate warm-up")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient clipping")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's weight decay")
    empty_prompt_share: float = Field(
        default=0.1, ge=0, le=1, description="share of pairs trained without their prompt"
    )
    checkpoint_every: int = Field(
        default=25, ge=1, description="steps between states that an interrupted training resumes"
    )


class SamplingConfig(_Strict):
    """How evaluation images are made."""

    scheduler: Literal["ddim", "euler", "dpm++"] = Field(default="ddim", description="solver")
    steps: int = Field(ge=1, description="denoising steps")
    guidance: float = Field(ge=1, description="classifier-free guidance scale; 1 is none")
    image_seeds: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="one image a prompt and seed"
    )
    batch_size: int = Field(
        default=32, ge=1, description="prompts sampled at a time; changes no image"
    )


class Recipe(_Strict):
    """One comparison. Plugins are named by specs: `name[option=value,...]`."""

    name: str
    backbone: str
    pairs: str = Field(description="preference set")
    prompts: tuple[str, ...] = Field(min_length=1, description="prompt sets or their files")
    scorers: tuple[str, ...] = Field(min_length=1, description="rate the images")
    label_scorers: tuple[str, ...] = Field(
        default=(), description="the pool whose rewards may label pairs"
    )
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="train seeds")
    training: TrainingConfig
    sampling: SamplingConfig
    limit: int | None = Field(
        default=None, ge=1, description="prompts a set, stratified by group; none: all"
    )
    max_broken_share: float = Field(
        default=0.02, ge=0, lt=1, description="share of undecodable pairs that is skipped"
    )

    def to_yaml(self) -> str:
        """The resolved recipe as YAML that `--recipe FILE` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load(registry: Registry, source: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        registry: where preset names are looked up.
        source: a preset's name or the path of a YAML file.
        overrides: dotted keys ("training.steps") and their values; they win.

    Raises:
        BenchError: unknown preset or key, wrong type, unreadable file.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or "/" in source:
        try:
            text, where = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise BenchError(f"recipe {source}: cannot be read ({error})") from error
        name = path.stem
    else:
        text, where, name = registry.build("recipes", source).text(), f"recipe {source}", source
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BenchError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise BenchError(f"{where}: expected a mapping of recipe keys at the top")
    data.setdefault("name", name)
    for key, value in (overrides or {}).items():
        _override(data, key, value)
    return validate(data, where)


def validate(data: Mapping[str, object], where: str) -> Recipe:
    """The recipe that plain data describes; `where` opens every error message."""
    prepared = dict(data)
    for key, value in data.items():
        if key in _SINGLE:
            prepared[key] = spec_to_text(_spec(value, f"{where}: {key}"))
        elif key in _LISTS:
            prepared[key] = _spec_list(value, f"{where}: {key}")
    try:
        return Recipe.model_validate(prepared)
    except pydantic.ValidationError as error:
        # A misspelt key also leaves the right one missing; the misspelling is the cause.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        location = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            owner = _owner(location[:-1])
            what = f"{location[0]} key" if len(location) > 1 else "recipe key"
            key_error = UnknownNameError(what, location[-1], owner.model_fields)
            raise BenchError(f"{where}: {key_error}") from error
        problem = first["msg"][:1].lower() + first["msg"][1:]
        raise BenchError(f"{where}: {'.'.join(location)}: {problem}") from error


_SINGLE = ("backbone", "pairs")
_LISTS = ("prompts", "scorers", "label_scorers", "methods")


def _owner(location: list[str]) -> type[BaseModel]:
    blocks: dict[str, type[BaseModel]] = {"training": TrainingConfig, "sampling": SamplingConfig}
    return blocks.get(location[0], Recipe) if location else Recipe


def _override(data: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise BenchError(f"--set {key}: {parent!r} holds no keys of its own")
    data[last] = value


def _spec_list(value: object, where: str) -> list[str]:
    """Texts of the specs in a list or a comma-separated string, each once."""
    items = split_list(value) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise BenchError(f"{where}: expected a list, not {value!r}")
    return list(dict.fromkeys(spec_to_text(_spec(item, where)) for item in items))


def _spec(item: object, where: str) -> Spec | str:
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        return parse(item)
    raise BenchError(f"{where}: {item!r} is not a plugin's name")


def spec_to_text(spec: Spec | str) -> str:
    """A spec in its text form."""
    if isinstance(spec, str):
        return spec
    options = ",".join(
        f"{k}={'+'.join(map(str, v)) if isinstance(v, list) else _text(v)}"
        for k, v in spec.options.items()
    )
    return f"{spec.name}[{options}]" if options else spec.name


def _text(value: object) -> str:
    if isinstance(value, Spec):
        return spec_to_text(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
