"""What a command sets for XLA:CPU: flags, threads and devices."""

import os
import subprocess
import sys

import jax
import pytest
from runs import Runner, TINY

from console.xla_cpu import cpu_devices, set_xla_cpu_flags, use_one_thread_if_small


def test_flags_for_xla_are_set_unless_the_user_has_set_some(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    set_xla_cpu_flags()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=somewhere"
    monkeypatch.delenv("XLA_FLAGS")
    set_xla_cpu_flags()
    whole_loops = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold"
    assert f"{whole_loops}=0" in os.environ["XLA_FLAGS"].split()


def test_a_small_state_gets_one_thread_unless_the_user_has_set_some(monkeypatch):
    def threads(batch, channels):
        use_one_thread_if_small(batch, channels)
        return os.environ.get("PJRT_NPROC")

    monkeypatch.setenv("PJRT_NPROC", "")  # so that what is set below is taken back
    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setenv("NPROC", "2")
    assert threads(16, 6) is None
    monkeypatch.delenv("NPROC")
    assert threads(64, 6) is threads(29, 5) is None
    assert threads(24, 6) == "1"
    monkeypatch.setenv("PJRT_NPROC", "3")
    assert threads(16, 6) == "3"


CUT_CONVOLUTION = """
import jax, jax.numpy as jnp
from jaxode.nn.kernels.conv import convolve
program = jax.jit(lambda x, w: convolve(x, w, batch=16))
compiled = program.lower(jnp.zeros((6, 28, 448)), jnp.zeros((6, 6, 3, 3))).compile()
print("outer_dimension_partitions" in compiled.as_text())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="one core",
)
@pytest.mark.parametrize(("threads", "is_cut"), [(None, "True"), ("1", "False")])
def test_with_one_thread_xla_does_not_cut_convolutions(monkeypatch, threads, is_cut):
    monkeypatch.delenv("NPROC")
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    settings = {} if threads is None else {"PJRT_NPROC": threads}
    done = subprocess.run(
        [sys.executable, "-c", CUT_CONVOLUTION],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == is_cut, done.stderr


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="JAX before 0.9 is left with one device"
)
def test_a_cpu_is_divided_while_each_device_has_sixteen_images(monkeypatch):
    monkeypatch.setenv("NPROC", "4")
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    images = [1, 16, 31, 32, 48, 64, 1000]
    assert [*map(cpu_devices, images)] == [1, 1, 1, 2, 3, 4, 4]
    # Who asks for one thread leaves the other cores to something else.
    monkeypatch.setenv("PJRT_NPROC", "1")
    assert cpu_devices(1000) == 1


@pytest.mark.slow
def test_devices_asked_for_are_made_of_a_cpu(tmp_path):
    run = Runner(tmp_path)
    given = run(*TINY, "--epochs", 1, "--out", "given", "--devices", 3, code=2)
    assert "XLA_FLAGS is set" in given.stderr and "count=3" in given.stderr
    del run.environment["XLA_FLAGS"]
    made = run(*TINY, "--epochs", 1, "--out", "made", "--devices", 3).stdout
    assert "32 images on 3, 11 on each (1 row filled up)" in made
