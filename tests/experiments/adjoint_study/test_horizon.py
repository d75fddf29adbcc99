"""Rows of the horizon: errors of a gradient, or why there is none."""

import numpy as np

from adjoint_study.fields import exact_gradient, PROBLEMS, weighted_sum
from adjoint_study.horizon import Gradients, horizon_cell, relative_l2


def test_relative_l2_is_over_all_arrays_together():
    # |(0, 3) - (4, 0)| over |(4, 0)|, where no array alone has that ratio.
    assert relative_l2((0.0, 3.0), (4.0, 0.0)) == 5 / 4
    # The square of 1e200 is beyond float64.
    assert relative_l2((0.0, 3e200), (4e200, 0.0)) == 5 / 4
    assert np.isnan(relative_l2((0.0, np.nan), (4.0, 0.0)))


def test_horizon_row_of_a_lost_gradient_says_which_solve_failed():
    problem = PROBLEMS["stiff"]
    make = lambda dtype: (problem.params(dtype), None)
    gradients = Gradients(make, lambda y1, _: weighted_sum(y1), max_steps=200)
    truth = exact_gradient(problem, 1.0)
    setting = "backsolve", "float32", 1e-3
    backward = horizon_cell(gradients, *setting, 1.0, truth)
    assert backward["failure"] == "the backward solve failed"
    assert backward["gradient_error"] is backward["reconstruction_error"] is None
    assert backward["nfe_forward"] > 0 and backward["nfe_backward"] > 0
    forward = horizon_cell(gradients, *setting, 50.0, truth)
    assert forward["failure"] == "the forward solve failed"


def test_horizon_row_has_the_error_of_a_gradient_that_is_right():
    problem = PROBLEMS["rotation"]
    make = lambda dtype: (problem.params(dtype), None)
    gradients = Gradients(make, lambda y1, _: weighted_sum(y1), max_steps=200)
    row = horizon_cell(
        gradients, "backsolve", "float64", 1e-6, 5.0, exact_gradient(problem, 5.0)
    )
    assert row["failure"] is None
    # Observed 6.3e-6 and 4.9e-6, a few tolerances.
    assert 1e-8 < row["gradient_error"] < 1e-4
    assert 1e-8 < row["reconstruction_error"] < 1e-4
