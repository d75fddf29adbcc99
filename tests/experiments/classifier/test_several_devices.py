"""Runs on several devices and in several processes, simulated and over loopback."""

import importlib.util
import re

import jax
import pytest
from runs import assert_same_curve, metrics, processes, Runner, TINY

from classifier.checks import check
from classifier.config import Config
from console.command_line import InputError


# Neither two nor four divide the batches.
UNEVEN = [*TINY, "--batch-size", 31, "--eval-batch-size", 119]


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_run_does_not_depend_on_the_number_of_devices_or_processes(tmp_path):
    """Begun in two processes, gone on with on four devices, against one device."""
    run = Runner(tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    alone = run(*UNEVEN, "--epochs", 3, "--devices", 1, "--out", "alone").stdout
    assert "devices " not in alone
    with processes(tmp_path, *UNEVEN, "--epochs", 1, "--out", "parts") as started:
        for process in started:
            assert process.wait(300) == 0, process.stderr.read()
        first = started[0].stdout.read()
    assert "31 images on 2, 16 on each (1 row filled up)" in first
    assert "epoch 1/1" in first
    divided = run("--resume", "parts", "--epochs", 2).stdout
    assert "31 images on 4, 8 on each" in divided
    run("--resume", "parts", "--epochs", 3, "--devices", 1)
    assert_same_curve(metrics(tmp_path / "parts"), metrics(tmp_path / "alone"))
    score = re.search(r"\(\d+/360\)", run("evaluate", "parts", "--quiet").stdout)
    assert (
        score and int(score[0][1:-5]) == metrics(tmp_path / "parts")[-1]["test_correct"]
    )


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_run_in_four_processes_and_in_pieces_is_that_of_one(tmp_path):
    """31 images in two pieces of 16, each four rows in each process."""
    run = Runner(tmp_path)
    options = [*UNEVEN, "--epochs", 1, "--accumulate", 2, "--jacobian", 0.01]
    options += "--fixed-steps --dt0 0.5".split()
    if importlib.util.find_spec("orbax") is not None:
        options += ["--checkpoint-format", "orbax"]
    run(*options, "--devices", 1, "--out", "alone")
    with processes(tmp_path, *options, "--out", "four", number=4) as started:
        for process in started:
            assert process.wait(600) == 0, process.stderr.read()
        first = started[0].stdout.read()
    assert "31 images on 4, 8 on each, in 2 pieces (1 row filled up)" in first
    assert_same_curve(metrics(tmp_path / "four"), metrics(tmp_path / "alone"))
    run("--resume", "four")  # what four have saved, one reads


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"process_id": 0}, "--process-id is for several .* add --distributed"),
        (
            {"distributed": True, "num_processes": 2},
            "--coordinator-address and --process-id are missing: give all of",
        ),
        (
            {"coordinator_address": "host", "num_processes": 2, "process_id": 0},
            "--coordinator-address must be HOST:PORT, such as 127.0.0.1:1234; got host",
        ),
        (
            {"coordinator_address": "host:1", "num_processes": 2, "process_id": 2},
            r"--process-id must be from 0 to --num-processes - 1 \(1\); got 2",
        ),
        ({"devices": 0}, "--devices must be above 0; got 0"),
        ({"devices": 1025}, "--devices must be at most 1024; got 1025"),
    ],
)
def test_settings_of_processes_that_do_not_go_together_are_refused(settings, said):
    if "coordinator_address" in settings:
        settings = {"distributed": True, **settings}
    with pytest.raises(InputError, match=said):
        check(Config(**settings))
