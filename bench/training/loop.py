"""The one training loop: labelled pairs in, a trained denoiser out.

Every random number of a step is drawn on the CPU for the whole batch from a generator seeded
by (seed, step), and the order of pairs by (seed, epoch). So neither the size of micro-batches
nor the number of processes that share a batch changes a number beyond float error, two methods
see the same noise, and going on after an interruption needs no generator state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.api import contracts
from bench.api.kinds import Labels, Loss, PairErrors, Reference, TrainingSetup, Trajectory
from bench.api.noising import NoiseRequest
from bench.api.pair_method import implicit_logit
from bench.api.policy import Condition
from bench.api.training import StepReport, TrainingOutcome
from bench.diffusion.compiling import compiled
from bench.diffusion.lora import LoraSettings
from bench.lib.errors import BenchError, DivergedError
from bench.lib.evaluations import carry, counting
from bench.lib.io_errors import clear_io_errors
from bench.lib.seeding import derive_seed, generator
from bench.training import optimizers, speed
from bench.training.gradients import sum_gradients
from bench.training.weights import FullWeights, LoraWeights, Weights

STATE_FILE = "state.pt"


def train_pairs(
    setup: TrainingSetup,
    *,
    labels: Labels,
    trajectory: Trajectory,
    loss: Loss,
    reference: Reference,
    beta: float,
    learning_rate: float,
) -> TrainingOutcome:
    """Train `setup.policy.denoiser` in place.

    The budget's optimiser, constant learning rate after a linear warm-up, clipped gradients. All
    weights are trained, or a LoRA beside frozen ones. What is trained is held in float32; with
    precision fp16 a step whose scaled gradient overflows changes no weight but counts as a step,
    since its pairs were shown, and the scale is halved. (Whether a sum overflows may depend on
    how a batch is cut; in the other precisions the cut changes nothing beyond float error.)

    A call that was interrupted goes on from the last state in `setup.workspace` and ends with
    the same bytes; it must be given the same untouched denoiser. Several processes share each
    batch (`setup.world`) and end with the same weights, bit for bit.

    Args:
        setup: policy, encoded pairs, budget, seed and processes.
        labels: of all N pairs; those not kept are never shown.
        trajectory: gives the noisy latents and targets.
        loss: gives the loss of each pair.
        reference: says how the reference follows the policy.
        beta: strength of the logit, in the convention of `bench.api.pair_method`.
        learning_rate: after warm-up.

    Raises:
        BenchError: no pair is kept, the loss needs a reference and there is none, or the budget
            asks for what the denoiser or the device cannot do.
        DivergedError: the loss or its gradient is not finite.
    """
    return _Training(
        setup=setup,
        labels=labels,
        trajectory=trajectory,
        loss=loss,
        follows=reference,
        beta=beta,
        learning_rate=learning_rate,
    ).run()


def pair_order(kept: torch.Tensor, seed: int, start: int, stop: int) -> torch.Tensor:
    """Positions start..stop-1 of an endless stream of permutations of `kept`, one an epoch.

    Args:
        kept: int64 [K], the pairs in use.
        seed: of the training.
        start: first position, from 0.
        stop: one past the last.
    """
    size = len(kept)
    first, last = start // size, (stop - 1) // size
    epochs = [
        torch.randperm(size, generator=generator(seed, "order", epoch))
        for epoch in range(first, last + 1)
    ]
    return kept[torch.cat(epochs)[start - first * size : stop - first * size]]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of one step, for B pairs."""

    timesteps: torch.Tensor
    """int64 [B], uniform over [0, T); shared by both images of a pair."""
    emptied: torch.Tensor
    """bool [B]: the prompt is replaced by the empty one."""
    noise: torch.Tensor
    """[B, C, h, w], shared by both images of a pair."""
    encoding: torch.Tensor
    """[B, 2, C, h, w], the VAE's own noise."""
    mirrored: torch.Tensor
    """bool [B, 2]: the image is shown mirrored."""


def draw(
    seed: int,
    step: int,
    *,
    pairs: int,
    timesteps: int,
    empty_share: float,
    latent_shape: tuple[int, ...],
    mirror: bool = False,
) -> Draws:
    """The draws of `step`, a function of the arguments alone; `mirror` adds to them at the end."""
    source = generator(seed, "draws", step)
    return Draws(
        timesteps=torch.randint(timesteps, (pairs,), generator=source),
        emptied=torch.rand(pairs, generator=source) < empty_share,
        noise=torch.randn(pairs, *latent_shape, generator=source),
        encoding=torch.randn(pairs, 2, *latent_shape, generator=source),
        mirrored=torch.rand(pairs, 2, generator=source) < 0.5
        if mirror
        else torch.zeros(pairs, 2, dtype=torch.bool),
    )


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The B pairs of a step, before they are read."""

    rows: torch.Tensor
    """int64 [B]."""
    p: torch.Tensor
    """float32 [B]: probability that image 0 is preferred."""
    draws: Draws


@dataclass(kw_only=True)
class _Training:
    """One call of `train_pairs`: what stays the same over its steps, and what does not."""

    setup: TrainingSetup
    labels: InitVar[Labels]
    trajectory: Trajectory
    loss: Loss
    follows: Reference
    beta: float
    learning_rate: float

    def __post_init__(self, labels: Labels) -> None:
        setup, loss = self.setup, self.loss
        if loss.needs_reference and not self.follows.needed:
            raise BenchError(
                f"the loss {loss.name!r} needs a reference, but {self.follows.name!r} holds none"
            )
        labels = contracts.checked_labels("who calls train_pairs", labels, len(setup.pairs))
        self.p = torch.from_numpy(labels.p.astype("float32"))
        self.kept = torch.from_numpy(labels.kept).nonzero().flatten()
        if len(self.kept) == 0:
            raise BenchError(
                f"no pair is left to train on: the labels drop all {len(self.p)}; "
                f"choose other labels or another rule for ties"
            )
        self.device = setup.policy.device
        self.denoiser = setup.policy.denoiser
        self.weights = _weights(self.denoiser, setup, with_reference=loss.needs_reference)
        self.optimizer = optimizers.build(self.weights.trained, setup.budget, self.learning_rate)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=setup.budget.precision == "fp16"
        )
        self.reports: list[StepReport] = []
        self.nfe = 0
        """Of all processes in the steps that are finished."""
        self.call = self._call_id(labels)

    def run(self) -> TrainingOutcome:
        """All steps that are still to do."""
        budget, world = self.setup.budget, self.setup.world
        self._resume()
        with ExitStack() as fast:
            if self.device.type == "cuda":
                fast.enter_context(speed.tf32(budget.tf32))
            if budget.gradient_checkpointing:
                fast.enter_context(speed.checkpointed(self.denoiser))
            if budget.compile:
                fast.enter_context(compiled(self.weights.networks()))
            for step in range(len(self.reports) + 1, budget.steps + 1):
                self.reports.append(self._step(step))
                if world.is_main and (step % budget.checkpoint_every == 0 or step == budget.steps):
                    self._save()
                self.setup.report(self.reports[-1])
        return TrainingOutcome(
            steps=tuple(self.reports),
            pairs_kept=len(self.kept),
            pairs_dropped=len(self.p) - len(self.kept),
            pairs_seen=budget.steps * budget.batch_size,
        )

    def _step(self, step: int) -> StepReport:
        budget, weights = self.setup.budget, self.weights
        warmed_up = min(1.0, step / max(1, budget.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * warmed_up

        batch = self._batch(step)
        signals = self._gradients(batch)
        self.nfe += signals.nfe
        mean_loss = float(signals.losses.mean())
        self._refuse_divergence(step, "loss", mean_loss)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(weights.trained, budget.max_grad_norm, foreach=True)
        grad_norm = float(norm)
        # Down to a scale of 1 an overflow is the scale's fault, and `scaler` skips the step.
        if not (self.scaler.is_enabled() and self.scaler.get_scale() > 1):
            self._refuse_divergence(step, "gradient's norm", grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Before the distance, whose differences then take the gradients' place in memory.
        self.optimizer.zero_grad(set_to_none=True)
        with self.setup.world.all_or_none():
            keep = contracts.reference_decay(self.follows, step)
        weights.follow(keep)
        margin, accuracy = (
            (math.nan, math.nan) if signals.logits is None else _agreement(signals.logits, batch.p)
        )
        return StepReport(
            step=step,
            loss=mean_loss,
            implicit_accuracy=accuracy,
            margin=margin,
            relative_weight_change=weights.relative_weight_change(),
            grad_norm=grad_norm,
            nfe=self.nfe,
        )

    def _batch(self, step: int) -> _Batch:
        """The pairs of `step` with all their random draws, the same in every process."""
        budget, pairs = self.setup.budget, self.setup.pairs
        size = budget.batch_size
        rows = pair_order(self.kept, self.setup.seed, (step - 1) * size, step * size)
        draws = draw(
            self.setup.seed,
            step,
            pairs=size,
            timesteps=self.setup.policy.schedule.steps,
            empty_share=budget.prompt_dropout,
            latent_shape=pairs.latent_shape,
            mirror=pairs.has_mirrored,
        )
        return _Batch(rows=rows, p=self.p[rows], draws=draws)

    def _gradients(self, batch: _Batch) -> _Signals:
        """Accumulate the gradient of the batch's mean loss, over micro-batches and processes."""
        budget, world = self.setup.budget, self.setup.world
        none = torch.empty(0, device=self.device)
        losses, logits = [none], [none]
        has_logit = self.loss.needs_reference and not self.loss.winner_only
        # Plugins may fail in one process alone, while the others would wait for its gradient.
        with world.all_or_none(), counting() as spent:
            for part in self._parts():
                shown, p = self._show(batch, part)
                errors = self._errors(shown)
                pair_losses = contracts.pair_losses(self.loss, errors, p, self.beta)
                # Divided by the whole batch, so that the sum of parts is the gradient of its mean.
                mean_loss = pair_losses.sum() / budget.batch_size
                self.scaler.scale(mean_loss).backward()  # type: ignore[no-untyped-call]
                losses.append(pair_losses.detach())
                if has_logit:
                    logits.append(implicit_logit(errors, self.beta).detach())
        sum_gradients(self.weights.trained, world)
        shares = world.gather((torch.cat(losses).cpu(), torch.cat(logits).cpu(), spent.spent))
        return _Signals(
            losses=torch.cat([losses for losses, _, _ in shares]),
            logits=torch.cat([logits for _, logits, _ in shares]) if has_logit else None,
            nfe=sum(nfe for _, _, nfe in shares),
        )

    def _parts(self) -> Iterator[slice]:
        """Micro-batches of this process's share of the batch; shares differ by one pair at most."""
        size, world = self.setup.budget.batch_size, self.setup.world
        start, stop = (size * rank // world.size for rank in (world.rank, world.rank + 1))
        micro = self.setup.budget.micro_batch(world.size)
        for first in range(start, stop, micro):
            yield slice(first, min(first + micro, stop))

    def _show(self, batch: _Batch, part: slice) -> tuple[NoiseRequest, torch.Tensor]:
        """Some pairs of a batch on the device; of each the chance that its first is preferred."""
        pairs, draws, device = self.setup.pairs, batch.draws, self.device
        rows, p = batch.rows[part], batch.p[part]
        clean = pairs.moments(rows, draws.mirrored[part]).sample(draws.encoding[part])
        if self.loss.winner_only:
            preferred = (p < 0.5).long()
            clean = clean[torch.arange(len(p)), preferred].unsqueeze(1)
            p = torch.maximum(p, 1 - p)
        prompts = pairs.prompt_index[rows].masked_fill(draws.emptied[part], 0)
        shown = NoiseRequest(
            clean=clean.transpose(0, 1).to(device),
            timesteps=draws.timesteps[part].to(device),
            noise=draws.noise[part].to(device),
            condition={k: v.to(device) for k, v in pairs.condition(prompts).items()},
            schedule=self.setup.policy.schedule,
            predict_epsilon=lambda x, t, c: self._predict(self.denoiser, x, t, c),
        )
        return shown, p.to(device)

    def _errors(self, shown: NoiseRequest) -> PairErrors:
        """Run trajectory, reference and policy."""
        with torch.no_grad():
            noised = contracts.noised(self.trajectory, shown, untouched=not self.reports)
        images = len(noised.latents)
        inputs = (
            noised.latents.flatten(0, 1),
            shown.timesteps.repeat(images),
            {name: torch.cat([value] * images) for name, value in shown.condition.items()},
        )
        reference: torch.Tensor | None = None
        if self.loss.needs_reference:
            # Before the policy: see `Weights.reference`; and its activations are gone by then.
            with torch.no_grad(), self.weights.reference() as network:
                reference = _mse(self._predict(network, *inputs), noised.epsilon)
        policy = _mse(self._predict(self.denoiser, *inputs), noised.epsilon)
        # The image that is not shown has no error; NaN makes a loss that reads it diverge.
        absent = torch.full_like(policy[0].detach(), math.nan)
        return PairErrors(
            policy_0=policy[0],
            policy_1=policy[1] if images == 2 else absent,
            reference_0=None if reference is None else reference[0],
            reference_1=None if reference is None else (reference[1] if images == 2 else absent),
        )

    def _predict(
        self,
        network: torch.nn.Module,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: Condition,
    ) -> torch.Tensor:
        with speed.autocast(self.device, self.setup.budget.precision):
            return self.setup.policy.predict_epsilon(network, latents, timesteps, condition)

    def _refuse_divergence(self, step: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"training diverged at step {step}: the {what} is {value}; "
                f"lower learning_rate (now {self.learning_rate:g}) or beta (now {self.beta:g})"
            )

    def _call_id(self, labels: Labels) -> str:
        """What a saved state must agree on to be gone on from; what is only speed may change."""
        budget = self.setup.budget.affecting_results()
        shapes = [(name, tuple(w.shape)) for name, w in self.denoiser.named_parameters()]
        call = (self.trajectory, self.loss, self.follows, self.beta, self.learning_rate, budget)
        labelled = hashlib.sha256(labels.p.tobytes() + labels.kept.tobytes()).hexdigest()
        return str(derive_seed(self.setup.seed, repr(call), repr(shapes), labelled))

    def _save(self) -> None:
        """Write the state so that no interruption leaves half of it under its name."""
        folder = self.setup.workspace
        with clear_io_errors():
            folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{STATE_FILE}.partial"
        state = {
            "call": self.call,
            "weights": self.weights.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "reports": [dataclasses.asdict(report) for report in self.reports],
            "nfe": self.nfe,
        }
        with clear_io_errors():
            try:
                with temporary.open("wb") as file:
                    torch.save(state, file)
            except RuntimeError as error:
                # torch closes its archive while a full disk's error is under way, and hides it.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            os.replace(temporary, folder / STATE_FILE)

    def _resume(self) -> None:
        """Go on from the saved state, if there is one of this very call."""
        state = _read_state(self.setup.workspace / STATE_FILE)
        if state is not None and state.get("call") == self.call:
            self.weights.restore(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.reports = [StepReport(**report) for report in state["reports"]]
            self.nfe = state["nfe"]
            carry(self.nfe)
        resumed = self.setup.world.gather(len(self.reports))
        if len(set(resumed)) > 1:
            raise BenchError(
                f"the processes of this run find different states in {self.setup.workspace} "
                f"(steps {', '.join(map(str, resumed))}); the store must be one folder for all"
            )


@dataclass(frozen=True, kw_only=True)
class _Signals:
    """What a step's passes gave, of all processes, in the order of the batch."""

    losses: torch.Tensor
    """[B]."""
    logits: torch.Tensor | None
    nfe: int


def _weights(denoiser: torch.nn.Module, setup: TrainingSetup, *, with_reference: bool) -> Weights:
    """Make the denoiser ready for training; what is trained becomes float32."""
    budget = setup.budget
    # Evaluation mode: dropout would draw from the global generator.
    denoiser.eval()
    if budget.lora_rank is None:
        return FullWeights(denoiser.float(), with_reference=with_reference)
    if budget.precision == "fp32":
        denoiser.float()
    settings = LoraSettings(rank=budget.lora_rank, alpha=budget.lora_alpha or budget.lora_rank)
    seed = derive_seed(setup.seed, "lora")
    return LoraWeights(denoiser, settings, seed=seed, with_reference=with_reference)


def _mse(predicted: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """Mean over C, H, W of (target - prediction)^2, [P, B]."""
    residual = epsilon.float() - predicted.view_as(epsilon).float()
    return residual.square().mean(dim=(2, 3, 4))


def _read_state(path: Path) -> dict[str, Any] | None:
    """The state in `path`; None where there is none or it is damaged (it is but a cache)."""
    if not path.is_file():
        return None
    try:
        # torch does not check the archive's checksums itself.
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        # Mapped, so that the processes of a machine share what each copies to its own device.
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        # Damaged bytes fail in any way at all; whichever it is, training starts over.
        return None
    return state


def _agreement(logits: torch.Tensor, p: torch.Tensor) -> tuple[float, float]:
    """Mean of sign(2p - 1) u and share of it above 0, over the pairs that are no ties."""
    decided = p != 0.5
    if not decided.any():
        return math.nan, math.nan
    towards_winner = (torch.sign(2 * p - 1) * logits)[decided]
    return float(towards_winner.mean()), float((towards_winner > 0).float().mean())
