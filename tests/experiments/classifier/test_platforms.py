"""What the environment says of JAX: a platform that is not there, double precision."""

import json

import pytest
from runs import first_line, metrics, Runner, TINY, train


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_platform_that_is_not_there_is_told_of_in_a_line(tmp_path, platform):
    run = Runner(tmp_path, JAX_PLATFORMS=platform)
    errors = run(*TINY, "--out", "run", code=2).stderr
    last = errors.splitlines()[-1]
    assert f"JAX finds no device under JAX_PLATFORMS='{platform}'" in last
    assert last.endswith("Unset it, or set JAX_PLATFORMS=cpu.")
    assert not (tmp_path / "run").exists()


def test_run_begun_in_double_precision_goes_on_in_it(tmp_path):
    run, folder = Runner(tmp_path, JAX_ENABLE_X64="1"), tmp_path / "run"
    run(*TINY, "--epochs", 1, "--out", folder)
    assert json.loads((folder / "config.json").read_text())["x64"] is True
    begun = first_line(folder)["leaves"]
    # Where nothing asks for it.
    train("--resume", folder, "--epochs", 2)
    assert first_line(folder)["leaves"] == begun
    right = metrics(folder)[-1]["test_correct"]
    assert f"({right}/360)" in train("evaluate", folder, "--quiet")
