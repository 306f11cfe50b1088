"""The array type of this package, and the rounding of results.

Contains what the numeric modules share. Sums differ in the last bits between machines and numbers of threads; results
are rounded so that those bits reach no table.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def round_significant(values: Any) -> Array:
    """Round to 12 significant digits, elementwise; a scalar gives a 0-dimensional array."""
    array = np.asarray(values, dtype=np.float64)
    # By text, so that the result is the number that is printed. np.vectorize takes twice as long for few values.
    return np.array([float(f"{value:.12g}") for value in array.ravel().tolist()]).reshape(array.shape)


def round_decimals(values: Any) -> Array:
    """Round to 12 decimals, for metrics of the order of 1: a difference of 0 must not come out as slightly less."""
    return np.asarray(np.round(values, 12) + 0.0)


def sorted_finite(values: Array) -> Array:
    """Return the values in ascending order.

    Raises:
        ValueError: A value is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    return np.sort(values)
