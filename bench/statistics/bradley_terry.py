"""Strengths of methods from all paired comparisons, and how sharply each scorer tells them apart.

Judge k prefers player i to player j with log-odds lambda_k (theta_i - theta_j): Bradley & Terry
(1952) with one discrimination a judge (arXiv 2601.21817). With one judge it is Bradley-Terry
itself. A tie is half a win for either side.

Normalisation: the base has theta = 0, and the mean of lambda is 1. Multiplying all theta by c and
dividing all lambda by c changes no odds, so that this fixes the one free scale; a judge that
contradicts the others gets a negative lambda.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize, stats
from scipy.sparse import csgraph, csr_array
from scipy.special import expit, log_expit

from bench.lib.errors import BenchError
from bench.statistics.crossed import crossed_spread, shares
from bench.statistics.model import Design, Floats, outcomes

PSEUDO_WINS = 0.5
"""Wins that either side of each pair is given where the strengths would else be infinite."""
_GRADIENT = 1e-7
"""The search ends where the derivatives of the log-likelihood a comparison are no larger."""
_FLAT = 1e-8
"""A likelihood that curves so much less in one direction is flat there, up to rounding."""
_NEWTON_STEPS = 3
"""Then Newton's method, whose error is squared at each step, goes to the last digits."""


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Who beat whom, under which judge; ties are half wins."""

    wins: Floats
    """[judges, players, players]: how often the row's player beat the column's."""
    victories: Floats
    """[judges, train seeds, players, prompts]: wins of a player over all others."""
    games: Floats
    """[judges, train seeds, players, players]: comparisons of each pair."""


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """Bradley-Terry strengths of all players and discriminations of all judges."""

    strength: tuple[float, ...]
    """theta of each player, in log-odds under an average judge; 0 for the base."""
    discrimination: tuple[float, ...]
    """lambda of each judge; their mean is 1."""
    log_likelihood: float
    """Natural logarithm, of the comparisons as they are counted."""
    pseudo_wins: float
    """Wins added to either side of each pair; 0 unless a player won or lost all."""


@dataclass(frozen=True, kw_only=True)
class StrengthErrors:
    """Standard errors over distinct prompts and, from two on, train seeds."""

    strength: tuple[float, ...]
    """Of theta, so of the difference to the base; 0 for the base itself."""
    discrimination: tuple[float, ...]


def count(scores: Floats, design: Design) -> Comparisons:
    """Compare all players under all judges, paired by train seed, prompt and image seed.

    Args:
        scores: [judges, train seeds, players, prompts, images]; NaN for all images of a player
            that a judge may not rate, or that has not so many train seeds.
        design: of the prompts; each counts by its weight, and images of one prompt share its.

    Raises:
        BenchError: the shapes do not fit, or a player is rated in part.
    """
    judges, seeds, players, prompts, images = scores.shape
    if prompts != len(design.stratum):
        raise BenchError(f"scores of {prompts} prompts with a design of {len(design.stratum)}")
    rated: npt.NDArray[np.bool_] = np.isfinite(scores)
    present: npt.NDArray[np.bool_] = np.asarray(rated.all(axis=(3, 4)))
    if np.any(present != rated.any(axis=(3, 4))):
        raise BenchError("some scores of a method are not finite; score them again")
    # Weights of mean 1, so that counts stay counts.
    weight = np.repeat(shares(design) * prompts, images) / images
    wins = np.zeros((judges, players, players))
    victories = np.zeros((judges, seeds, players, prompts))
    games = np.zeros((judges, seeds, players, players))
    for k, s in np.ndindex(judges, seeds):
        here = np.flatnonzero(present[k, s])
        values = scores[k, s, here].reshape(len(here), prompts * images)
        # Beaten are as many as rank lower; a tie is half a rank.
        beaten = (stats.rankdata(values, axis=0) - 1) * weight
        victories[k, s, here] = beaten.reshape(len(here), prompts, images).sum(axis=2)
        games[np.ix_([k], [s], here, here)] = prompts * (1 - np.eye(len(here)))
        for i, row in enumerate(here[:-1]):
            # Both sides are summed, so that who never won has won exactly 0 times.
            ahead = outcomes(np.broadcast_to(values[i], values[i + 1 :].shape), values[i + 1 :])
            wins[k, row, here[i + 1 :]] += ahead @ weight
            wins[k, here[i + 1 :], row] += (1 - ahead) @ weight
    return Comparisons(wins=wins, victories=victories, games=games)


def fit(wins: Floats, base: int = 0) -> Strengths | None:
    """Maximise the likelihood of strengths and discriminations.

    Where a player won or lost against all the others under some judge, so that no finite strength
    is most likely (Ford 1957), each pair that met is given `PSEUDO_WINS` on either side.

    Args:
        wins: [judges, players, players], how often the row's player beat the column's; ties half.
            One judge gives plain Bradley-Terry.
        base: the player whose strength is 0.

    Returns:
        None where the search ends nowhere: the judges contradict each other about every order.

    Raises:
        BenchError: a judge compares nobody, or some players were never compared, even by way of
            others.
    """
    judges, players, _ = wins.shape
    met = np.asarray(wins + wins.transpose(0, 2, 1) > 0)
    if not met.any(axis=(1, 2)).all():
        raise BenchError("a scorer without any comparison has no discrimination")
    if _components(np.asarray(met.any(axis=0)), "weak") > 1:
        raise BenchError("some methods are compared with no other, so their strengths are unknown")
    finite = all(
        _components(won, "strong") == _components(won, "weak") for won in np.asarray(wins > 0)
    )
    added = 0.0 if finite else PSEUDO_WINS
    counted = wins + added * met
    free = _Model(counted.sum(axis=0)[None], base).maximum(np.zeros(players - 1))
    if free is not None and judges > 1:
        # Judges start alike.
        free = _Model(counted, base).maximum(np.concatenate([free, np.ones(judges - 1)]))
    if free is None:
        return None
    theta, lam = _Model(counted, base).parts(free)
    return Strengths(
        strength=tuple(theta.tolist()),
        discrimination=tuple(lam.tolist()),
        log_likelihood=_log_likelihood(wins, theta, lam),
        pseudo_wins=added,
    )


def standard_errors(
    fitted: Strengths, compared: Comparisons, design: Design, base: int = 0
) -> StrengthErrors | None:
    """Sandwich standard errors (Huber 1967; White 1982), without resampling.

    The likelihood counts comparisons as if each were drawn alone. The errors do not: what one
    prompt says, under all judges and in all pairs, is one draw, and so is what one train seed says.

    Args:
        fitted: strengths of `compared.wins`.
        compared: the comparisons.
        design: of the prompts.
        base: as in `fit`.

    Returns:
        None where there are no more distinct prompts than prompt sets, or the likelihood has no
        peak there: all methods are alike, or judges that compare no pair in common leave open who
        discriminates more.
    """
    theta, lam = np.array(fitted.strength), np.array(fitted.discrimination)
    weight = shares(design)
    expected = compared.games * expit(_log_odds(theta, lam))[:, None]
    # What each prompt's wins exceed their expectation by: the score of theta and of lambda.
    excess = compared.victories - expected.sum(axis=-1)[..., None] * weight
    of_theta = np.einsum("k,ksip->isp", lam, excess)
    of_lambda = np.einsum("i,ksip->ksp", theta, excess)
    score = np.concatenate([of_theta, of_lambda])
    met = compared.wins + compared.wins.transpose(0, 2, 1) > 0
    model = _Model(compared.wins + fitted.pseudo_wins * met, base)
    information = model.hessian(model.free(theta, lam)) * model.comparisons
    curvature = np.linalg.eigvalsh(information)
    if curvature[0] <= _FLAT * curvature[-1]:
        return None
    reach = model.jacobian @ np.linalg.solve(information, model.jacobian.T)
    influence = np.einsum("ab,bsp->asp", reach, score)
    # Pseudo wins leave a little that no prompt explains.
    influence -= influence.sum(axis=(1, 2), keepdims=True) * weight / influence.shape[1]
    spread = crossed_spread(influence, design)
    if spread is None:
        return None
    errors = np.sqrt(spread.variance)
    return StrengthErrors(
        strength=tuple(errors[: len(theta)].tolist()),
        discrimination=tuple(errors[len(theta) :].tolist()),
    )


def _components(graph: npt.NDArray[np.bool_], connection: str) -> int:
    number, _ = csgraph.connected_components(csr_array(graph), connection=connection)
    return int(number)


def _log_odds(theta: Floats, lam: Floats) -> Floats:
    """[judges, players, players]."""
    return np.asarray(lam[:, None, None] * (theta[:, None] - theta))


def _log_likelihood(wins: Floats, theta: Floats, lam: Floats) -> float:
    return float((wins * log_expit(_log_odds(theta, lam))).sum())


@dataclass(frozen=True)
class _Model:
    """Minus the log-likelihood a comparison, as a function of the free parameters.

    Free are the strengths of all but the base and the discriminations of all judges but the last,
    which makes their mean 1.
    """

    wins: Floats
    base: int

    @cached_property
    def origin(self) -> Floats:
        """Strengths and discriminations where all free parameters are 0."""
        judges, players, _ = self.wins.shape
        return np.concatenate([np.zeros(players + judges - 1), [judges]])

    @cached_property
    def jacobian(self) -> Floats:
        """[strengths and discriminations, free parameters]."""
        judges, players, _ = self.wins.shape
        strengths = np.delete(np.eye(players), self.base, axis=1)
        discriminations = np.vstack([np.eye(judges - 1), -np.ones((1, judges - 1))])
        return np.asarray(linalg.block_diag(strengths, discriminations))

    @cached_property
    def comparisons(self) -> float:
        return float(self.wins.sum())

    def parts(self, free: Floats) -> tuple[Floats, Floats]:
        """Strengths and discriminations."""
        both = self.origin + self.jacobian @ free
        return both[: self.wins.shape[1]], both[self.wins.shape[1] :]

    def free(self, theta: Floats, lam: Floats) -> Floats:
        return np.concatenate([np.delete(theta, self.base), lam[:-1]])

    def loss(self, free: Floats) -> float:
        return -_log_likelihood(self.wins, *self.parts(free)) / self.comparisons

    def gradient(self, free: Floats) -> Floats:
        theta, lam = self.parts(free)
        full = np.concatenate([lam @ self._excess(theta, lam), self._excess(theta, lam) @ theta])
        return np.asarray(-(self.jacobian.T @ full) / self.comparisons)

    def hessian(self, free: Floats) -> Floats:
        theta, lam = self.parts(free)
        chance = expit(_log_odds(theta, lam))
        games = self.wins + self.wins.transpose(0, 2, 1)
        variance = games * chance * (1 - chance)
        gap = theta[:, None] - theta
        squared = np.einsum("k,kij->ij", lam**2, variance)
        strengths = np.diag(squared.sum(axis=1)) - squared
        discriminations = np.diag((variance * gap**2).sum(axis=(1, 2)) / 2)
        mixed = lam[:, None] * (variance * gap).sum(axis=2) - self._excess(theta, lam)
        full = np.block([[strengths, mixed.T], [mixed, discriminations]])
        return np.asarray(self.jacobian.T @ full @ self.jacobian / self.comparisons)

    def _excess(self, theta: Floats, lam: Floats) -> Floats:
        """[judges, players]: wins above their expectation."""
        games = self.wins + self.wins.transpose(0, 2, 1)
        return np.asarray((self.wins - games * expit(_log_odds(theta, lam))).sum(axis=2))

    def maximum(self, start: Floats) -> Floats | None:
        """The most likely free parameters; None where none is found."""
        found = optimize.minimize(
            self.loss,
            start,
            jac=self.gradient,
            hess=self.hessian,
            method="trust-exact",
            options={"gtol": _GRADIENT},
        )
        if not found.success:
            return None
        free: Floats = found.x
        for _ in range(_NEWTON_STEPS):
            free = free - np.linalg.lstsq(self.hessian(free), self.gradient(free))[0]
        return free
