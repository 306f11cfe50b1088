"""What customers are expected to buy and spend: the models BG/NBD of purchases and Gamma-Gamma of spend.

Contains the likelihoods, the fits and the expectations, of arrays of customers. Which customers are fitted and scored
is decided in `segments.customer_value`. Purchases are days with a purchase.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, hyp2f1

from segmentation_pipeline.model.arrays import Array, round_significant

# Of more customers, a seeded sample of this size is fitted. The standard errors of the parameters are then about 2 %,
# below what the forecast of a quarter can show.
FITTED = 20_000
# Fewer customers with a second purchase day say too little about when customers stop buying.
MIN_REPEATING = 30
_STARTS = 3
# Bounds of the logarithms of the parameters. Where customers never stop, or all alike, a parameter goes to a bound.
_BOUND = 9.0
_STEP = 1e-5
# Standard errors to either side of a 95 % interval.
_WIDTH = 1.96


class CannotFitError(ValueError):
    """The customers cannot be fitted; the message is the reason."""


@dataclass(frozen=True)
class Parameters:
    """Parameters that maximise a likelihood.

    Attributes:
        values: The parameters.
        covariance: The covariance of their logarithms, row by row; 0 at a bound; empty if undetermined.
        log_likelihood: The logarithm of the likelihood of the customers that were fitted.
        customers: The number of those customers.
    """

    values: tuple[float, ...]
    covariance: tuple[float, ...]
    log_likelihood: float
    customers: int


def purchase_log_likelihood(parameters: Array, repeats: Array, last: Array, age: Array) -> Array:
    """Return the logarithm of each customer's likelihood under BG/NBD.

    Fader, Hardie & Lee (2005), "Counting your customers the easy way", equation 6.

    Args:
        parameters: r, alpha, a and b.
        repeats: Purchase days after the first, shape (n,).
        last: Days from the first to the last purchase day, shape (n,).
        age: Days from the first purchase day to as_of, shape (n,).
    """
    r, alpha, a, b = parameters
    together = gammaln(r + repeats) - gammaln(r) + r * np.log(alpha)
    together += gammaln(a + b) + gammaln(b + repeats) - gammaln(b) - gammaln(a + b + repeats)
    active = -(r + repeats) * np.log(alpha + age)
    stopped = np.log(a) - np.log(b + np.maximum(repeats, 1) - 1) - (r + repeats) * np.log(alpha + last)
    return np.asarray(together + np.logaddexp(active, np.where(repeats > 0, stopped, -np.inf)))


def purchase_gradient(parameters: Array, repeats: Array, last: Array, age: Array) -> Array:
    """Return the derivatives of `purchase_log_likelihood` by r, alpha, a and b, shape (4, n)."""
    r, alpha, a, b = parameters
    active = probability_active(parameters, repeats, last, age)
    stopped, total = 1 - active, digamma(a + b) - digamma(a + b + repeats)
    return np.array(
        [
            digamma(r + repeats)
            - digamma(r)
            + np.log(alpha)
            - active * np.log(alpha + age)
            - stopped * np.log(alpha + last),
            r / alpha - (r + repeats) * (active / (alpha + age) + stopped / (alpha + last)),
            total + stopped / a,
            total + digamma(b + repeats) - digamma(b) - stopped / (b + np.maximum(repeats, 1) - 1),
        ]
    )


def probability_active(parameters: Array, repeats: Array, last: Array, age: Array) -> Array:
    """Return the probability that each customer still buys; arguments as of `purchase_log_likelihood`.

    Without a repeat purchase it is 1: in BG/NBD a customer can stop only after a repeat purchase.
    """
    r, alpha, a, b = parameters
    odds = np.log(a) - np.log(b + np.maximum(repeats, 1) - 1) + (r + repeats) * np.log((alpha + age) / (alpha + last))
    return np.where(repeats > 0, 1 / (1 + np.exp(np.minimum(odds, 700))), 1.0)


def expected_purchases(parameters: Array, repeats: Array, last: Array, age: Array, days: float) -> Array:
    """Return the expected purchase days of each customer in the next days.

    Equation 10 of the same paper, after Euler's transformation of the hypergeometric function: its arguments no longer
    grow with the purchases of a customer, so that it does not overflow. Where a is so large that the transformed one
    does, the equation is used as it is.

    Args:
        parameters: r, alpha, a and b.
        repeats: Purchase days after the first, shape (n,).
        last: Days from the first to the last purchase day, shape (n,).
        age: Days from the first purchase day to as_of, shape (n,).
        days: The days that are forecast.
    """
    r, alpha, a, b = parameters
    if abs(a - 1) < 1e-6:
        # The limit is finite, and the expression is 0 / 0.
        a = 1 + 1e-6
    z, total = days / (alpha + age + days), a + b + repeats - 1
    with np.errstate(over="ignore", invalid="ignore"):
        stops = (1 - z) ** (a - 1) * hyp2f1(a + b - 1 - r, a - 1, total, z)
        plain = (1 - z) ** (r + repeats) * hyp2f1(r + repeats, b + repeats, total, z)
        expected = total / (a - 1) * (1 - np.where(np.isfinite(stops), stops, plain))
    return np.asarray(np.maximum(expected, 0) * probability_active(parameters, repeats, last, age))


def spend_log_likelihood(parameters: Array, purchases: Array, mean: Array) -> Array:
    """Return the logarithm of each customer's likelihood under the Gamma-Gamma model.

    Fader & Hardie (2013), "The Gamma-Gamma model of monetary value", equation 1a.

    Args:
        parameters: p, q and gamma.
        purchases: The purchases that are averaged, shape (n,).
        mean: The mean spend of these purchases, above 0, shape (n,).
    """
    p, q, gamma = parameters
    shape = p * purchases
    found = gammaln(shape + q) - gammaln(shape) - gammaln(q) + q * np.log(gamma) + (shape - 1) * np.log(mean)
    return np.asarray(found + shape * np.log(purchases) - (shape + q) * np.log(gamma + mean * purchases))


def spend_gradient(parameters: Array, purchases: Array, mean: Array) -> Array:
    """Return the derivatives of `spend_log_likelihood` by p, q and gamma, shape (3, n)."""
    p, q, gamma = parameters
    shape, total = p * purchases, gamma + mean * purchases
    both = digamma(shape + q)
    return np.array(
        [
            purchases * (both - digamma(shape) + np.log(mean * purchases / total)),
            both - digamma(q) + np.log(gamma / total),
            q / gamma - (shape + q) / total,
        ]
    )


def expected_spend(parameters: Array, purchases: Array, mean: Array) -> Array:
    """Return the expected spend of a purchase of each customer: equation 5 of the same note; needs q above 1."""
    p, q, gamma = parameters
    return np.asarray(p * (gamma + mean * purchases) / (p * purchases + q - 1))


def fit_purchases(
    repeats: Array, last: Array, age: Array, *, random_state: int, max_customers: int = FITTED
) -> Parameters:
    """Fit BG/NBD by maximum likelihood.

    Args:
        repeats: Purchase days after the first, shape (n,).
        last: Days from the first to the last purchase day, shape (n,).
        age: Days from the first purchase day to as_of, shape (n,).
        random_state: Seed of the starts, and of the sample of more than `max_customers` customers.
        max_customers: The most customers that are fitted.

    Raises:
        CannotFitError: Too few customers bought again, or no start converged.
    """
    rows = _sampled(np.column_stack([repeats, last, age]), random_state, max_customers)
    if (number := int((rows[:, 0] > 0).sum())) < MIN_REPEATING:
        raise CannotFitError(f"only {number} customers bought on a second day; {MIN_REPEATING} are needed")
    # Customers who are equal are one row with a weight.
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    columns = distinct.T
    middle = np.array([1.0, max(float(np.median(rows[:, 2])), 1.0), 1.0, 2.0])
    return _maximise(
        lambda values: float(counts @ purchase_log_likelihood(values, *columns)),
        lambda values: purchase_gradient(values, *columns) @ counts,
        middle,
        len(rows),
        random_state,
    )


def fit_spend(purchases: Array, mean: Array, *, random_state: int, max_customers: int = FITTED) -> Parameters:
    """Fit the Gamma-Gamma model by maximum likelihood, with q above 1, so that expectations are finite.

    Args:
        purchases: The purchases that are averaged, shape (n,).
        mean: The mean spend of these purchases, above 0, shape (n,).
        random_state: Seed of the starts, and of the sample of more than `max_customers` customers.
        max_customers: The most customers that are fitted.

    Raises:
        CannotFitError: There are too few customers, or no start converged.
    """
    rows = _sampled(np.column_stack([purchases, mean]), random_state, max_customers)
    if len(rows) < MIN_REPEATING:
        raise CannotFitError(f"only {len(rows)} customers spent on a second day; {MIN_REPEATING} are needed")
    columns = rows.T
    fitted = _maximise(
        lambda values: float(spend_log_likelihood(_with_finite_mean(values), *columns).sum()),
        lambda values: spend_gradient(_with_finite_mean(values), *columns).sum(axis=1),
        np.array([4.0, 2.0, max(float(np.median(mean)), 1e-6)]),
        len(rows),
        random_state,
    )
    values = _with_finite_mean(np.array(fitted.values))
    return Parameters(tuple(values.tolist()), fitted.covariance, fitted.log_likelihood, fitted.customers)


def standard_error(parameters: Parameters, expectation: Callable[[Array], Array], *, q: int | None = None) -> Array:
    """Return the standard error of the logarithm of an expectation, by the delta method, shape (n,).

    It is the noise of the parameters alone: how well the customers determine the expectation, not how far the spend of
    one customer will be from it. It is nan where the customers do not determine the parameters.

    Args:
        parameters: The parameters.
        expectation: Computes the expectation of each customer from values of the parameters.
        q: The place of the parameter that is fitted as its excess over 1.
    """
    values = np.array(parameters.values)
    middle = np.log(np.maximum(expectation(values), 1e-300))
    if not parameters.covariance:
        return np.full_like(middle, np.nan)
    gradient = []
    for place in range(len(values)):
        moved = values.copy()
        moved[place] += _STEP * (values[place] - 1 if place == q else values[place])
        gradient.append((np.log(np.maximum(expectation(moved), 1e-300)) - middle) / _STEP)
    slopes = np.array(gradient)
    covariance = np.array(parameters.covariance).reshape(len(values), len(values))
    return np.asarray(np.sqrt(np.maximum(np.einsum("in,ij,jn->n", slopes, covariance, slopes), 0)))


def around(expected: Array, error: Array) -> tuple[Array, Array]:
    """Return the ends of the 95 % interval of an expectation whose logarithm has a standard error."""
    return expected * np.exp(-_WIDTH * error), expected * np.exp(_WIDTH * error)


def _with_finite_mean(values: Array) -> Array:
    """Return p, q and gamma from the values that are fitted, of which the second is q - 1."""
    return np.asarray(values + np.array([0.0, 1.0, 0.0]))


def _sampled(rows: Array, random_state: int, size: int) -> Array:
    """Return at most so many rows, in a canonical order."""
    ordered = rows[np.lexsort(rows.T)]
    if len(ordered) <= size:
        return ordered
    chosen = np.random.RandomState(random_state).choice(len(ordered), size, replace=False)
    return np.asarray(ordered[np.sort(chosen)])


def _maximise(
    likelihood: Callable[[Array], float],
    gradient: Callable[[Array], Array],
    middle: Array,
    customers: int,
    random_state: int,
) -> Parameters:
    """Return the best of several starts around a middle; the parameters are positive."""
    from scipy.optimize import Bounds, minimize

    random, center, best = np.random.RandomState(random_state), np.log(middle), None
    bounds = Bounds(center - _BOUND, center + _BOUND)

    def missing(logs: Array) -> tuple[float, Array]:
        # Divided by the customers, so that the tolerance means the same for every shop.
        values = np.exp(logs)
        return -likelihood(values) / customers, -gradient(values) * values / customers

    for start in range(_STARTS):
        moved = center + (random.normal(0, 1, len(middle)) if start else 0)
        found: Any = minimize(missing, moved.tolist(), jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12)
        if np.isfinite(found.fun) and (best is None or found.fun < best.fun):
            best = found
    if best is None:
        raise CannotFitError("the likelihood has no maximum that could be found")
    covariance = _covariance(lambda logs: missing(logs)[1] * customers, best.x, np.abs(best.x - center) < _BOUND - 0.01)
    return Parameters(
        tuple(round_significant(np.exp(best.x)).tolist()),
        () if covariance is None else tuple(round_significant(covariance).ravel().tolist()),
        float(round_significant(-best.fun * customers)),
        customers,
    )


def _covariance(slopes: Callable[[Array], Array], at: Array, is_free: NDArray[np.bool_]) -> Array | None:
    """Return the inverse of the observed information of the logarithms; 0 for those that are not free.

    None where the information is not positive definite: the customers do not determine all parameters, as where hardly
    anyone stops, and no interval would be true.

    Args:
        slopes: Returns the derivatives of the negative logarithm of the likelihood.
        at: The logarithms of the parameters.
        is_free: Which parameters are not at a bound.
    """
    step, free = 1e-4, np.ix_(is_free, is_free)
    differences = [(slopes(at + move) - slopes(at - move)) / (2 * step) for move in step * np.eye(len(at))]
    information = np.array(differences)[free]
    information = (information + information.T) / 2
    found = np.linalg.eigvalsh(information)
    # Below this share, the sign is that of rounding errors.
    if not (found > 1e-7 * np.abs(found).max(initial=0)).all():
        return None
    covariance = np.zeros((len(at), len(at)))
    covariance[free] = np.linalg.inv(information)
    return covariance
