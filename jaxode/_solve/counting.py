"""A function's calls of another one, counted while it runs.

How often an implicit solver calls the field is up to its root finder, which tells
nobody. So a step is traced with calls that are marked, and its program is run operation
by operation with a number beside it that every marked call raises: through branches,
loops and the calls of other functions.
(https://docs.jax.dev/en/latest/jaxpr.html describes the programs.)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, Int, PyTree


_MARK = "counted_by_jaxode"


def marked(field: Callable[..., Any]) -> Callable[..., Any]:
    """The field, its calls marked.

    A Jacobian, which has the field as well, is one call, however many its columns.
    """
    return lambda t, y, args: field(t, _mark(y), args)


@jax.custom_jvp
def _mark(y: PyTree[Array]) -> PyTree[Array]:
    # An operation that a program keeps and a compiler drops.
    same = lambda y: jax.tree.map(lambda x: x * 1, y)
    same.__name__ = same.__qualname__ = _MARK
    return jax.jit(same)(y)


@_mark.defjvp
def _mark_jvp(primals, tangents):
    return _mark(*primals), tangents[0]


class CallCounter:
    """A function that also says how many marked calls it made; not to differentiate.

    Attributes:
        is_exact: Whether the program can be run so.
    """

    def __init__(self, function: Callable[..., PyTree], *inputs: PyTree):
        """Traces the function, with inputs like those that it will be called with."""
        self.program, arrays, self.rest = eqx.filter_make_jaxpr(function)(*inputs)
        self.treedef = jax.tree.structure(arrays)
        self.is_exact = _is_countable(self.program.jaxpr)

    def __call__(self, *inputs: PyTree) -> tuple[PyTree, Int[Array, ""]]:
        """What the function returns, and the number."""
        given = jax.tree.leaves(eqx.filter(inputs, eqx.is_array))
        results, calls = _run_closed(self.program, given, jnp.zeros((), jnp.int32))
        return eqx.combine(jax.tree.unflatten(self.treedef, results), self.rest), calls


def _run(
    program: Jaxpr, inputs: Sequence[Any], calls: Int[Array, ""]
) -> tuple[list[Any], Int[Array, ""]]:
    """The results of a program, and the calls with its own added to them."""
    known = dict(zip([*program.constvars, *program.invars], inputs, strict=True))

    def read(x):
        if isinstance(x, Literal):
            kind: Any = x.aval
            return jnp.asarray(x.val, kind.dtype)
        return known[x]

    for operation in _needed(program):
        given = [read(x) for x in operation.invars]
        if _makes_calls(operation):
            results, calls = _run_parts(operation, given, calls)
        else:
            calls = calls + 1 if _is_marked(operation) else calls
            # Alone, since how an operation is bound differs between versions of JAX.
            one = program.replace(
                constvars=[],
                invars=[x for x in operation.invars if not isinstance(x, Literal)],
                outvars=operation.outvars,
                eqns=[operation],
                effects=operation.effects,
            )
            results = eval_jaxpr(one, (), *[known[x] for x in one.invars])
        known.update(zip(operation.outvars, results, strict=True))
    return [read(x) for x in program.outvars], calls


def _run_parts(
    operation: Any, given: list[Any], calls: Int[Array, ""]
) -> tuple[Sequence[Any], Int[Array, ""]]:
    """An operation that calls programs with marked calls in them."""
    name, how = operation.primitive.name, operation.params
    if name == "cond":
        branches = [partial(_run_closed, part) for part in how["branches"]]
        return lax.switch(given[0], branches, given[1:], calls)
    if name == "while":
        of_asks = given[: how["cond_nconsts"]]
        of_turns = given[len(of_asks) :][: how["body_nconsts"]]
        start = given[len(of_asks) + len(of_turns) :]
        ask = lambda c: _run_closed(how["cond_jaxpr"], [*of_asks, *c[0]], c[1])[0][0]
        turn = lambda c: _run_closed(how["body_jaxpr"], [*of_turns, *c[0]], c[1])
        return lax.while_loop(ask, turn, (start, calls))
    if name == "scan":
        num_fixed, num_carried = how["num_consts"], how["num_carry"]
        fixed, carried = given[:num_fixed], given[num_fixed:][:num_carried]

        def step(carry, x):
            given = [*fixed, *carry[0], *x]
            results, calls = _run_closed(how["jaxpr"], given, carry[1])
            return (results[:num_carried], calls), results[num_carried:]

        (carried, calls), rest = lax.scan(
            step,
            (carried, calls),
            given[num_fixed + num_carried :],
            length=how["length"],
            reverse=how["reverse"],
        )
        return [*carried, *rest], calls
    return _run_closed(_called(operation), given, calls)


def _run_closed(
    part: Any, given: Sequence[Any], calls: Int[Array, ""]
) -> tuple[list[Any], Int[Array, ""]]:
    """`_run` for a program that may hold arrays of its own."""
    consts = getattr(part, "consts", ())
    return _run(getattr(part, "jaxpr", part), [*consts, *given], calls)


def _called(operation: Any) -> Any:
    """The program that an operation runs once on all its inputs, if it does."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        part = operation.params.get(key)
        program = getattr(part, "jaxpr", part)
        if program is not None and len(program.invars) == len(operation.invars):
            return part
    return None


def _is_countable(program: Jaxpr) -> bool:
    """Whether a count comes out of every operation with marked calls in it."""
    for operation in _needed(program):
        if not _makes_calls(operation):
            continue
        name, how = operation.primitive.name, operation.params
        if name == "cond":
            parts = how["branches"]
        elif name == "while" and not _has_calls(how["cond_jaxpr"].jaxpr):
            parts = [how["body_jaxpr"]]
        elif name == "scan":
            parts = [how["jaxpr"]]
        else:
            parts = [_called(operation)]
        if not all(p and _is_countable(getattr(p, "jaxpr", p)) for p in parts):
            return False
    return True


def _needed(program: Jaxpr) -> list[Any]:
    """The operations that results depend on: a compiler drops the others."""
    wanted = {x for x in program.outvars if not isinstance(x, Literal)}
    kept = []
    for operation in reversed(program.eqns):
        if operation.effects or not wanted.isdisjoint(operation.outvars):
            kept.append(operation)
            wanted |= {x for x in operation.invars if not isinstance(x, Literal)}
    return kept[::-1]


def _is_marked(operation: Any) -> bool:
    return operation.params.get("name") == _MARK


def _makes_calls(operation: Any) -> bool:
    # Lineax's holds the Jacobian's function for derivatives, and solves by a matrix.
    if operation.primitive.name == "linear_solve":
        return False
    for value in operation.params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            program = getattr(part, "jaxpr", part)
            if hasattr(program, "eqns") and _has_calls(program):
                return True
    return False


def _has_calls(program: Jaxpr) -> bool:
    return any(_is_marked(op) or _makes_calls(op) for op in program.eqns)
