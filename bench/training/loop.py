"""The one training loop: labelled pairs in, a trained denoiser out.

Every random number of a step is drawn on the CPU for the whole batch from a generator seeded
by (seed, step), and the order of pairs by (seed, epoch). So the size of micro-batches changes
no number beyond float error, two methods see the same noise, and going on after an
interruption needs no generator state.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.diffusion.noising import NoiseRequest
from bench.diffusion.policy import Condition, Policy
from bench.errors import BenchError, DivergedError
from bench.methods import implicit_logit
from bench.protocols import Labels, Loss, PairErrors, Reference, Trajectory
from bench.seeding import derive_seed, generator
from bench.training.setup import StepReport, TrainingOutcome, TrainingSetup

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

    AdamW (0.9, 0.999, 1e-8), constant learning rate after a linear warm-up, clipped gradients.
    A call that was interrupted goes on from the last state in `setup.workspace` and ends with
    the same bytes; it must be given the same untouched denoiser.

    Args:
        setup: policy, encoded pairs, budget and seed.
        labels: of all N pairs; those not kept are never shown.
        trajectory: gives the noisy latents and targets.
        loss: gives the loss of each pair.
        reference: says how the reference follows the policy.
        beta: strength of the logit, in the convention of `bench.methods`.
        learning_rate: after warm-up.

    Raises:
        BenchError: no pair is kept, or the loss needs a reference and there is none.
        DivergedError: the loss or its gradient is not finite.
    """
    training = _Training(setup, labels, trajectory, loss, reference, beta, learning_rate)
    return training.run()


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


def draw(
    seed: int,
    step: int,
    *,
    pairs: int,
    timesteps: int,
    empty_share: float,
    latent_shape: tuple[int, ...],
) -> Draws:
    """The draws of `step`, a function of the arguments alone."""
    source = generator(seed, "draws", step)
    return Draws(
        timesteps=torch.randint(timesteps, (pairs,), generator=source),
        emptied=torch.rand(pairs, generator=source) < empty_share,
        noise=torch.randn(pairs, *latent_shape, generator=source),
        encoding=torch.randn(pairs, 2, *latent_shape, generator=source),
    )


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """B pairs as the networks are shown them, P images each."""

    clean: torch.Tensor
    """[P, B, C, h, w]."""
    timesteps: torch.Tensor
    noise: torch.Tensor
    prompts: torch.Tensor
    """int64 [B], rows of the conditions."""
    p: torch.Tensor
    """float32 [B]: probability that the first image shown is preferred."""

    def parts(self, size: int) -> Iterator[_Batch]:
        """Micro-batches of at most `size` pairs."""
        for start in range(0, len(self.p), size):
            part = slice(start, start + size)
            yield _Batch(
                clean=self.clean[:, part],
                timesteps=self.timesteps[part],
                noise=self.noise[part],
                prompts=self.prompts[part],
                p=self.p[part],
            )


class _Anchor:
    """The original weights, and the reference, which shares their memory until it moves."""

    def __init__(self, denoiser: torch.nn.Module, *, with_reference: bool) -> None:
        self.reference = copy.deepcopy(denoiser).requires_grad_(False) if with_reference else None
        self.moved = False
        if self.reference is None:
            self.origin = [w.detach().clone() for w in _trainable(denoiser)]
        else:
            self._weights: list[torch.Tensor] = [
                copied
                for copied, w in zip(
                    self.reference.parameters(), denoiser.parameters(), strict=True
                )
                if w.requires_grad
            ]
            self.origin = self._weights
        self._norm = _norm(self.origin)

    def follow(self, policy: list[torch.Tensor], keep: float) -> None:
        """reference <- keep * reference + (1 - keep) * policy."""
        if self.reference is None or keep == 1:
            return
        self._leave_origin()
        if keep == 0:
            torch._foreach_copy_(self._weights, policy)
        else:
            torch._foreach_lerp_(self._weights, policy, 1 - keep)

    def distance(self, policy: list[torch.Tensor]) -> float:
        """||policy - origin|| / ||origin||."""
        return float(_norm(torch._foreach_sub(policy, self.origin)) / self._norm)

    def state(self) -> dict[str, torch.Tensor] | None:
        """The reference's weights if they are no longer the original ones."""
        return self.reference.state_dict() if self.reference is not None and self.moved else None

    def restore(self, state: dict[str, torch.Tensor] | None) -> None:
        """Undo `state`."""
        if self.reference is not None and state is not None:
            self._leave_origin()
            self.reference.load_state_dict(state)

    def _leave_origin(self) -> None:
        if not self.moved:
            self.origin = [w.clone() for w in self._weights]
            self.moved = True


class _Training:
    """One call of `train_pairs`: what stays the same over its steps, and what does not."""

    def __init__(
        self,
        setup: TrainingSetup,
        labels: Labels,
        trajectory: Trajectory,
        loss: Loss,
        reference: Reference,
        beta: float,
        learning_rate: float,
    ) -> None:
        if loss.needs_reference and not reference.needed:
            raise BenchError(
                f"the loss {loss.name!r} needs a reference, but {reference.name!r} holds none"
            )
        self.setup = setup
        self.trajectory = trajectory
        self.loss = loss
        self.follows = reference
        self.beta = beta
        self.learning_rate = learning_rate

        self.p = torch.from_numpy(labels.p.astype("float32"))
        self.kept = torch.from_numpy(labels.kept.astype(bool)).nonzero().flatten()
        if len(self.kept) == 0:
            raise BenchError(
                f"no pair is left to train on: the labels drop all {len(self.p)}; "
                f"choose other labels or another rule for ties"
            )
        self.denoiser = setup.policy.denoiser
        # Evaluation mode: dropout would draw from the global generator.
        self.denoiser.eval()
        self.weights = _trainable(self.denoiser)
        if not self.weights:
            raise BenchError("the backbone's denoiser has no weights that require a gradient")
        self.anchor = _Anchor(self.denoiser, with_reference=loss.needs_reference)
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=setup.budget.weight_decay,
            fused=True,
        )
        self.reports: list[StepReport] = []
        self.passes = 0
        self.call = self._call_id(labels)

    def run(self) -> TrainingOutcome:
        """All steps that are still to do."""
        budget = self.setup.budget
        self._resume()
        for step in range(len(self.reports) + 1, budget.steps + 1):
            self.reports.append(self._step(step))
            if step % budget.checkpoint_every == 0 or step == budget.steps:
                self._save()
            self.setup.report(self.reports[-1])
        return TrainingOutcome(
            steps=tuple(self.reports),
            pairs_kept=len(self.kept),
            pairs_dropped=len(self.p) - len(self.kept),
            pairs_seen=budget.steps * budget.batch_size,
            passes=self.passes,
        )

    def _step(self, step: int) -> StepReport:
        budget = self.setup.budget
        warmed_up = min(1.0, step / max(1, budget.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * warmed_up

        losses, logits = [], []
        batch = self._batch(step)
        for part in batch.parts(budget.micro_batch_size):
            p = part.p.to(self.setup.policy.device)
            errors = self._errors(part)
            pair_losses = self.loss(errors, p, self.beta)
            # Divided by the whole batch, so that the sum of parts is the gradient of its mean.
            (pair_losses.sum() / budget.batch_size).backward()  # type: ignore[no-untyped-call]
            losses.append(pair_losses.detach())
            if self._has_logit:
                logits.append(implicit_logit(errors, self.beta).detach())

        mean_loss = float(torch.cat(losses).mean())
        norm = torch.nn.utils.clip_grad_norm_(self.weights, budget.max_grad_norm, foreach=True)
        grad_norm = float(norm)
        self._refuse_divergence(step, "loss", mean_loss)
        self._refuse_divergence(step, "gradient's norm", grad_norm)
        self.optimizer.step()
        # Before the distance, whose differences then take the gradients' place in memory.
        self.optimizer.zero_grad(set_to_none=True)
        policy = [w.detach() for w in self.weights]
        self.anchor.follow(policy, self.follows.keep(step))
        margin, accuracy = (
            _agreement(torch.cat(logits).cpu(), batch.p) if logits else (math.nan,) * 2
        )
        return StepReport(
            step=step,
            loss=mean_loss,
            implicit_accuracy=accuracy,
            margin=margin,
            distance=self.anchor.distance(policy),
            grad_norm=grad_norm,
            passes=self.passes,
        )

    @property
    def _has_logit(self) -> bool:
        return self.loss.needs_reference and not self.loss.winner_only

    def _batch(self, step: int) -> _Batch:
        """The pairs of `step` with all their random draws, on the CPU."""
        budget, pairs, policy = self.setup.budget, self.setup.pairs, self.setup.policy
        size = budget.batch_size
        rows = pair_order(self.kept, self.setup.seed, (step - 1) * size, step * size)
        draws = draw(
            self.setup.seed,
            step,
            pairs=size,
            timesteps=policy.schedule.steps,
            empty_share=budget.empty_prompt_share,
            latent_shape=tuple(pairs.mean.shape[2:]),
        )
        p = self.p[rows]
        clean = pairs.mean[rows] + pairs.std[rows] * draws.encoding
        if self.loss.winner_only:
            shown = (p < 0.5).long()
            clean = clean[torch.arange(size), shown].unsqueeze(1)
            p = torch.maximum(p, 1 - p)
        return _Batch(
            clean=clean.transpose(0, 1),
            timesteps=draws.timesteps,
            noise=draws.noise,
            prompts=pairs.prompt_index[rows].masked_fill(draws.emptied, 0),
            p=p,
        )

    def _errors(self, batch: _Batch) -> PairErrors:
        """Run the trajectory, the policy and the reference on a micro-batch."""
        policy, device = self.setup.policy, self.setup.policy.device
        condition = _rows(self.setup.pairs.conditions, batch.prompts, device)
        timesteps = batch.timesteps.to(device)
        with torch.no_grad():
            noised = self.trajectory.noise(
                NoiseRequest(
                    clean=batch.clean.to(device),
                    timesteps=timesteps,
                    noise=batch.noise.to(device),
                    condition=condition,
                    schedule=policy.schedule,
                    predict_epsilon=lambda latents, t, c: policy.predict_epsilon(
                        self.denoiser, latents, t, c
                    ),
                )
            )
        self.passes += noised.passes
        images = len(noised.latents)
        asked = (
            noised.latents.flatten(0, 1),
            timesteps.repeat(images),
            {name: torch.cat([value] * images) for name, value in condition.items()},
        )
        policy_errors = self._mse(policy, self.denoiser, asked, noised.epsilon)
        reference_errors: torch.Tensor | None = None
        if self.anchor.reference is not None:
            with torch.no_grad():
                reference_errors = self._mse(policy, self.anchor.reference, asked, noised.epsilon)
        # The image that is not shown has no error; NaN makes a loss that reads it diverge.
        absent = torch.full_like(policy_errors[0].detach(), math.nan)
        return PairErrors(
            policy_0=policy_errors[0],
            policy_1=policy_errors[1] if images == 2 else absent,
            reference_0=None if reference_errors is None else reference_errors[0],
            reference_1=None
            if reference_errors is None
            else (reference_errors[1] if images == 2 else absent),
        )

    def _mse(
        self,
        policy: Policy,
        denoiser: torch.nn.Module,
        asked: tuple[torch.Tensor, torch.Tensor, Condition],
        epsilon: torch.Tensor,
    ) -> torch.Tensor:
        """Mean over C, H, W of (target - prediction)^2, [P, B], in one forward pass."""
        predicted = policy.predict_epsilon(denoiser, *asked)
        self.passes += len(predicted)
        residual = epsilon.float() - predicted.view_as(epsilon).float()
        return residual.square().mean(dim=(2, 3, 4))

    def _refuse_divergence(self, step: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"training diverged at step {step}: the {what} is {value}; "
                f"lower learning_rate (now {self.learning_rate:g}) or beta (now {self.beta:g})"
            )

    def _call_id(self, labels: Labels) -> str:
        """What a saved state must agree on to be gone on from; `micro_batch_size` may change."""
        budget = dataclasses.replace(self.setup.budget, micro_batch_size=1)
        shapes = [(name, tuple(w.shape)) for name, w in self.denoiser.named_parameters()]
        told = (self.trajectory, self.loss, self.follows, self.beta, self.learning_rate, budget)
        return str(
            derive_seed(
                self.setup.seed,
                repr(told),
                repr(shapes),
                labels.p.tobytes().hex(),
                labels.kept.tobytes().hex(),
            )
        )

    def _save(self) -> None:
        """Write the state so that no interruption leaves half of it under its name."""
        folder = self.setup.workspace
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{STATE_FILE}.partial"
        state = {
            "call": self.call,
            "policy": self.denoiser.state_dict(),
            "reference": self.anchor.state(),
            "optimizer": self.optimizer.state_dict(),
            "reports": [dataclasses.asdict(report) for report in self.reports],
            "passes": self.passes,
        }
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
        state = _read_state(self.setup.workspace / STATE_FILE, self.setup.policy.device)
        if state is None or state.get("call") != self.call:
            return
        self.denoiser.load_state_dict(state["policy"])
        self.anchor.restore(state["reference"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.reports = [StepReport(**report) for report in state["reports"]]
        self.passes = state["passes"]


def _read_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state in `path`; None where there is none or it is damaged (it is but a cache)."""
    if not path.is_file():
        return None
    try:
        # torch does not check the archive's checksums itself.
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
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


def _rows(conditions: Condition, rows: torch.Tensor, device: torch.device) -> Condition:
    return {name: value[rows.to(value.device)].to(device) for name, value in conditions.items()}


def _trainable(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [w for w in module.parameters() if w.requires_grad]


def _norm(tensors: list[torch.Tensor] | tuple[torch.Tensor, ...]) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm
