"""BG/NBD and Gamma-Gamma reproduce published fits, and numbers worked out by hand."""

import csv
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segmentation_pipeline.model import customer_value
from segmentation_pipeline.model.customer_value import (
    CannotFitError,
    Parameters,
    expected_purchases,
    expected_spend,
    fit_purchases,
    fit_spend,
    probability_active,
    purchase_gradient,
    purchase_log_likelihood,
    spend_gradient,
    spend_log_likelihood,
    standard_error,
)

Array = NDArray[np.float64]
# The parameters that Fader, Hardie & Lee (2005) publish for the CDNOW sample; the days there are weeks.
PUBLISHED = np.array([0.243, 4.414, 0.793, 2.426])
pytestmark = pytest.mark.filterwarnings("error")


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


@pytest.fixture(scope="module")
def cdnow() -> dict[str, Array]:
    """Return the sample of 2,357 customers of CDNOW, which a package ships as a file; the package is not imported."""
    spec = importlib.util.find_spec("lifetimes")
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "cdnow_customers_summary_with_transactions.csv"
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    return {name: floats(*(float(row[name]) for row in rows)) for name in ("x", "t_x", "T", "zbar")}


@pytest.fixture(scope="module")
def fitted(cdnow: dict[str, Array]) -> Parameters:
    return fit_purchases(cdnow["x"], cdnow["t_x"], cdnow["T"], random_state=1)


def test_purchases_of_cdnow_have_the_published_parameters(fitted: Parameters) -> None:
    """Fader, Hardie & Lee (2005), table 2."""
    assert fitted.values == pytest.approx(PUBLISHED, abs=0.001)
    assert fitted.log_likelihood == pytest.approx(-9582.4, abs=0.05)
    assert fitted.customers == 2357


def test_neither_the_order_of_the_customers_nor_the_seed_decides(cdnow: dict[str, Array]) -> None:
    columns = [cdnow[name][:400] for name in ("x", "t_x", "T")]
    first, other = fit_purchases(*columns, random_state=1), np.random.default_rng(1).permutation(400)
    assert fit_purchases(*(column[other] for column in columns), random_state=1) == first
    assert fit_purchases(*columns, random_state=7).values == pytest.approx(first.values, rel=1e-2)


def test_spend_of_cdnow_has_the_published_parameters(cdnow: dict[str, Array]) -> None:
    """Fader & Hardie (2013), whose sheet stops a little before the maximum: 15.44 for 15.45."""
    again = cdnow["x"] > 0
    found = fit_spend(cdnow["x"][again], cdnow["zbar"][again], random_state=1)
    assert found.values == pytest.approx((6.25, 3.74, 15.44), abs=0.01)
    assert found.customers == 946


def test_expectation_of_the_published_example() -> None:
    """Fader & Hardie's sheet: x = 2, t_x = 30.43, T = 38.86, and 39 weeks ahead: 1.226."""
    assert expected_purchases(PUBLISHED, floats(2), floats(30.43), floats(38.86), 39) == pytest.approx(1.226, abs=5e-4)


def test_likelihood_and_probability_by_hand() -> None:
    """With r = alpha = a = b = 1.

    Without a repeat purchase in a day: 1 / (1 + 1). With one after 1 of 3 days: B(1, 2) / B(1, 1) = 1/2, times
    1 / 4² for still active and 1 / 2² for stopped.
    """
    ones = np.ones(4)
    found = np.exp(purchase_log_likelihood(ones, floats(0, 1), floats(0, 1), floats(1, 3)))
    assert found == pytest.approx([1 / 2, (1 / 16 + 1 / 4) / 2], abs=1e-12)
    assert probability_active(ones, floats(0, 1), floats(0, 1), floats(1, 3)) == pytest.approx([1, 1 / 5], abs=1e-12)


def test_spend_by_hand() -> None:
    """p (gamma + 2 · 30) / (2 p + q - 1) = 2 · 70 / 6; the mean of a customer with many purchases is its own."""
    parameters = floats(2, 3, 10)
    assert expected_spend(parameters, floats(2), floats(30)) == pytest.approx(140 / 6)
    assert expected_spend(parameters, floats(1e9), floats(30)) == pytest.approx(30)
    # Of one purchase with p = q = gamma = 1 the density is 1 / (1 + z)².
    assert np.exp(spend_log_likelihood(np.ones(3), floats(1), floats(3))) == pytest.approx(1 / 16)


@pytest.mark.parametrize("a", [0.999, 1.0, 1.001, 0.3, 2.5, 5000.0])
@pytest.mark.parametrize("r", [0.05, 1.0, 9.0])
def test_expectation_is_the_mean_of_simulated_purchases(a: float, r: float) -> None:
    """The next days of a new customer: every purchase comes after an exponential time, and may be the last."""
    random, number, days, b = np.random.default_rng(3), 40_000, 50.0, 1.5 * a
    rates, stops = random.gamma(r, 1 / 20, number), random.beta(a, b, number)
    bought, time, active = np.zeros(number), np.zeros(number), np.ones(number, bool)
    while active.any():
        time[active] += random.exponential(1, active.sum()) / np.maximum(rates[active], 1e-12)
        active &= time < days
        bought[active] += 1
        active &= random.random(number) > stops
    found = expected_purchases(floats(r, 20, a, b), floats(0), floats(0), floats(0), days)
    assert found == pytest.approx(bought.mean(), abs=5 * bought.std() / number**0.5)


def test_many_purchases_do_not_overflow() -> None:
    repeats, last = floats(300, 5000, 0), floats(700, 720, 0)
    found = expected_purchases(PUBLISHED, repeats, last, floats(700, 730, 3000), 365)
    assert np.isfinite(found).all()
    # A customer who bought on 300 of 700 days until today goes on so, but for the chance to stop.
    assert 100 < found[0] < 365 * 300 / 700
    assert found[2] < found[0]


def test_standard_error_is_that_of_parameters_drawn_from_their_distribution(
    cdnow: dict[str, Array], fitted: Parameters
) -> None:
    history = floats(2, 0), floats(30.43, 0), floats(38.86, 38)
    error = standard_error(fitted, lambda at: expected_purchases(at, *history, 39.0))
    covariance = np.array(fitted.covariance).reshape(4, 4)
    drawn = np.random.default_rng(1).multivariate_normal(np.log(fitted.values), covariance, 3000)
    spread = np.log([expected_purchases(np.exp(one), *history, 39.0) for one in drawn]).std(axis=0)
    assert error == pytest.approx(spread, rel=0.08)
    # A quarter of the customers leaves twice the uncertainty.
    part = np.arange(2357) % 4 == 0
    fewer = fit_purchases(cdnow["x"][part], cdnow["t_x"][part], cdnow["T"][part], random_state=1)
    assert standard_error(fewer, lambda at: expected_purchases(at, *history, 39.0)) == pytest.approx(2 * error, rel=0.4)


def test_sample_of_the_customers_gives_similar_parameters(cdnow: dict[str, Array], fitted: Parameters) -> None:
    sample = fit_purchases(cdnow["x"], cdnow["t_x"], cdnow["T"], random_state=1, max_customers=1500)
    assert sample.customers == 1500
    assert np.log(sample.values) == pytest.approx(np.log(fitted.values), abs=0.5)


@pytest.mark.parametrize(
    ("likelihood", "gradient", "parameters", "columns"),
    [
        (purchase_log_likelihood, purchase_gradient, (0.2, 4.4, 0.8, 2.4), ([0, 1, 7], [0, 3, 30], [9, 38, 31])),
        (spend_log_likelihood, spend_gradient, (6.2, 3.7, 15.4), ([1, 2, 7], [3, 30, 250])),
    ],
)
def test_gradient_is_the_slope_of_the_likelihood(
    likelihood: Callable[..., Array],
    gradient: Callable[..., Array],
    parameters: tuple[float, ...],
    columns: tuple[list[float], ...],
) -> None:
    at, arrays, step = floats(*parameters), [floats(*column) for column in columns], 1e-5
    moves = step * np.eye(len(at))
    slopes = [(likelihood(at + move, *arrays) - likelihood(at - move, *arrays)) / (2 * step) for move in moves]
    assert gradient(at, *arrays) == pytest.approx(np.array(slopes), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("number", [0, 1, 29])
def test_too_few_repeating_customers_are_a_reason(number: int) -> None:
    repeats = np.repeat([1.0, 0.0], [number, 200])
    with pytest.raises(CannotFitError, match=f"only {number} customers bought on a second day; 30 are needed"):
        fit_purchases(repeats, repeats * 5, np.full(len(repeats), 90.0), random_state=1)
    with pytest.raises(CannotFitError, match=f"only {number} customers spent"):
        fit_spend(np.full(number, 2.0), np.full(number, 9.0), random_state=1)


def test_customers_who_are_all_alike_are_fitted_within_bounds() -> None:
    """Nobody stops and nobody differs: parameters go to a bound, and the forecast is the rate that all have."""
    same = np.ones(100)
    fitted = fit_purchases(9 * same, 90 * same, 90 * same, random_state=1)
    found = expected_purchases(np.array(fitted.values), floats(9), floats(90), floats(90), 30)
    assert found == pytest.approx(3, rel=0.15)
    spend = fit_spend(10 * same, 25 * same, random_state=1)
    assert expected_spend(np.array(spend.values), floats(10), floats(25)) == pytest.approx(25, rel=0.05)


def test_parameters_that_the_customers_do_not_determine_have_no_interval() -> None:
    """The first likelihood is flat in a parameter, the second a saddle; the third has the variances 1/2 and 1/8."""
    at, free = np.zeros(2), np.ones(2, bool)
    for curvatures in ([2, 0], [2, -2]):
        assert customer_value._covariance(partial(np.multiply, curvatures), at, free) is None
    found = customer_value._covariance(lambda logs: np.array([2, 8]) * logs, at, free)
    assert found == pytest.approx(np.diag([0.5, 0.125]), abs=1e-6)
    undetermined = Parameters((0.2, 4.0, 0.8, 2.4), (), -1.0, 100)
    assert np.isnan(standard_error(undetermined, lambda values: np.full(3, values[0]))).all()
