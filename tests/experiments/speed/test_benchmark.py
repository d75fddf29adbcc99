"""The benchmark: turns of the contestants, tables, and the processes they have."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode
from classifier.memory import Memory
from speed.cases import Case, cases, Row
from speed.config import Config
from speed.contestants import Inputs, Jaxode
from speed.report import markdown, read_report, write_report
from speed.run import compete, expected_seconds


CASE = Case("checkpoint", 6, 16, 0.1)
INPUTS = Inputs({}, np.zeros((16, 28, 28, 1), np.uint8), np.zeros(16), Path())


def row(case: Case, contestant: str, median_ms: float) -> Row:
    times = {"fastest_ms": median_ms - 1, "slowest_ms": median_ms + 2}
    return Row(
        case,
        contestant,
        case.batch,
        median_ms,
        **times,
        calls_per_solve=27,
        rounds=5,
    )


class Clock:
    """A contestant whose runs take as long as it says."""

    def __init__(self, name: str, takes: list[float], log: list[str]):
        self.name = name
        self._takes = iter(takes)
        self._log = log

    def prepare(self, case, inputs):
        return 14.0

    def seconds(self, case, repeats):
        self._log.append(f"{self.name} {repeats}")
        return next(self._takes)

    def forget(self, case):
        pass


def test_fast_contestants_take_turns_and_slow_ones_are_timed_once():
    log: list[str] = []
    fast = Clock("fast", [0.25, 0.4, 0.1, 0.2], log)
    other = Clock("other", [0.5, 0.5, 0.6, 0.7], log)
    slow = Clock("slow", [6.0], log)
    config = Config(rounds=3, seconds=1.0, slow=5.0)
    rows = list(compete(CASE, [fast, slow, other], INPUTS, config))
    # The first run of each says how often it fits into the seconds of a round.
    turns = ["fast 4", "other 2"] * 3
    assert log == ["fast 1", "slow 1", "other 1", *turns]
    found = [(r.contestant, r.median_ms, r.fastest_ms, r.rounds) for r in rows]
    assert found == [
        ("fast", pytest.approx(200), pytest.approx(100), 3),
        ("slow", 6000, 6000, 1),
        ("other", 600, 500, 3),
    ]


def test_what_a_run_will_take_follows_from_the_largest_smaller_batch():
    at = lambda **changes: dataclasses.replace(CASE, **changes)
    rows = [
        row(at(batch=128), "peer", 2560.0),
        row(at(batch=16), "peer", 16.0),
        row(at(batch=128, channels=64), "peer", 1e6),
        row(at(batch=128, tolerance=0.01), "peer", 1e6),
        row(at(batch=128, task="test"), "peer", 1e6),
        row(at(batch=128), "other", 1e6),
    ]
    assert expected_seconds("peer", at(batch=512), 512, rows) == pytest.approx(10.24)
    assert expected_seconds("new", at(batch=512), 512, rows) == 0


def test_table_shows_ratios_calls_and_who_was_left_out():
    wide = dataclasses.replace(CASE, channels=64)
    rows = [row(CASE, "jaxode", 10), row(CASE, "peer", 25), row(wide, "jaxode", 40)]
    lines = markdown(rows, []).splitlines()
    assert lines[0].endswith(
        "| jaxode, ms (calls) | peer, ms (calls) | peer / jaxode |"
    )
    assert lines[2] == (
        "| checkpoint | 6 | 16 | 0.1 | 10.0 [9.0 to 12.0] (27) | "
        "25.0 [24.0 to 27.0] (27) | 2.50 |"
    )
    assert lines[3].endswith(
        "| 64 | 16 | 0.1 | 40.0 [39.0 to 42.0] (27) | left out |  |"
    )


def test_report_that_was_written_is_read_again_with_its_picture(tmp_path):
    rows = [row(case, "jaxode", 10.5) for case in cases(headline=True)]
    rows.append(row(CASE, "plain Diffrax", 99.5))
    memory = [Memory("backsolve", n, 1000 * n, 100) for n in (1, 2)]
    write_report(tmp_path, rows, {"jax": "0.10"}, memory)
    assert read_report(tmp_path) == (rows, {"jax": "0.10"})
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert "| backsolve | 10.0 | 20.0 |" in (tmp_path / "benchmark.md").read_text()


def test_grid_has_every_batch_at_every_width():
    grid = cases(headline=False)
    assert len(set(grid)) == len(grid)
    shapes = {(c.task, c.channels, c.batch) for c in grid if c.tolerance == 0.1}
    for task in ("backsolve", "discrete", "test"):
        for channels in (2, 6, 16, 64):
            assert {(task, channels, batch) for batch in (16, 128, 512)} <= shapes


@pytest.mark.slow
@pytest.mark.parametrize("task", ["backsolve", "test"])
def test_jaxode_is_timed_in_a_process_that_ends_with_its_case(tmp_path, task):
    case = Case(task, 2, 8, 0.1)
    digits = jaxode.datasets.load("digits")
    images, labels = digits.test_images[:24], digits.test_labels[:24]
    model = jaxode.nn.ODENet(2, key=jax.random.key(3))
    inputs = Inputs(jaxode.nn.to_torch(model), images, labels, tmp_path)
    contestant = Jaxode()
    calls = contestant.prepare(case, inputs)
    process = contestant.running[case].process
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    assert contestant.seconds(case, 2) > 0
    contestant.forget(case)
    assert process.poll() == 0
    if task == "test":
        metrics = jaxode.training.evaluate(model, images, labels, batch_size=8)
        assert calls == pytest.approx(float(metrics.nfe_forward / metrics.batches))
    else:
        optimiser = optax.sgd(0.0)
        model = model.with_solve(adjoint=task)
        state = jaxode.training.TrainState.create(model, optimiser)
        first = images[:8], labels[:8]
        _, metrics = jaxode.training.train_step(state, *first, optimiser=optimiser)
        assert calls == float(metrics.nfe_forward + metrics.nfe_backward)
