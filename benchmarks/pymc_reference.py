"""Fit BG/NBD and Gamma-Gamma with pymc-marketing, for `customer_value.py`, which runs it in an environment of its own.

Usage: python benchmarks/pymc_reference.py METHOD WEEKS < CUSTOMERS

CUSTOMERS is CSV with the columns x, t_x, T and zbar; METHOD is `map` or `mcmc`. The result is written as JSON.
"""

import json
import sys
import time

import pandas as pd
import pymc_marketing
from pymc_marketing import clv


def main() -> None:
    """Fit both models, and write parameters, expectations and seconds."""
    method, weeks = sys.argv[1], float(sys.argv[2])
    customers = pd.read_csv(sys.stdin)
    purchases = customers.rename(columns={"x": "frequency", "t_x": "recency"})[["frequency", "recency", "T"]]
    purchases.insert(0, "customer_id", range(len(purchases)))
    again = customers[customers["x"] > 0].reset_index(drop=True)
    spend = pd.DataFrame({"customer_id": again.index, "frequency": again["x"], "monetary_value": again["zbar"]})
    sampling = {"random_seed": 1, "progressbar": False} if method == "mcmc" else {"progressbar": False}
    found = {"version": pymc_marketing.__version__}
    models = (("purchases", clv.BetaGeoModel, purchases), ("spend", clv.GammaGammaModel, spend))
    for name, kind, data in models:
        start = time.perf_counter()
        model = kind(data=data)
        model.fit(method=method, **sampling)
        found[f"{name}_seconds"] = time.perf_counter() - start
        mean = model.idata.posterior.mean(("chain", "draw"))
        found[name] = {str(key): float(value) for key, value in mean.data_vars.items() if not value.dims}
        if name == "purchases":
            expected = model.expected_purchases(data, future_t=weeks)
        else:
            expected = model.expected_customer_spend(data)
        found[f"{name}_expected"] = expected.mean(("chain", "draw")).values.tolist()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
