"""The fields whose solution, and so every gradient, is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from adjoint_study.fields import exact_gradient, PROBLEMS


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_closed_form_is_the_solution_of_its_field(name, x64):
    field, y0 = PROBLEMS[name].params(np.float64)
    # The first is within the transient of the stiff field.
    ends = 0.013, 1.7
    solved = solve_ivp(
        lambda t, y: np.asarray(field(t, jnp.asarray(y), None)),
        (0.0, ends[-1]),
        np.asarray(y0),
        method="LSODA",
        t_eval=ends,
        rtol=1e-10,
        atol=1e-12,
    )
    for end, expected in zip(ends, solved.y.T, strict=True):
        actual = field.exact(y0, end)
        # Observed at most 1.5e-9, of the expanding field.
        np.testing.assert_allclose(actual, expected, rtol=1e-7)


def test_exact_gradient_of_the_decay_is_that_of_its_exponential():
    rate, y0 = np.array([0.1, 0.2, 0.3]), np.array([1.0, -0.7, 0.4])
    weights, decayed = 1 + np.sin(np.arange(3)), np.exp(-5 * rate)
    field, by_y0 = exact_gradient(PROBLEMS["decay"], 5.0)
    # Rounding of float64: equal in all but the last digit.
    np.testing.assert_allclose(by_y0, weights * decayed, rtol=1e-14)
    np.testing.assert_allclose(field.rate, -5 * weights * y0 * decayed, rtol=1e-14)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_exact_gradient_at_the_longest_horizon_fits_into_float32(name):
    gradient = exact_gradient(PROBLEMS[name], 50.0)
    sizes = [np.max(np.abs(leaf)) for leaf in jax.tree.leaves(gradient)]
    limits = np.finfo(np.float32)
    assert max(sizes) < limits.max and max(sizes) > limits.tiny
