"""The documentation's examples run as readers run them, and say what is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import QUICK_FLAGS


DOCS = Path(__file__).resolve().parent.parent / "docs"
EXAMPLES = DOCS / "examples"
LONGEST = {
    "mnist.py": 120,
    "pendulum.py": 60,
    "compare.py": 60,
    "flow.py": 135,
    "bouncing_ball.py": 100,
    "lotka_volterra.py": 100,
    "nested_spheres.py": 105,
    "spiral.py": 125,
    "hamiltonian.py": 145,
    "latent_ode.py": 225,
}


def run_script(path: Path, *arguments: str, cwd: Path, **environment: str) -> str:
    """Returns what a script prints; its warnings are errors.

    Args:
        path: The script.
        *arguments: Its command line.
        cwd: Folder to run it in, which takes what it writes.
        **environment: Variables that it is given.
    """
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(path), *arguments],
        cwd=cwd,
        env=os.environ
        | {"JAXODE_CACHE_DIR": str(cwd), "MPLBACKEND": "Agg"}
        | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_every_example_is_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LONGEST)


@pytest.mark.parametrize("name", LONGEST)
def test_example_is_read_in_one_sitting(name: str):
    lines = (EXAMPLES / name).read_text("utf-8").splitlines()
    assert len(lines) <= LONGEST[name]


@pytest.mark.parametrize("name", LONGEST)
def test_example_uses_public_names_only(name: str):
    text = (EXAMPLES / name).read_text("utf-8")
    packages = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    ours = {"jax", "jaxode", "diffrax", "equinox", "optax", "numpy"}
    ours |= {"matplotlib", "scipy", "sklearn"}  # pictures and peers
    assert packages - sys.stdlib_module_names <= ours
    assert re.findall(r"\b(?:jaxode|eqx|diffrax)\._\w+|\bfrom jaxode", text) == []


def test_figure_of_the_readme_is_drawn_from_the_pages(tmp_path: Path):
    run_script(DOCS / "draw_costs.py", "costs.png", cwd=tmp_path)
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_pendulum_prints_gradients_that_are_right(tmp_path: Path):
    printed = run_script(EXAMPLES / "pendulum.py", cwd=tmp_path, XLA_FLAGS=QUICK_FLAGS)
    found = re.findall(r"^  (by .+?)  .* off by (\S+)$", printed, re.MULTILINE)
    names = ["by initial state", "by gravity", "by length", "by time"]
    assert [name.strip() for name, _ in found] == 2 * names
    # Tolerance 1e-10; observed at most 5e-9, of the differences by the initial state.
    assert max(float(error) for _, error in found) < 1e-7
    assert printed.startswith("backsolve\n") and "\ncheckpoint\n" in printed


@pytest.mark.slow
def test_price_on_the_paths_of_a_flow_saves_calls(tmp_path: Path):
    printed = run_script(EXAMPLES / "flow.py", cwd=tmp_path)
    lines = re.findall(r"-log p (\S+), (\d+) calls, (\d+) back", printed)
    fits, calls, _ = zip(*(map(float, line) for line in lines), strict=True)
    # Observed 1.878, 1.875, 1.923; a normal distribution has 3.5.
    assert max(fits) < 2.1 and fits[1] < fits[0] + 0.03
    # Observed 44, 38 and 32.
    assert calls[0] > calls[1] > calls[2]
    fitted = dict(re.findall(r" (flow|kernels|mixture|true) (\d\.\d+)", printed))
    # Observed 1.802 and 1.679; kernels 1.746, a mixture 1.718.
    assert float(fitted["true"]) < float(fitted["flow"]) < 1.87
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_mnist_learns_the_digits(tmp_path: Path):
    printed = run_script(EXAMPLES / "mnist.py", cwd=tmp_path)
    assert printed.startswith("digits: 1,437 images, 10,564 parameters\n")
    losses = [float(loss) for loss in re.findall(r"loss (\S+)$", printed, re.MULTILINE)]
    assert len(losses) == 3 and losses[0] > losses[1] > losses[2]
    [(accuracy, correct)] = re.findall(r"set: (\S+)% \((\d+)/360\)", printed)
    assert float(accuracy) == round(100 * int(correct) / 360, 2)
    # 94.7 to 96.9 % with one to twice the rate and 3 to 5 epochs.
    assert float(accuracy) > 93


@pytest.mark.slow
def test_compare_prints_a_table_and_writes_a_picture(tmp_path: Path):
    printed = run_script(
        EXAMPLES / "compare.py",
        "costs.png",
        "1e-2",
        cwd=tmp_path,
        XLA_FLAGS=QUICK_FLAGS,
    )
    head, _, *rows = printed.split("\n\n")[0].splitlines()
    assert head.split()[:3] == ["adjoint", "solver", "rtol"]
    error_at = head.index("gradient error")
    errors = {row.split()[0]: float(row[error_at:].split()[0]) for row in rows}
    assert {"backsolve", "checkpoint", "direct"} <= errors.keys()
    # The tolerance is 1e-2; observed 0.0024 to 0.0055.
    assert min(errors.values()) > 0 and max(errors.values()) < 0.03
    assert "Errors are against Dopri5 in float64" in printed
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_bouncing_ball_learns_what_least_squares_finds(tmp_path: Path):
    printed = run_script(EXAMPLES / "bouncing_ball.py", cwd=tmp_path)
    rows = re.findall(r"^\w+ +\S+ +(\S+) +(\S+) \+- (\S+)$", printed, re.MULTILINE)
    assert len(rows) == 3
    # Observed equal to the digits printed, where the deviation is 20 to 500 of them.
    assert all(abs(float(a) - float(b)) < 0.1 * float(c) for a, b, c in rows)
    assert (tmp_path / "bouncing_ball.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_spiral_is_learned_as_by_plain_diffrax_and_as_well_as_published(tmp_path: Path):
    printed = run_script(EXAMPLES / "spiral.py", cwd=tmp_path)
    rows = re.findall(r"^ +(\d+)((?: +[\d.e+-]+){4})$", printed, re.MULTILINE)
    steps, found = zip(*rows, strict=True)
    assert steps == ("100", "300", "500")
    # Observed 5e-7 after 100 steps: rounding, grown in Adam where a gradient is tiny.
    assert float(found[0].split()[3]) < 1e-4
    # Observed 0.024; SciML's page has 0.0276 to 0.0596.
    assert float(found[2].split()[1]) < 0.06
    assert (tmp_path / "spiral.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_hamiltonian_keeps_the_energy_that_a_plain_network_loses(tmp_path: Path):
    printed = run_script(EXAMPLES / "hamiltonian.py", cwd=tmp_path)
    rows = re.findall(r"^to (\d+) +(\S+) +(\S+) +(\S+)$", printed, re.MULTILINE)
    (_, _, early, _), (_, plain, late, _) = [map(float, row) for row in rows]
    # Observed 5.4e-4 at both, and 0.066 for the plain one; it forgets nothing.
    assert late < 1.5 * early < 5e-3 < plain / 5
    assert (tmp_path / "hamiltonian.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_latent_ode_goes_on_better_than_a_recurrent_network(tmp_path: Path):
    printed = run_script(EXAMPLES / "latent_ode.py", cwd=tmp_path)
    rows = re.findall(r"^(.+?) +([\d.]+) +([\d.]+|-) +([\d.]+)$", printed, re.MULTILINE)
    (_, seen, _, _), (_, after, peer, known), (_, later, _, _) = rows
    # Observed 0.109 and 0.168, and 0.066 with the shape known; seen 0.086, later 0.109.
    assert float(known) < float(after) < float(peer) < 0.25
    assert float(seen) < 0.16 and float(later) < 0.2
    assert (tmp_path / "latent_ode.png").read_bytes().startswith(b"\x89PNG")
