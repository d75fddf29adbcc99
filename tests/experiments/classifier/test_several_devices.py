"""Runs on several devices and in several processes, simulated and over loopback."""

import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest
from runs import metrics, Runner, TINY

import mnist
from classifier.checks import check
from classifier.config import Config
from console.command_line import InputError


# Neither two nor four divide the batches.
UNEVEN = [*TINY, "--batch-size", 31, "--eval-batch-size", 119]


def assert_same_curve(actual: list[dict], expected: list[dict]) -> None:
    """The same numbers but for the order in which single precision adds up."""
    for one, other in zip(actual, expected, strict=True):
        for name in ("train_loss", "test_loss"):
            # Observed 1e-6: the parts of a batch are added up in another order.
            assert one[name] == pytest.approx(other[name], rel=1e-4)
        for name in ("nfe_forward", "nfe_backward", "test_nfe", "rejected_steps"):
            assert one[name] == other[name]
        assert one["test_total"] == 360


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
    run(*options, "--devices", 1, "--out", "alone")
    with processes(tmp_path, *options, "--out", "four", count=4) as started:
        for process in started:
            assert process.wait(600) == 0, process.stderr.read()
        first = started[0].stdout.read()
    assert "31 images on 4, 8 on each, in 2 pieces (1 row filled up)" in first
    assert_same_curve(metrics(tmp_path / "four"), metrics(tmp_path / "alone"))


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_process_ends_with_a_line_when_another_one_is_killed(tmp_path):
    options = [*UNEVEN, "--epochs", 5000, "--out", "run"]
    with processes(tmp_path, *options) as started:
        for line in started[0].stdout:
            if line.startswith("epoch    2/"):
                break
        started[1].kill()
        killed = time.monotonic()
        code = started[0].wait(60)
        # Observed under 1 s: it was about to add something up with the other one.
        assert time.monotonic() - killed < 60
        said = started[0].stderr.read()
    # JAX ends it itself where it is the first to see (jax 0.12, on a busy machine).
    if code == -signal.SIGABRT:
        assert "distributed service" in said
    else:
        assert code == 2 and "another process has ended" in said and "--resume" in said
    assert len(metrics(tmp_path / "run")) >= 2


@contextmanager
def processes(
    folder: Path, *options: object, count: int = 2, script: str = mnist.__file__
) -> Iterator[list[Any]]:
    """Processes of one run over loopback; whatever is left of them is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # One thread each, and one device.
    run = Runner(folder, XLA_FLAGS="--xla_force_host_platform_device_count=1")
    together = ["--distributed", "--coordinator-address", address]
    together += ["--num-processes", str(count)]
    started = [
        run.start(*options, *together, "--process-id", number, script=script)
        for number in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


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
    ],
)
def test_settings_of_processes_that_do_not_go_together_are_refused(settings, said):
    if "coordinator_address" in settings:
        settings = {"distributed": True, **settings}
    with pytest.raises(InputError, match=said):
        check(Config(**settings))
