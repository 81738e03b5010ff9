"""What a plugin of each kind is, and the records that plugins and core exchange.

A plugin is a frozen dataclass: its fields are its options (declare them with `option` or
`uses`), its docstring's first line is what `bench plugins` lists. Instances are light, since
planning builds them: import torch, diffusers and the like inside the methods that do the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from bench.api import scorer_loads
from bench.lib.distributed import ALONE, World
from bench.lib.wrapping import run_first

if TYPE_CHECKING:
    import numpy as np
    import torch
    import typer
    from PIL.Image import Image

    from bench.api.encoded_pairs import EncodedPairs
    from bench.api.noising import NoisedPairs, NoiseRequest
    from bench.api.policy import Policy
    from bench.api.training import StepReport, TrainingBudget, TrainingOutcome

Kind: TypeAlias = Literal[
    "scorers",
    "aggregations",
    "trajectories",
    "losses",
    "references",
    "methods",
    "backbones",
    "preference_sets",
    "prompt_sets",
    "recipes",
    "commands",
]


def option(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    affects_results: bool = True,
    affects_identity: bool = True,
) -> Any:
    """Declare an option: a dataclass field with documentation and bounds.

    The annotation gives the type (int, float, bool, str, `Literal[...]`, `X | None`,
    `tuple[str, ...]`); without a default the option must be given. `affects_results=False` marks
    what changes no result by itself, such as a path whose content `fingerprint` covers;
    `affects_identity=False` what does not even make it another plugin, such as where its work is
    done.
    """
    bounds = {k: v for k, v in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le)) if v is not None}
    return dataclasses.field(
        default=default,
        metadata={
            "doc": doc,
            "bounds": bounds,
            "affects_results": affects_results,
            "affects_identity": affects_identity,
        },
    )


def uses(kind: Kind, default: Any = dataclasses.MISSING, doc: str = "") -> Any:
    """Declare an option that names another plugin; the instance holds the plugin itself.

    Without a default, a spec such as "human", the option must be given.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "kind": kind})


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """The base of all kinds. Raise `version` when results change for the same options."""

    name: ClassVar[str]
    version: ClassVar[str] = "1"

    def fingerprint(self) -> str:
        """What else changes this plugin's results: a hash of its weights or data, or ''."""
        return ""


class LoadedScorer(Protocol):
    """A scorer with its weights in memory."""

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        """Rate image i under prompt i.

        Args:
            images: N upright images of mode RGB, of any size. Core gives no others: it converts
                tensors, other modes and EXIF rotation before it asks a scorer.
            prompts: N prompts.

        Returns:
            float64 [N], higher is better; must not depend on the batch or its order.
        """
        ...


@runtime_checkable
class DifferentiableScorer(LoadedScorer, Protocol):
    """A loaded scorer that gradients of the reward can be taken of."""

    def score_pixels(self, pixels: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Rate image i under prompt i, differentiably.

        Args:
            pixels: [N, 3, H, W] in [0, 1] on the scorer's device.
            prompts: N prompts.

        Returns:
            float32 [N], equal to `score` of the same images within a tolerance that the scorer
            states.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Scorer(Plugin):
    """Rates images under prompts."""

    held_out: ClassVar[bool] = False
    """True: knows what no method may read, so it only ever rates finished images.

    Ask `is_held_out`: what derives from a held-out scorer is held out whatever it says."""

    isolate: bool = option(
        False,
        "run it in a worker process of its own",
        affects_results=False,
        affects_identity=False,
    )

    def __init_subclass__(cls, **options: Any) -> None:
        """Have `load` refuse where the scorer would be read unseen (`bench.api.scorer_loads`)."""
        super().__init_subclass__(**options)
        run_first(cls, "load", _refuse_unseen)

    def unavailable_reason(self) -> str:
        """Why it could not be loaded now, with the remedy, or ""; cheap enough for a plan."""
        return ""

    @property
    def seconds_per_image(self) -> float:
        """Rough seconds of one image on the hardware it is meant for, for first plans."""
        return 0.004

    @property
    def tower(self) -> str:
        """The pretrained network that it stands on, or was tuned from; "": none, or not known.

        By the name that its publisher gives it, such as "openai/clip-vit-large-patch14". Scorers
        of one tower are no independent judges, and tables say so. No result and no key hangs on it.
        """
        return ""

    def load(self, device: str) -> LoadedScorer:
        """Read the weights onto `device` ("cpu", "cuda", ...)."""
        raise NotImplementedError


def _refuse_unseen(scorer: Scorer, *args: Any, **kwargs: Any) -> None:
    scorer_loads.check(scorer.name, held_out=is_held_out(type(scorer)))


def is_held_out(scorer: type[Scorer]) -> bool:
    """Whether a class of scorers, or one that it derives from, is declared held out."""
    return any(vars(cls).get("held_out", False) is not False for cls in scorer.__mro__)


@dataclass(frozen=True, kw_only=True)
class PairRewards:
    """What is known of N preference pairs when labels are decided."""

    human: np.ndarray
    """float64 [N]: share of people who prefer image 0; 0.5 is a tie."""
    rewards: Mapping[str, np.ndarray]
    """scorer name -> float64 [N, 2], the rewards of image 0 and image 1."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Which image is preferred and how strongly, for N pairs."""

    p: np.ndarray
    """float64 [N] in [0, 1]: probability that image 0 is preferred."""
    kept: np.ndarray
    """bool [N]: False drops the pair from training."""


@dataclass(frozen=True, kw_only=True)
class Aggregation(Plugin):
    """Turns human labels and rewards into the labels that training sees."""

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        """The scorers whose rewards `label` reads; `pool` is the recipe's `label_scorers`."""
        raise NotImplementedError

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        """Decide all labels; a function of its arguments alone. `pairs.rewards` holds `needs`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Trajectory(Plugin):
    """Decides at which noisy latent, and with which target, the networks are asked."""

    def noise(self, request: NoiseRequest) -> NoisedPairs:
        """Noisy latents and epsilon targets at exactly `request.timesteps` (no gradient)."""
        raise NotImplementedError

    def nfe_per_image(self) -> float:
        """Expected denoiser evaluations an image, for the plan's cost."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class PairErrors:
    """Mean squared errors over (C, H, W), each [B]: image 0 and 1, policy and reference."""

    policy_0: torch.Tensor
    policy_1: torch.Tensor
    reference_0: torch.Tensor | None
    reference_1: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class Loss(Plugin):
    """What is done with the errors of winner and loser."""

    winner_only: ClassVar[bool] = False
    """True: only the preferred image is shown, as image 0 (`policy_1` is not to be read)."""
    needs_reference: ClassVar[bool] = True
    """False: `reference_0` and `reference_1` are not read, so that no reference is run."""

    def __call__(self, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
        """The loss of each pair, [B]; `p` [B] is the probability that image 0 is preferred."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Reference(Plugin):
    """Against which model the policy is measured."""

    needed: ClassVar[bool] = True

    def decay_at(self, step: int) -> float:
        """rho in `reference <- rho * reference + (1 - rho) * policy` after `step` (from 1)."""
        raise NotImplementedError


class PairTrainer(Protocol):
    """The training loop over labelled pairs, which the core gives to every method."""

    def __call__(
        self,
        setup: TrainingSetup,
        *,
        labels: Labels,
        trajectory: Trajectory,
        loss: Loss,
        reference: Reference,
        beta: float,
        learning_rate: float,
    ) -> TrainingOutcome:
        """Train `setup.policy.denoiser` in place: see `bench.training.loop.train_pairs`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Everything that a method trains from."""

    policy: Policy
    pairs: EncodedPairs
    rewards: PairRewards
    budget: TrainingBudget
    seed: int
    workspace: Path
    """A folder that outlives an interruption; the same call goes on from what lies in it."""
    report: Callable[[StepReport], None]
    """Called after every optimiser step."""
    train_pairs: PairTrainer
    """Trains on labelled pairs; call it with this setup."""
    world: World = ALONE
    """The processes that share each batch."""


@dataclass(frozen=True, kw_only=True)
class Method(Plugin):
    """A way to align a backbone. Most are four choices: see `bench.api.pair_method.PairMethod`."""

    baseline: ClassVar[bool] = False
    """True for the untouched backbone itself, which every win rate is measured against.

    Such a method reads no scorer, is not trained, and its `model` is never asked."""

    trainable: ClassVar[bool] = True
    """False: its images are those of `model`, and `train` is never called."""

    def resolved(self, family: str) -> Method:
        """This method with every open option (None) set to the family's default, no other."""
        return self

    def label_scorers(self, pool: Sequence[str]) -> tuple[str, ...]:
        """The scorers that training reads (they become in-loop); `pool` as in `needs`.

        Their rewards are in `setup.rewards`. What the method's options hold or name, however
        nested, and what its aggregations need is in-loop beside them, whatever this says.
        """
        return ()

    def nfe(self, pairs_seen: int) -> int:
        """Expected denoiser evaluations of training on `pairs_seen` pairs.

        For the plan alone: what is spent is counted where the denoiser is asked.
        """
        raise NotImplementedError

    def model(self, backbone: Policy) -> Policy:
        """The model whose images stand for a method without training: `backbone`, changed or not.

        Called with the untouched backbone, and only where the method is not `trainable`.
        """
        return backbone

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        """Train `setup.policy.denoiser` in place; called only where it is `trainable`."""
        raise NotImplementedError


def is_baseline(method: Method) -> bool:
    """Whether the method's class is the untouched backbone; no instance can say otherwise."""
    return getattr(type(method), "baseline", False) is True


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a backbone needs of a GPU, for the plan's estimates."""

    denoiser: float
    """Weights that training changes, in millions."""
    encoders: float
    """Weights of text encoders and VAE, in millions."""
    adapted: float
    """Weights that one LoRA rank adds, in millions."""
    activations_gb: float
    """Rough GB (10^9 bytes) that one image's backward pass holds in 16-bit precision."""


@dataclass(frozen=True, kw_only=True)
class PipelineLayout:
    """Where a denoiser lies in a pipeline of diffusers, and so how checkpoints are written."""

    pipeline: str
    """Class of the pipeline, such as "StableDiffusionPipeline"."""
    denoiser: str
    """Class of the denoiser, such as "UNet2DConditionModel"."""
    part: str
    """Its name in the pipeline ("unet", "transformer"): attribute, subfolder and prefix of LoRA."""
    loads_lora: bool = True
    """Whether the pipeline's class has `load_lora_weights`."""


@dataclass(frozen=True, kw_only=True)
class StartModel:
    """How plain diffusers loads a backbone, for model cards of what is trained from it."""

    layout: PipelineLayout
    hub_id: str = ""
    """The Hub's name of it, where it has one."""
    imports: tuple[str, ...] = ()
    """Names that `code` needs of diffusers, beside the pipeline."""
    code: str
    """Python that leaves the untouched pipeline in the variable `pipeline`."""
    dtype: str = ""
    """Of its weights where that is not float32, such as "torch.float16"."""
    needs: str = ""
    """What has to be installed for `code` beside diffusers, for pip."""


@dataclass(frozen=True, kw_only=True)
class Backbone(Plugin):
    """A text-to-image model that methods start from."""

    licence: ClassVar[str] = "unknown"
    """Of the weights, for model cards: an SPDX identifier or the licence's own name."""

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether this plugin (with option `path`) reads the folder."""
        return False

    @classmethod
    def refusal(cls, path: Path) -> str:
        """Why it does not read a folder that looks like a model, and what it does read; or ""."""
        return ""

    @property
    def start_model(self) -> StartModel | None:
        """How plain diffusers loads it; None: it does not, so that checkpoints have an own form.

        Asked without network, also where nothing has been downloaded.
        """
        return None

    @property
    def family(self) -> str:
        """Which row of a method's hyper-parameter defaults applies ("sd1", "sdxl", ...)."""
        raise NotImplementedError

    @property
    def resolution(self) -> int:
        """Height and width of its images in pixels."""
        raise NotImplementedError

    @property
    def seconds_per_evaluation(self) -> float:
        """Rough seconds of one evaluation on the hardware it is meant for, for first plans."""
        raise NotImplementedError

    @property
    def size(self) -> ModelSize | None:
        """How large it is, without reading it; None: not known, so no memory is estimated."""
        return None

    def load(self, device: str) -> Policy:
        """The model on `device`; parts may be read when they are first used."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PreferenceImage:
    """One image of a group."""

    data: bytes
    """As it is encoded; empty where it cannot be had."""
    model: str = ""
    """What drew it, if known."""
    seed: int | None = None
    """Of its noise, if known; with the prompt it is the noise's key."""
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """Scorer -> its raw score under the caption, where the set holds some."""
    problem: str = ""
    """Why it cannot be had ("jpg_1: there is no file x.jpg"); the group counts as broken."""


@dataclass(frozen=True, kw_only=True)
class PreferenceGroup:
    """The k images that were compared under one caption."""

    row: int
    """Position in the preference set, from 0."""
    caption: str
    images: tuple[PreferenceImage, ...]
    """Two or more."""
    human: float | tuple[int, ...] | None
    """Of two images the share of people who prefer image 0: 1 image 0, 0 image 1, 0.5 a tie. Of
    any number the rank of each, 1 the best; equal ones tie. None: nobody was asked."""
    source: bytes | None = None
    """The encoded image that they are edits of, if they are edits."""

    @property
    def problem(self) -> str:
        """Why images cannot be had, "" if all can."""
        return "; ".join(image.problem for image in self.images if image.problem)


@dataclass(frozen=True, kw_only=True)
class PreferencePair(PreferenceGroup):
    """A group of two images whose label is a share."""

    images: tuple[PreferenceImage, PreferenceImage]
    human: float


@dataclass(frozen=True, kw_only=True)
class PreferenceSet(Plugin):
    """Groups of images with human labels, mostly pairs, read as a stream."""

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether this plugin (with option `path`) reads the file or folder."""
        return False

    @property
    def source(self) -> str:
        """Where the groups come from, for messages that name a row."""
        return self.name

    def count(self) -> int:
        """How many groups there are, without reading the images."""
        raise NotImplementedError

    def published_count(self) -> int | None:
        """The published number of pairs, while `count` would have to ask the network.

        None: it would not, or nobody has published one. Plans that are only printed use it.
        """
        return None

    def labelled_by(self) -> tuple[str, ...]:
        """The scorers whose rewards made the labels: in-loop for whatever trains on them."""
        return ()

    def read(self, rows: Iterable[int] | None = None) -> Iterator[PreferenceGroup]:
        """The groups at the given ascending positions, or all, in order.

        Nothing but those at hand is held in memory, and nothing that no row needs is read.

        Raises:
            BenchError: the file is not what it should be; names the row.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Prompt:
    """One prompt and the groups it belongs to, e.g. {"category": "Animals"}."""

    text: str
    groups: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PromptSet(Plugin):
    """Prompts to evaluate on."""

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether this plugin (with option `path`) reads the file or folder."""
        return False

    def load(self) -> tuple[Prompt, ...]:
        """All prompts in file order; duplicates stay rows of their own."""
        raise NotImplementedError

    def published_count(self) -> int | None:
        """The published number of prompts, while `load` would have to download them.

        None: it would not, or nobody has published one. Plans that are only printed use it.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class RecipePreset(Plugin):
    """A named recipe: the YAML that `bench run --recipe NAME` starts from."""

    def text(self) -> str:
        """The YAML document."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Command(Plugin):
    """A command group of its own: `bench NAME ...`."""

    def app(self) -> typer.Typer:
        """The typer application that handles it."""
        raise NotImplementedError


BASES: Mapping[Kind, type[Plugin]] = {
    "scorers": Scorer,
    "aggregations": Aggregation,
    "trajectories": Trajectory,
    "losses": Loss,
    "references": Reference,
    "methods": Method,
    "backbones": Backbone,
    "preference_sets": PreferenceSet,
    "prompt_sets": PromptSet,
    "recipes": RecipePreset,
    "commands": Command,
}
_SINGULAR: Mapping[Kind, str] = {
    "aggregations": "aggregation",
    "trajectories": "trajectory",
    "losses": "loss",
    "preference_sets": "preference set",
    "prompt_sets": "prompt set",
}


def noun(kind: Kind) -> str:
    """The kind in words, for messages: "prompt set"."""
    return _SINGULAR.get(kind, kind.removesuffix("s"))
