"""The recipe: YAML and command line become one validated, frozen, typed object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from bench.api.training import TrainingBudget
from bench.lib import plain_yaml
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.reading import exists, expanded, read_text
from bench.lib.strict import Count, Flag, Number, StrictModel
from bench.lib.wording import listed, quoted
from bench.registry.registry import Registry
from bench.registry.spec_language import canonical, canonical_list, check_text

_MOST_EXTENDED = 10
"""Recipes that extend one another."""


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    seen: set[int] = set()
    for seed in seeds:
        if seed in seen:
            raise ValueError(f"the seed {seed} is there twice")
        seen.add(seed)
    return seeds


def _checked(read: Callable[[object], Any]) -> Callable[[object], Any]:
    """`read` as a validator, of whose result no text may hold what no name may."""

    def checked(given: object) -> Any:
        try:
            value = read(given)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    check_text(text)
        except BenchError as error:
            raise ValueError(str(error)) from error
        return value

    return checked


Text: TypeAlias = Annotated[str, BeforeValidator(_checked(lambda given: given))]
SpecText: TypeAlias = Annotated[str, BeforeValidator(_checked(canonical))]
SpecTexts: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_checked(canonical_list))]
Seeds: TypeAlias = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=0, lt=2**63)], ...],
    Field(min_length=1),
    AfterValidator(_each_once),
]


class PairFilters(StrictModel):
    """Which pairs of the preference set are used; all by default."""

    ties: Literal["keep", "drop"] = Field(
        default="keep", description="pairs that people tied; labels may still drop what is kept"
    )
    same_model: Flag = Field(
        default=False, description="only pairs whose two images come from the same known model"
    )
    min_resolution: Count | None = Field(
        default=None, description="pixels that the shorter side of both images must have"
    )
    per_prompt: Count | None = Field(
        default=None, description="at most this many pairs a caption, the first ones"
    )
    max_pairs: Count | None = Field(
        default=None, description="the first pairs that pass everything else"
    )


class Framing(StrictModel):
    """How a pair's image becomes a training image: scaled to the shorter side, then cropped."""

    crop: Literal["center", "random"] = Field(
        default="center", description="random: one place an image, drawn from the set and row"
    )
    flip: Flag = Field(
        default=False, description="mirror half of the images anew at every step, at random"
    )

    @property
    def views(self) -> int:
        """Encoded of every image: plain, and mirrored."""
        return 2 if self.flip else 1


class GenerateConfig(StrictModel):
    """Preference pairs made from a model's own images, for `pairs: generated`.

    The images are sampled as `sampling` says and labelled by `label_with` from the rewards of
    the recipe's `label_scorers`.
    """

    prompts: SpecTexts = Field(min_length=1, description="prompt sets or their files")
    limit: Count | None = Field(
        default=None, description="prompts a set, stratified by group; none: all"
    )
    backbones: SpecTexts = Field(
        default=(), description="the models that draw; none: the recipe's backbone"
    )
    images_per_prompt: int = Field(
        default=4, strict=True, ge=2, le=10**9, description="of each model"
    )
    label_with: SpecText = Field(
        default="average[normalise=zscore]", description="the aggregation that decides"
    )
    form: Literal["best-worst", "adjacent", "all"] = Field(
        default="best-worst", description="which of a prompt's images are paired"
    )


class SamplingConfig(StrictModel):
    """How evaluation images are made."""

    scheduler: Literal["ddim", "euler", "dpm++"] = Field(default="ddim", description="solver")
    steps: int = Field(strict=True, ge=1, le=1000, description="denoising steps")
    guidance: Number = Field(ge=1, description="classifier-free guidance scale; 1 is none")
    image_seeds: Seeds = Field(default=(0,), description="one image a prompt and seed")
    batch_size: Count = Field(default=32, description="prompts sampled at a time; changes no image")
    compile: Flag = Field(default=False, description="torch.compile the denoiser's blocks")


class Recipe(StrictModel):
    """One comparison. Plugins are named by specs: `name[option=value,...]`."""

    name: Text = Field(min_length=1, max_length=100, description="names the output folder")
    backbone: SpecText
    pairs: SpecText | None = Field(
        default=None,
        description="preference set or its file; `generated`: see `generate`; none: nothing is "
        "trained on pairs",
    )
    prompts: SpecTexts = Field(min_length=1, description="prompt sets or their files")
    scorers: SpecTexts = Field(min_length=1, description="rate the images")
    label_scorers: SpecTexts = Field(
        default=(), description="the pool whose rewards may label pairs"
    )
    methods: SpecTexts = Field(min_length=1)
    seeds: Seeds = Field(default=(0,), description="train seeds")
    generate: GenerateConfig | None = Field(
        default=None, description="how the pairs of `pairs: generated` are made"
    )
    filters: PairFilters = PairFilters()
    framing: Framing = Framing()
    training: TrainingBudget | None = Field(
        default=None, description="what every trained method gets alike; none: nothing is trained"
    )
    sampling: SamplingConfig
    limit: Count | None = Field(
        default=None, description="prompts a set, stratified by group; none: all"
    )
    max_broken_share: Number = Field(
        default=0.02, ge=0, lt=1, description="share of undecodable pairs that is skipped"
    )

    def to_yaml(self) -> str:
        """The resolved recipe as YAML that `--recipe FILE` reads back."""
        return plain_yaml.dump(self.model_dump(mode="json"))


def load(registry: Registry, source: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        registry: where preset names are looked up.
        source: a preset's name or the path of a YAML file.
        overrides: dotted keys ("training.steps") and their values; they win.

    Raises:
        BenchError: unknown preset or key, wrong type, unreadable file.
    """
    data, where = _read(registry, source)
    for key, value in (overrides or {}).items():
        _override(data, key, value)
    return validate(data, where)


def _read(
    registry: Registry, source: str, below: tuple[str, ...] = ()
) -> tuple[dict[str, Any], str]:
    """The keys of a recipe and of what it extends, and how messages call it.

    Args:
        registry: where preset names are looked up.
        source: a preset's name or the path of a YAML file.
        below: the recipes that extend this one, directly or not.
    """
    check_text(source)
    path = expanded(source)
    if _is_file(source):
        try:
            text, where, name = read_text(path, plain_yaml.MOST_BYTES), str(path), path.stem
        except BenchError as error:
            hint = "" if exists(path) else "; a preset is named without a path, such as shapes"
            raise BenchError(f"recipe {error}{hint}") from error
    else:
        text, where, name = registry.build("recipes", source).text(), f"recipe {source}", source
    try:
        data = plain_yaml.load(text)
    except plain_yaml.YamlError as error:
        raise BenchError(f"{where}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise BenchError(f"{where}: expected a mapping of recipe keys at the top")
    base = data.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise BenchError(
                f"{where}: extends: expected a preset's name or a file, not {quoted(base)}"
            )
        if _is_file(source) and _is_file(base):
            base = str(path.parent / expanded(base))
        chain = " -> ".join((*below, source, base))
        if base in (*below, source):
            raise BenchError(f"{where}: extends itself ({chain})")
        if len(below) >= _MOST_EXTENDED:
            raise BenchError(
                f"{where}: more than {_MOST_EXTENDED} recipes that extend one another ({chain})"
            )
        data = _merged(_read(registry, base, (*below, source))[0], data)
    return {"name": name, **data}, where


def _is_file(source: str) -> bool:
    """Whether a recipe is named by a path, not as a preset."""
    return Path(source).suffix in (".yaml", ".yml") or "/" in source


def _merged(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """`data` over `base`: blocks key by key, everything else as a whole; never the name."""
    merged = {key: value for key, value in base.items() if key != "name"} | data
    for block in BLOCKS:
        lower, upper = base.get(block), data.get(block)
        if isinstance(lower, dict) and isinstance(upper, dict):
            merged[block] = lower | upper
    return merged


def validate(data: Mapping[str, object], where: str) -> Recipe:
    """The recipe that plain data describes; `where` opens every error message."""
    try:
        return Recipe.model_validate(dict(data))
    except pydantic.ValidationError as error:
        # A misspelt key also leaves the right one missing; the misspelling is the cause.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        location = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            owner = _owner(location[:-1])
            what = f"{location[0]} key" if len(location) > 1 else "recipe key"
            key_error = UnknownNameError(what, location[-1], owner.model_fields)
            raise BenchError(f"{where}: {key_error}") from error
        raise BenchError(f"{where}: {'.'.join(location)}: {_problem(first)}") from error


def _problem(error: Any) -> str:
    """What pydantic says, in the words of a recipe."""
    match error["type"]:
        case "tuple_type":
            return f"expected a list such as [0, 1], not {quoted(error['input'])}"
        case "model_type" | "model_attributes_type":
            block = error["loc"][0]
            keys = listed(BLOCKS[block].model_fields) if block in BLOCKS else "its own"
            return f"expected keys ({keys}), not {quoted(error['input'])}"
        case "value_error":
            return str(error["ctx"]["error"])
    message = str(error["msg"])
    return message[:1].lower() + message[1:]


BLOCKS: Mapping[str, type[BaseModel]] = {
    "generate": GenerateConfig,
    "filters": PairFilters,
    "framing": Framing,
    "training": TrainingBudget,
    "sampling": SamplingConfig,
}
"""The keys of a recipe that have keys of their own."""


def _owner(location: list[str]) -> type[BaseModel]:
    return BLOCKS.get(location[0], Recipe) if location else Recipe


def _override(data: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    if not all((*parents, last)) or len(parents) > 1:
        raise BenchError(
            f"--set {quoted(key)}: expected a recipe's key, or a block and its key: training.steps"
        )
    for parent in parents:
        if parent in BLOCKS and data.get(parent) is None:
            # A recipe may say that it has no such block.
            data[parent] = {}
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise BenchError(f"--set {key}: {quoted(parent)} holds no keys of its own")
    data[last] = value
