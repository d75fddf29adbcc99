"""Whether XLA could compute a function's result anew inside each of its readers."""

from typing import Any

from jax.extend.core import Jaxpr, Literal, Var

from .noinline import is_apart


# JAX's operations whose results XLA:CPU writes to memory, instead of fusing them on.
_WRITTEN = frozenset(
    """
    approx_top_k cholesky cond conv_general_dilated custom_linear_solve dot_general eigh
    eig fft ffi_call geqrf householder_product lu psum ragged_dot_general random_bits
    scan scatter scatter-add sort svd threefry2x32 top_k triangular_solve tridiagonal
    while
    """.split()
)


def fuses_through(program: Jaxpr, inputs: list[bool]) -> bool:
    """Whether some result depends on an input through operations that XLA fuses alone.

    A chain of such functions, each a reader of the ones before, is one expression to
    XLA, which it computes many times over (see `noinline.py`). A matrix product or a
    convolution on the way cuts the chain.

    Args:
        program: The function.
        inputs: Which of its inputs are meant.
    """
    return any(_reached(program, inputs))


def _reached(program: Jaxpr, inputs: list[bool]) -> list[bool]:
    """Which results are reached from the inputs meant."""
    reached: set[Var] = {
        var for var, meant in zip(program.invars, inputs, strict=True) if meant
    }
    is_reached = lambda x: not isinstance(x, Literal) and x in reached
    for operation in program.eqns:
        given = [is_reached(x) for x in operation.invars]
        if (
            not any(given)
            or operation.primitive.name in _WRITTEN
            or is_apart(operation)
        ):
            continue
        out = [True] * len(operation.outvars)
        part = _called(operation, len(given))
        if part is not None:
            out = _reached(part, given)
        reached |= {var for var, yes in zip(operation.outvars, out, strict=True) if yes}
    return [is_reached(x) for x in program.outvars]


def _called(operation: Any, num_inputs: int) -> Jaxpr | None:
    """The function that an operation calls with all its inputs, if it does."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        part = operation.params.get(name)
        part = getattr(part, "jaxpr", part)
        if part is not None and len(part.invars) == num_inputs:
            return part
    return None
