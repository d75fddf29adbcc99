"""What a run shows: the line of an epoch, and the curves."""

import dataclasses

import jax.numpy as jnp
import pytest
from runs import record

import jaxode
from classifier.curves import draw_curves
from classifier.records import epoch_line, sums_on_host


def test_line_of_an_epoch_shows_what_was_skipped():
    line = epoch_line(record(2, skipped_steps=3, test_failed_solves=1), 10)
    for part in (
        "epoch  2/10",
        "digits",
        "0.5000",
        "test 97.50% (351/360)",
        "14.0 f",
    ):
        assert part in line
    for part in (
        "21.5 backward",
        "train 3.2 s",
        "test 0.12 s",
        "SKIPPED 3",
        "1 SOLVE",
    ):
        assert part in line
    assert "SKIPPED" not in epoch_line(record(2), 10)


def test_loss_that_is_not_finite_is_null():
    zeros = jaxode.training.Metrics.zeros()
    assert sums_on_host(zeros)["loss"] is None
    infinite = dataclasses.replace(
        zeros, loss_sum=jnp.asarray(jnp.inf), total=jnp.asarray(1, jnp.int32)
    )
    assert sums_on_host(infinite)["loss"] is None


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_are_drawn_with_gaps(tmp_path, epochs):
    history = [record(epoch) for epoch in range(1, epochs + 1)]
    history[-1]["train_loss"] = None
    draw_curves(history, "digits, backsolve", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]
