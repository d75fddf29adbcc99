"""The general problems: what they are, and who competes in them."""

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import benchmark
import jaxode
from console.command_line import InputError
from jaxode._solve.adjoints import ADJOINTS as LIBRARYS
from speed import serve
from speed.config import ADJOINTS, check, Config, problem_names
from speed.field_report import read_report
from speed.fields import gradient_errors, take_turns
from speed.jax_fields import (
    by_jaxode,
    contestants,
    count_calls,
    Operations,
    Prepared,
)
from speed.problems import PROBLEMS
from speed.vector_fields import advection, kuramoto


SPEED = Path(serve.__file__).parent


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_field_has_the_shapes_of_its_state(name):
    problem = PROBLEMS[name]()
    y0, p = jax.tree.map(jnp.asarray, (problem.y0, problem.parameters))
    arrays = [*jax.tree.leaves((y0, p)), problem.ts]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    assert problem.ts[0] == 0 and np.all(np.diff(problem.ts) > 0)
    dy = problem.field(Operations, jnp.float32(0.5), y0, p)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(dy) == shapes(y0)
    for leaf in jax.tree.leaves(dy):
        assert bool(jnp.all(jnp.isfinite(leaf))) and bool(jnp.any(leaf != 0))


def test_problems_are_many_and_of_all_kinds():
    found = [make() for make in PROBLEMS.values()]
    size = lambda problem: sum(y.size for y in jax.tree.leaves(problem.y0))
    assert len({problem.title for problem in found}) == len(found) >= 8
    assert min(map(size, found)) == 2 and max(map(size, found)) >= 1e5
    assert {1, 100} <= {len(problem.ts) - 1 for problem in found}
    rtols = {problem.rtol for problem in found}
    assert min(rtols) == 1e-7 and max(rtols) == 1e-2


def test_fields_are_what_their_names_say():
    # Equal to the sums written out, entry by entry.
    rng = np.random.default_rng(0)
    y, omega, coupling = rng.normal(size=4), rng.normal(size=4), rng.normal(size=(4, 4))
    dy = kuramoto(Operations, 0.0, jnp.asarray(y), [omega, jnp.asarray(coupling)])
    for i in range(4):
        pulls = [coupling[i, j] * np.sin(y[j] - y[i]) / 4 for j in range(4)]
        assert dy[i] == pytest.approx(omega[i] + sum(pulls), rel=1e-5)

    u, (x, v, k) = rng.normal(size=(3, 5)), (0.8, -0.5, 0.3)
    du = advection(Operations, 0.0, jnp.asarray(u), [np.array([x, v, k])])
    for i, j in np.ndindex(3, 5):
        up, down = u[(i + 1) % 3, j], u[i - 1, j]
        right, left = u[i, (j + 1) % 5], u[i, j - 1]
        blur = k * (up + down + left + right - 4 * u[i, j])
        drift = x * (up - down) / 2 + v * (right - left) / 2
        assert du[i, j] == pytest.approx(blur - drift, rel=1e-4, abs=1e-6)


def test_divergence_is_the_trace_of_the_jacobian():
    f = lambda x: jnp.sin(x) * jnp.roll(x, 1, 1) ** 2
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), jnp.float32)
    value, divergence = Operations.with_divergence(f, x)
    jacobians = jax.vmap(jax.jacobian(lambda row: f(row[None])[0]))(x)
    assert np.array_equal(value, f(x))
    traces = np.trace(jacobians, axis1=1, axis2=2)
    assert np.allclose(divergence, traces, rtol=1e-5, atol=1e-6)


def test_field_calls_are_those_that_the_solve_reports():
    problem = PROBLEMS["pendulum"]()

    def nfe(y0, p):
        field = lambda t, y, p: problem.field(Operations, t, y, p)
        rtol, atol = problem.rtol, problem.atol
        solution = jaxode.odeint(field, y0, problem.ts, p, rtol=rtol, atol=atol)
        return solution.stats.nfe

    assert count_calls(by_jaxode, problem) == int(
        jax.jit(nfe)(problem.y0, problem.parameters)
    )


def test_gradient_errors_are_those_of_state_and_parameters():
    exact = [np.array([3.0, 4.0]), np.array([[1.0], [2.0]]), np.array([2.0])]
    gradient = [np.array([3.0, 4.5]), np.array([[1.0], [2.0]]), np.array([1.4])]
    gradient = [array.astype(np.float32) for array in gradient]
    assert gradient_errors(gradient, exact, 1) == pytest.approx((0.1, 0.2))


def clock(takes: list[float], log: list[str], name: str) -> Prepared:
    """A contestant whose runs take as long as it says."""
    each = iter(takes)

    def seconds(repeats: int) -> float:
        log.append(f"{name} {repeats}")
        return next(each)

    return Prepared(1.0, 43, None, 0.5, [], None, seconds)


def test_contestants_take_turns_once_they_are_warm_without_those_that_failed():
    log: list[str] = []
    ready = {
        "a": clock([9.0, 0.25, 0.4, 0.1], log, "a"),
        "b": dataclasses.replace(clock([], log, "b"), failure="underflow in dt"),
        "c": clock([9.0, 0.5, 0.6, 0.7], log, "c"),
    }
    times = take_turns(ready, rounds=2, seconds=1.0)
    assert times == {"a": [0.4, 0.1], "c": [0.6, 0.7]}
    assert log == ["a 1", "c 1", "a 1", "c 1", "a 4", "c 2", "a 4", "c 2"]


def test_further_adjoints_are_those_of_the_library():
    assert tuple(LIBRARYS) == ADJOINTS


@pytest.mark.slow
def test_further_adjoints_are_further_rows():
    solves = contestants(["backsolve", "direct"])
    added = solves.keys() - contestants([]).keys()
    assert added == {"jaxode backsolve", "jaxode direct"}
    problem = PROBLEMS["pendulum"]()
    problem = dataclasses.replace(problem, rtol=1e-2, atol=1e-2)
    field, ts = (lambda t, y, p: -p * y), jnp.array([0.0, 1.0])
    gradients = {
        name: float(jax.grad(lambda p, s=solve: s(field, 1.0, ts, p, problem)[-1])(1.0))
        for name, solve in solves.items()
        if name.startswith("jaxode")
    }
    # By the steps the same, by a second solve another: both near -exp(-1).
    assert gradients["jaxode direct"] == pytest.approx(gradients["jaxode"], rel=1e-5)
    assert gradients["jaxode backsolve"] == pytest.approx(-np.exp(-1), rel=1e-2)
    assert gradients["jaxode backsolve"] != pytest.approx(gradients["jaxode"], rel=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(fields=True, problems="spiral,x"), "'x'; choose from spiral, flow"),
        (Config(fields=True, adjoints="x"), "'x'; choose from discrete, backsolve"),
        (Config(problems="spiral"), "--fields"),
        (Config(adjoints="direct"), "--fields"),
        (Config(fields=True, headline=True), "--headline"),
        (Config(fields=True, paper=True), "--paper"),
        (Config(headline=True, paper=True), "--headline and --paper"),
        (Config(fields=True, resume=Path("runs")), "--resume"),
    ],
)
def test_options_that_do_not_fit_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        check(config)


def test_problems_come_once_each_in_the_order_asked_for():
    names = problem_names(Config(fields=True, problems="flow, spiral,flow"))
    assert names == ["flow", "spiral"]
    assert problem_names(Config(fields=True)) == list(PROBLEMS)


def test_unknown_problem_is_exit_code_2_in_one_line():
    command = [sys.executable, benchmark.__file__, "--fields", "--problems", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "lorenz96" in done.stderr


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("serve", set()),
        ("vector_fields", set()),
        ("problems", set()),
        ("torch_peer", {"torch", "torchdiffeq"}),
        ("torch_fields", {"torch", "torchdiffeq"}),
    ],
)
def test_module_runs_under_the_python_that_has_pytorch(module, more):
    found = set()
    for node in ast.walk(ast.parse((SPEED / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            found |= {node.module}
            if node.module == "speed":
                found |= {f"speed.{alias.name}" for alias in node.names}
    shared = {"serve", "vector_fields", "problems", "torch_peer"}
    allowed = {"speed", "numpy"} | {f"speed.{name}" for name in shared} | more
    roots = {
        name for name in found if name.split(".")[0] not in sys.stdlib_module_names
    }
    assert roots <= allowed


@pytest.mark.slow
def test_command_measures_each_contestant_of_a_problem(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "")
    out = tmp_path / "out"
    options = ["--problems", "pendulum", "--rounds", "2", "--seconds", "0.001"]
    assert benchmark.main(["--fields", *options, "--out", str(out)]) == out
    rows, about = read_report(out)
    assert [r.contestant for r in rows] == ["jaxode", "Diffrax", "jax.experimental.ode"]
    assert len({round(r.loss or 0, 1) for r in rows}) == 1
    for r in rows:
        assert r.failure is None and r.rounds == 2
        assert r.is_right and (r.error_state or 0) > 1e-6
        # Warm, a run takes less than compiling it did.
        assert 0 < (r.median_ms or 0) < 1000 * (r.first_call_s or 0) / 5
        assert (r.calls or 0) > 6 and (r.temporary_bytes or 0) > 0
    assert about["jaxode"] == jaxode.__version__
    assert (out / "fields.md").read_text() in capsys.readouterr().out
    assert json.loads((out / "fields.json").read_text())["rows"][0]["calls"] > 6


@pytest.mark.torch
@pytest.mark.parametrize("name", list(PROBLEMS))
def test_pytorch_has_the_same_field(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchdiffeq")
    from speed.torch_fields import Field

    problem = PROBLEMS[name]()
    is_tuple = isinstance(problem.y0, tuple)
    arrays = problem.y0 if is_tuple else (problem.y0,)
    y0 = tuple(torch.tensor(y) for y in arrays)
    theirs = Field(problem)(torch.tensor(0.5), y0 if is_tuple else y0[0])
    theirs = theirs if is_tuple else (theirs,)
    p = [jnp.asarray(x) for x in problem.parameters]
    y0 = jax.tree.map(jnp.asarray, problem.y0)
    ours = jax.tree.leaves(problem.field(Operations, jnp.float32(0.5), y0, p))
    for a, b in zip(theirs, ours, strict=True):
        own = np.asarray(b)
        assert np.max(np.abs(a.detach().numpy() - own)) < 1e-5 * np.max(np.abs(own))
