"""Multistep solvers of the probability flow, as tables of coefficients: DPM-Solver++(2M) and UniPC.

With alpha = sqrt(a), sigma = sqrt(1 - a), lambda = log(alpha / sigma), primes at the next timestep visited, m_i the
clean estimate at timestep i, h = lambda' - lambda and r = (lambda_(i-1) - lambda_i) / h, which is negative:

    (1) x' = (sigma' / sigma) x + c m_i,   c = alpha' (1 - e^-h)         first order: DDIM
    (2) x' = (1) + c (m_(i-1) - m_i) / (2 r)                             second order: DPM-Solver++(2M); UniP-2, B_2(h)
    (3) x  = (1) of the step before, from its x, + c (rho_1 (m_(i-2) - m_(i-1)) / r + rho_2 (m_i - m_(i-1)))
                                                                         correction of x that precedes (2): UniC-2

In (3), c, r and h are those of the step before, and rho solves the order conditions of the UniPC paper (eq. 5); after a
step of first order rho_1 = 0, rho_2 = 1/2. The second order needs a step before it; the last step is of first order for
UniPC, and for DPM-Solver++ if there are fewer than 15 or it ends without noise, as in diffusers. Each modality has its
own grid of lambda, whatever its timestep adjustment is.

Sources: Lu et al. 2022 (arXiv 2211.01095), algorithm 2; Zhao et al. 2023 (arXiv 2302.04867), algorithms 5 to 8.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from con360av_jax.diffusion.schedule import Trajectory

Multistep = Literal["dpmpp_2m", "unipc"]
FEW_STEPS = 15
"""Number of steps below which the last step of DPM-Solver++ is of first order."""


class Coefficients(NamedTuple):
    """Coefficients of every step, float32; each combination is linear."""

    corrected: Float[np.ndarray, "step 5"]
    """Factors of x, of the corrected x before, and of the clean estimates of this step and of the two before."""
    following: Float[np.ndarray, "step 3"]
    """Factors of the corrected x, and of the clean estimates of this step and of the one before."""


class History(NamedTuple):
    """Memory of the steps before: the corrected x, and the last two clean estimates."""

    x: Array
    estimate: Array
    earlier: Array


def coefficients(solver: Multistep, path: Trajectory) -> Coefficients:
    """Coefficients of all steps of one modality."""
    steps = len(path.alpha_bar)
    a = np.append(path.alpha_bar, path.previous_alpha_bar[-1]).astype(np.float64)
    alpha, sigma = np.sqrt(a), np.sqrt(1 - a)
    with np.errstate(divide="ignore"):
        log_snr = np.log(alpha) - np.log(sigma)
    corrected, following = np.zeros((steps, 5)), np.zeros((steps, 3))
    corrected[:, 0] = 1
    second = [_second_order(solver, number, log_snr) for number in range(steps)]
    for number in range(steps):
        here, ahead = number, number + 1
        h = log_snr[ahead] - log_snr[here]
        shrunk, grown = sigma[ahead] / sigma[here], -alpha[ahead] * np.expm1(-h)
        following[number, :2] = shrunk, grown
        if second[number]:
            r = (log_snr[number - 1] - log_snr[here]) / h
            following[number, 1:] += np.array([-1, 1]) * grown / (2 * r)
        if solver == "unipc" and ahead < steps:
            corrected[ahead] = _corrector(second[number], shrunk, grown, log_snr[number - 1 : number + 2])
    return Coefficients(corrected.astype(np.float32), following.astype(np.float32))


def advanced(x: Array, estimate: Array, history: History, now: Coefficients) -> tuple[Array, History]:
    """The next x of one modality and what to remember, from the clean estimate at x; `now` has one step's rows."""
    terms = (x, history.x, estimate, history.estimate, history.earlier)
    corrected = _combined(now.corrected, terms)
    following = _combined(now.following, (corrected, estimate, history.estimate))
    return following, History(x=corrected, estimate=estimate, earlier=history.estimate)


def _combined(factors: Float[np.ndarray, "term"], terms: Sequence[Array]) -> Array:
    return reduce(jnp.add, (factors[number] * term for number, term in enumerate(terms)))


def _second_order(solver: Multistep, number: int, log_snr: Float[np.ndarray, "step_and_end"]) -> bool:
    """Whether step `number` is of second order; timesteps that coincide allow the first only."""
    steps = len(log_snr) - 1
    ends = number == steps - 1 and (solver == "unipc" or steps < FEW_STEPS or not np.isfinite(log_snr[-1]))
    return number > 0 and not ends and bool(np.all(np.diff(log_snr[number - 1 : number + 2]) > 0))


def _corrector(
    second: bool, shrunk: float, grown: float, log_snr: Float[np.ndarray, "three"]
) -> Float[np.ndarray, "5"]:
    """Row `Coefficients.corrected` of the step after one with factors `shrunk` and `grown` of (1)."""
    found = np.array([0, shrunk, 0, grown, 0])
    if not second:
        return found + grown * np.array([0, 0, 0.5, -0.5, 0])
    before, here, ahead = log_snr
    h = ahead - here
    r = (before - here) / h
    # phi_(k+1)(-h) / B(h) of the order conditions, with phi_1 = B.
    first = np.expm1(-h) / -h - 1
    conditions = np.array([first, 2 * (first / -h - 0.5)]) / np.expm1(-h)
    rho = np.linalg.solve(np.array([[1, 1], [r, 1]]), conditions)
    return found + grown * np.array([0, 0, rho[1], -rho[0] / r - rho[1], rho[0] / r])
