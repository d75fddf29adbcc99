"""Scoring a run with some of its settings changed."""

import dataclasses
from pathlib import Path

from classifier.config import Config, EvaluateConfig
from classifier.evaluation import merge
from console.command_line import parse


def test_evaluation_keeps_what_is_not_asked_for():
    stored = Config(solver="rk4", fixed_steps=True, dt0=0.5, channels=2)
    assert merge(stored, EvaluateConfig(Path("run"))) == stored
    adaptive = merge(stored, EvaluateConfig(Path("run"), solver="tsit5", rtol=1e-3))
    assert (adaptive.solver, adaptive.rtol, adaptive.fixed_steps) == (
        "tsit5",
        1e-3,
        False,
    )
    assert (adaptive.atol, adaptive.channels) == (0.1, 2)
    fixed = parse(EvaluateConfig, ["run", "--fixed-steps", "--dt0", "0.1"], "evaluate")
    assert merge(Config(), fixed).fixed_steps
    plain = dataclasses.replace(stored, plain=True)
    assert merge(plain, EvaluateConfig(Path("run"))).plain
