"""A run on two devices, in processes of their own."""

import pytest
from runs import metrics, Runner, TINY


@pytest.mark.slow
def test_run_on_two_devices_is_resumed_and_scored(tmp_path):
    run = Runner(tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    options = [*TINY, "--eval-batch-size", 120]
    assert "2 x cpu" in run(*options, "--epochs", 1, "--out", "parts").stdout
    run("--resume", "parts", "--epochs", 2)
    run(*options, "--epochs", 2, "--out", "whole")
    last, other = (metrics(tmp_path / name)[-1] for name in ("parts", "whole"))
    assert last["train_loss"] == other["train_loss"]
    score = f"({other['test_correct']}/360)"
    assert score in run("evaluate", "parts", "--quiet").stdout
    odd = run(*TINY, "--epochs", 1, "--batch-size", 31, "--out", "odd")
    assert "devices     1 of 2 used" in odd.stdout
