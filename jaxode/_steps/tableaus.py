"""Explicit Runge-Kutta tableaus that Diffrax does not ship, checked on import."""

import diffrax
import numpy as np


def _explicit(a_lower: list[list[float]], b: list[float]) -> diffrax.ButcherTableau:
    """A tableau without an error estimate; `c` is the row sums, as consistency asks.

    `diffrax.ButcherTableau` checks shapes and sums when it is made. The conditions for
    order four (Hairer, Norsett & Wanner, Solving ODEs I, II.1, eq. 1.11) are checked
    here, so that a wrong digit fails on import and not in somebody's results.
    """
    rows = tuple(np.array(row) for row in a_lower)
    c = np.array([row.sum() for row in rows])
    weights = np.array(b)
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(rows, start=1):
        a[i, : len(row)] = row
    full_c = a.sum(axis=1)
    conditions = {
        1: weights,
        1 / 2: weights * full_c,
        1 / 3: weights * full_c**2,
        1 / 6: weights * (a @ full_c),
        1 / 4: weights * full_c**3,
        1 / 8: weights * full_c * (a @ full_c),
        1 / 12: weights * (a @ full_c**2),
        1 / 24: weights * (a @ (a @ full_c)),
    }
    for expected, terms in conditions.items():
        if not np.isclose(terms.sum(), expected, rtol=0, atol=1e-15):
            raise ValueError(f"order condition {expected}: got {terms.sum()}")
    return diffrax.ButcherTableau(
        c=c, b_sol=weights, b_error=np.zeros(len(b)), a_lower=rows
    )


# Kutta 1901; Hairer, Norsett & Wanner, Solving ODEs I, II.1, table 1.2, left.
CLASSICAL = _explicit(
    [[1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0]],
    [1 / 6, 1 / 3, 1 / 3, 1 / 6],
)

# Kutta 1901; same table, right. torchdiffeq's "rk4" is this one.
THREE_EIGHTHS = _explicit(
    [[1 / 3], [-1 / 3, 1.0], [1.0, -1.0, 1.0]],
    [1 / 8, 3 / 8, 3 / 8, 1 / 8],
)


def third_order_weights(tableau: diffrax.ButcherTableau) -> np.ndarray:
    """Polynomial weights of the continuous extension of a four-stage method.

    `b(x)` solves the four conditions of order three at every fraction `x` of the step,
    which four stages determine uniquely (Hairer, Norsett & Wanner, II.6, eq. 6.1).

    Returns:
        Coefficients `w[i, p]`, so that stage `i` has the weight `sum_p w[i, p] x**p`,
        with `p` from 1 to 3 in columns 0 to 2. At `x = 1` they are `b_sol`.
    """
    a = np.zeros((4, 4))
    for i, row in enumerate(tableau.a_lower, start=1):
        a[i, : len(row)] = row
    c = a.sum(axis=1)
    conditions = np.stack([np.ones(4), c, c**2, a @ c])
    targets = np.array([[1, 0, 0], [0, 1 / 2, 0], [0, 0, 1 / 3], [0, 0, 1 / 6]])
    return np.linalg.solve(conditions, targets)
