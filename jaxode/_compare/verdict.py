"""What the cells say, in words."""

from collections.abc import Sequence

from .measurement import Measurement, Reference


def verdict(cells: Sequence[Measurement], reference: Reference) -> str:
    """Compares the adjoints where they all worked, loosest and tightest tolerance."""
    lines = []
    groups: dict[tuple[str, float], list[Measurement]] = {}
    for cell in cells:
        groups.setdefault((cell.solver, cell.rtol), []).append(cell)
    for solver in dict.fromkeys(cell.solver for cell in cells):
        own = [key for key in groups if key[0] == solver]
        worked = [key for key in own if not any(c.failure for c in groups[key])]
        shown = dict.fromkeys(worked[:1] + worked[-1:])
        lines += [_sentence(groups[key]) for key in shown]
    failed = sum(cell.failure is not None for cell in cells)
    if failed:
        lines.append(f"{failed} of {len(cells)} cells failed; each says why.")
    lines.append(_about(reference))
    return "\n".join(lines)


def _sentence(group: list[Measurement]) -> str:
    by_name = {cell.adjoint: cell for cell in group}
    exact = ("direct", "checkpoint", "discrete")
    base = next((by_name[name] for name in exact if name in by_name), group[0])
    others = [_against(cell, base) for cell in group if cell is not base]
    where = f"At rtol {base.rtol:g} with {_named(base.solver)}"
    return f"{where}: " + "; ".join([*others, _alone(base)]) + "."


def _named(solver: str) -> str:
    return "the solver as given" if solver == "as given" else solver


def _against(cell: Measurement, base: Measurement) -> str:
    parts = []
    if cell.seconds and base.seconds:
        parts.append(_pace(cell.seconds / base.seconds) + f" {base.adjoint}")
    if cell.temporary_bytes is not None and base.temporary_bytes:
        share = cell.temporary_bytes / base.temporary_bytes
        parts.append(f"needs {_percent(share)} of its memory")
    return f"{cell.adjoint} " + ", ".join(parts + _errors(cell))


def _pace(ratio: float) -> str:
    if f"{max(ratio, 1 / ratio):.2g}" == "1":
        return "takes as long as"
    if ratio > 1:
        return f"is {ratio:.2g} times slower than"
    return f"is {1 / ratio:.2g} times faster than"


def _alone(cell: Measurement) -> str:
    return f"{cell.adjoint} " + ", ".join(_errors(cell) or ["is what they are held to"])


def _errors(cell: Measurement) -> list[str]:
    parts = []
    if cell.gradient_error is not None:
        text = f"has a gradient that is off by {_percent(cell.gradient_error)}"
        if cell.consistency:
            text += f" ({_percent(cell.consistency)} by the adjoint alone)"
        parts.append(text)
    if cell.reconstruction_error is not None:
        parts.append(
            f"gets back to y0 within {_percent(cell.reconstruction_error)} of it"
        )
    return parts


def _percent(fraction: float) -> str:
    percent = 100 * fraction
    return f"{percent:.0f} %" if percent >= 100 else f"{percent:.2g} %"


def _about(reference: Reference) -> str:
    if reference.failure is not None:
        return (
            f"There is no reference gradient ({reference.solver} at rtol "
            f"{reference.rtol:g}: {reference.failure}), so no gradient errors; pass "
            "reference_rtol=..., reference_solver=... or reference_max_steps=..."
        )
    assert reference.error is not None
    return (
        f"Errors are against {reference.solver} in float64 at rtol {reference.rtol:g} "
        f"({reference.steps} steps), which is off by at most about "
        f"{_percent(reference.error)} itself."
    )
