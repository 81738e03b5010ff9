from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from bench.api.policy import Condition
from bench.api.schedule import NoiseSchedule, per_sample
from bench.diffusion.inversion import (
    ddim_invert,
    ddim_step,
    implied_noise,
    inversion_grid,
    reference_code_grid,
    reference_code_invert,
    renoise_invert,
)

TIMESTEPS = torch.tensor([0, 1, 2, 50, 201, 500, 802, 999])
INVERT: list[tuple[Callable[..., Any], dict[str, int]]] = [
    (ddim_invert, {"steps": 5}),
    (renoise_invert, {"steps": 5}),
    (renoise_invert, {"steps": 3, "renoise_steps": 3}),
    (reference_code_invert, {"steps": 5}),
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Counted:
    """A network that remembers what it was asked."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.function = function
        self.asked: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        assert len(x) == len(t)
        assert all(len(rows) == len(x) for rows in condition.values())
        assert not torch.is_grad_enabled()
        self.asked.append(t)
        return self.function(x, t)

    @property
    def nfe(self) -> int:
        return sum(len(t) for t in self.asked)


def nonlinear(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
    """A smooth network that mixes latent, timestep and condition."""
    told = condition["prompt"].reshape(-1, 1, 1, 1)
    return torch.tanh(x + told) * per_sample(1 + t / 1000, x) + 0.1 * x.roll(1, dims=-1)


@pytest.mark.parametrize("steps", [1, 2, 4, 9, 30])
def test_grid_starts_clean_and_ends_exactly_at_t(steps: int) -> None:
    timesteps = torch.arange(1000)
    levels = inversion_grid(timesteps, steps)
    assert levels.shape == (1000, steps + 1)
    assert levels.dtype == torch.int64
    assert bool((levels[:, 0] == -1).all())
    assert torch.equal(levels[:, -1], timesteps)
    assert bool((levels.diff(dim=1) >= 0).all())
    even = -1 + (timesteps[:, None] + 1).double() * torch.linspace(
        0, 1, steps + 1, dtype=torch.float64
    )
    assert bool(((levels - even).abs() <= 0.5 + 1e-9).all())


def test_step_between_equal_levels_is_the_identity_to_the_last_bit(
    schedule: NoiseSchedule,
) -> None:
    x, eps = normal(2, 1000, 1, 2, 2).float()
    a, s = schedule.alpha_sigma(torch.arange(1000))
    assert torch.equal(ddim_step(x, eps, a, s, a, s), x)


def test_step_is_the_textbook_formula_and_undone_by_its_reverse(schedule: NoiseSchedule) -> None:
    x, eps = normal(2, 8, 1, 2, 2)
    here = schedule.alpha_sigma(TIMESTEPS)
    there = schedule.alpha_sigma(TIMESTEPS.flip(0))
    a, s, a_to, s_to = (per_sample(v, x) for v in (*here, *there))
    stepped = ddim_step(x, eps, *here, *there)
    assert torch.allclose(stepped, a_to * (x - s * eps) / a + s_to * eps, atol=1e-12)
    assert torch.allclose(ddim_step(stepped, eps, *there, *here), x, atol=1e-12)


@pytest.mark.parametrize(("invert", "options"), INVERT[:3])
def test_constant_noise_gives_forward_noising_at_exactly_t(
    schedule: NoiseSchedule, invert: Callable[..., Any], options: dict[str, int]
) -> None:
    x_0, eps = normal(2, 8, 4, 3, 3)
    for constant in (torch.zeros_like(eps), eps):
        rows = {"row": torch.arange(8)}

        def network(
            x: torch.Tensor, t: torch.Tensor, told: Condition, noise: torch.Tensor = constant
        ) -> torch.Tensor:
            return noise[told["row"]]

        inverted = invert(network, schedule, x_0, TIMESTEPS, rows, **options)
        expected = schedule.add_noise(x_0, constant, TIMESTEPS)
        assert torch.allclose(inverted.latents, expected, atol=1e-12)
        a, s = schedule.alpha_sigma(TIMESTEPS)
        tau = implied_noise(inverted.latents, x_0, a, s)
        assert torch.allclose(tau, constant, atol=1e-10)


def gaussian(schedule: NoiseSchedule, std: float) -> Callable[..., torch.Tensor]:
    """The ideal network for data N(0, std^2): eps = s x / (a^2 std^2 + s^2)."""

    def network(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        a, s = schedule.alpha_sigma(t)
        return per_sample(s / (a**2 * std**2 + s**2), x) * x

    return network


def gain(schedule: NoiseSchedule, u: int, v: int, std: float, k: int) -> float:
    """Hand-derived factor of one step from level u to v for the Gaussian model.

    The prediction at y is g y with g = s_v / (a_v^2 std^2 + s_v^2). Stepping x with prediction
    g y gives r x + d g y, r = a_v / a_u, d = s_v - r s_u. So with z = d g the guesses are
    y_0 = x, y_(j+1) = (r + z q_j) x where q_j is y_j / x, and the mean of k + 1 predictions
    moves x by r + z mean(q).
    """
    (a_u, a_v), (s_u, s_v) = (
        values.tolist() for values in schedule.alpha_sigma(torch.tensor([u, v]))
    )
    r = a_v / a_u
    z = (s_v - r * s_u) * s_v / (a_v**2 * std**2 + s_v**2)
    q = [1.0]
    for _ in range(k):
        q.append(r + z * q[-1])
    return float(r + z * sum(q) / len(q))


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_gaussian_data_follow_the_hand_derived_product(schedule: NoiseSchedule, k: int) -> None:
    x_0 = normal(8, 1, 2, 2)
    inverted = renoise_invert(
        gaussian(schedule, 0.7), schedule, x_0, TIMESTEPS, {}, steps=6, renoise_steps=k
    )
    for row, levels in enumerate(inversion_grid(TIMESTEPS, 6).tolist()):
        factor = 1.0
        for u, v in pairwise(levels):
            factor *= gain(schedule, u, v, 0.7, k) if u != v else 1.0
        assert torch.allclose(inverted.latents[row], factor * x_0[row], rtol=1e-12)


def test_many_steps_approach_the_closed_form_of_the_ode(schedule: NoiseSchedule) -> None:
    """For data N(0, std^2) the ODE maps x_0 to x_0 sqrt(a^2 std^2 + s^2) / std."""
    std = 0.7
    x_0 = normal(8, 1, 2, 2)
    a, s = schedule.alpha_sigma(TIMESTEPS)
    exact = per_sample((a**2 * std**2 + s**2).sqrt() / std, x_0) * x_0

    def error(steps: int, k: int) -> float:
        inverted = renoise_invert(
            gaussian(schedule, std), schedule, x_0, TIMESTEPS, {}, steps=steps, renoise_steps=k
        )
        return float(((inverted.latents - exact) / exact).abs().max())

    for k in (0, 1):
        assert error(800, k) < 0.004
        assert error(200, k) < 0.5 * error(40, k)
        assert error(40, k) < 0.5 * error(10, k)


def slow_renoise(
    schedule: NoiseSchedule, x_0: torch.Tensor, t: int, told: torch.Tensor, steps: int
) -> torch.Tensor:
    """The published loop, one sample, written out: predict, step, predict, average, re-step."""
    abar = [1.0, *schedule.alphas_cumprod.tolist()]
    x = x_0[None]
    for i in range(steps):
        u = int(-1 + (t + 1) * i / steps + 0.5 + 1e-12) if i else -1
        v = int(-1 + (t + 1) * (i + 1) / steps + 0.5 + 1e-12) if i + 1 < steps else t

        def step(
            x: torch.Tensor, eps: torch.Tensor, at: float = abar[u + 1], to: float = abar[v + 1]
        ) -> torch.Tensor:
            original = (x - (1 - at) ** 0.5 * eps) / at**0.5
            return to**0.5 * original + (1 - to) ** 0.5 * eps

        condition = {"prompt": told[None]}
        first = nonlinear(x, torch.tensor([v]), condition)
        second = nonlinear(step(x, first), torch.tensor([v]), condition)
        x = step(x, 0.5 * first + 0.5 * second)
    return x[0]


def test_renoise_equals_the_literal_loop(schedule: NoiseSchedule) -> None:
    x_0, told = normal(8, 4, 3, 3), normal(8, seed=1)
    timesteps = torch.tensor([9, 33, 50, 201, 333, 500, 802, 999])
    fast = renoise_invert(nonlinear, schedule, x_0, timesteps, {"prompt": told}, steps=4)
    for row, t in enumerate(timesteps.tolist()):
        slow = slow_renoise(schedule, x_0[row], t, told[row], steps=4)
        assert torch.allclose(fast.latents[row], slow, atol=1e-12)
    other = ddim_invert(nonlinear, schedule, x_0, timesteps, {"prompt": told}, steps=4)
    assert (fast.latents - other.latents).abs().max() > 0.01


@pytest.mark.parametrize(("invert", "options"), INVERT)
def test_a_batch_equals_one_by_one(
    schedule: NoiseSchedule, invert: Callable[..., Any], options: dict[str, int]
) -> None:
    x_0, told = normal(8, 4, 3, 3), normal(8, seed=1)
    batch = invert(nonlinear, schedule, x_0, TIMESTEPS, {"prompt": told}, **options)
    nfe = 0
    for row in range(8):
        one = slice(row, row + 1)
        alone = invert(
            nonlinear, schedule, x_0[one], TIMESTEPS[one], {"prompt": told[one]}, **options
        )
        assert torch.allclose(batch.latents[one], alone.latents, atol=1e-12)
        nfe += alone.nfe
    assert batch.nfe == nfe


@pytest.mark.parametrize(("invert", "options"), INVERT)
def test_passes_are_the_real_calls(
    schedule: NoiseSchedule, invert: Callable[..., Any], options: dict[str, int]
) -> None:
    network = Counted(lambda x, t: 0.1 * x)
    x_0 = normal(8, 1, 2, 2).requires_grad_()
    inverted = invert(network, schedule, x_0, TIMESTEPS, {"prompt": torch.zeros(8)}, **options)
    assert inverted.nfe == network.nfe > 0
    assert not inverted.latents.requires_grad


def test_network_is_asked_at_the_level_stepped_to(schedule: NoiseSchedule) -> None:
    network = Counted(lambda x, t: 0.1 * x)
    inverted = renoise_invert(
        network, schedule, normal(2, 1, 2, 2), torch.tensor([999, 1]), {}, steps=4
    )
    assert [t.tolist() for t in network.asked] == [
        *[[249, 0]] * 2,
        *[[499]] * 2,
        *[[749, 1]] * 2,
        *[[999]] * 2,
    ]
    assert inverted.nfe == 12


def test_inversion_then_sampling_reconstructs(schedule: NoiseSchedule) -> None:
    x_0, told = normal(8, 4, 3, 3), {"prompt": normal(8, seed=1)}

    def error(steps: int, k: int = 0) -> float:
        x = renoise_invert(
            nonlinear, schedule, x_0, TIMESTEPS, told, steps=steps, renoise_steps=k
        ).latents
        levels = inversion_grid(TIMESTEPS, steps)
        for i in reversed(range(steps)):
            eps = nonlinear(x, levels[:, i + 1], told)
            here, there = schedule.alpha_sigma(levels[:, i + 1]), schedule.alpha_sigma(levels[:, i])
            moved = ddim_step(x, eps, *here, *there)
            x = torch.where((levels[:, i] == levels[:, i + 1]).reshape(-1, 1, 1, 1), x, moved)
        return float((x - x_0).abs().mean())

    assert error(1000) < 0.002
    assert error(1000) < 0.3 * error(100) < 0.3 * error(10)
    # What ReNoise is for: the way back on the same steps leads nearer to the image.
    for steps in (4, 10, 100):
        assert error(steps, 1) < 0.8 * error(steps)


def test_implied_noise_of_forward_noising_is_the_noise(schedule: NoiseSchedule) -> None:
    x_0, noise = normal(2, 8, 4, 3, 3)
    x_t = schedule.add_noise(x_0, noise, TIMESTEPS)
    tau = implied_noise(x_t, x_0, *schedule.alpha_sigma(TIMESTEPS))
    assert torch.allclose(tau, noise, atol=1e-12)


def test_velocity_and_epsilon_networks_of_one_model_invert_alike(schedule: NoiseSchedule) -> None:
    velocity = NoiseSchedule(schedule.alphas_cumprod, "v_prediction")

    def converted(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        a, s = (per_sample(v, x) for v in schedule.alpha_sigma(t))
        eps = nonlinear(x, t, condition)
        v = a * eps - s * (x - s * eps) / a
        return velocity.to_epsilon(v, x, t)

    x_0, told = normal(8, 4, 3, 3), {"prompt": normal(8, seed=1)}
    one = renoise_invert(nonlinear, schedule, x_0, TIMESTEPS, told, steps=4)
    other = renoise_invert(converted, velocity, x_0, TIMESTEPS, told, steps=4)
    assert torch.allclose(one.latents, other.latents, atol=1e-10)


@pytest.mark.parametrize(
    ("steps", "levels", "mean", "extremes", "mean_nfe"),
    [
        (5, [1, 201, 401, 601, 801], 99.3, (-198, 199), 7.6),
        (10, [1, 101, 201, 301, 401, 501, 601, 701, 801, 901], 49.4, (-98, 99), 12.8),
    ],
)
def test_reference_code_levels(
    schedule: NoiseSchedule,
    steps: int,
    levels: list[int],
    mean: float,
    extremes: tuple[int, int],
    mean_nfe: float,
) -> None:
    timesteps = torch.arange(1000)
    walked, asked = reference_code_grid(timesteps, steps, schedule)
    ends = walked[:, -1]
    assert ends.unique().tolist() == levels
    distance = ends - timesteps
    assert round(distance.abs().double().mean().item(), 1) == mean
    assert (distance.min().item(), distance.max().item()) == extremes
    assert asked[0].tolist() == [1 - 1000 // steps, *levels[:-1]]

    network = Counted(lambda x, t: 0 * x)
    inverted = reference_code_invert(
        network, schedule, normal(1000, 1, 1, 1), timesteps, {}, steps=steps
    )
    assert round(inverted.nfe / 1000, 1) == mean_nfe
    assert network.asked[0].tolist() == [1 - 1000 // steps] * 1000
    # Nearest level at or above t, so never by accident what the exact inversion does. The walk
    # starts at abar of timestep 0, which is what `set_alpha_to_one: false` means.
    a, _ = schedule.alpha_sigma(ends)
    a = a / schedule.alphas_cumprod[0].sqrt()
    assert torch.allclose(inverted.latents, per_sample(a, inverted.latents) * normal(1000, 1, 1, 1))


def test_reference_code_scales_small_timesteps_badly_as_documented(
    schedule: NoiseSchedule,
) -> None:
    timesteps = torch.tensor([2, 50])
    a, s = schedule.alpha_sigma(timesteps)

    def tau(x_0: float, eps: float) -> list[float]:
        clean = torch.full((2, 1, 1, 1), x_0, dtype=torch.float64)
        x = reference_code_invert(
            lambda x, t, c: torch.full_like(x, eps), schedule, clean, timesteps, {}, steps=5
        ).latents
        return [round(v, 2) for v in implied_noise(x, clean, a, s).flatten().tolist()]

    assert tau(1, 0) == [-2.59, -0.49]
    assert tau(0, 1) == [9.34, 2.15]


def test_reference_code_is_not_the_exact_inversion(schedule: NoiseSchedule) -> None:
    """What it is, `test_reference_code` says."""
    x_0, told = normal(8, 4, 3, 3), normal(8, seed=1)
    fast = reference_code_invert(
        nonlinear, schedule, x_0, TIMESTEPS, {"prompt": told}, steps=5, renoise_steps=1
    )
    exact = renoise_invert(nonlinear, schedule, x_0, TIMESTEPS, {"prompt": told}, steps=5)
    gaps = (fast.latents - exact.latents).abs().amax(dim=(1, 2, 3))
    assert bool((gaps > 0.003).all())
