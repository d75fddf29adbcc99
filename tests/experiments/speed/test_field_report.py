"""What is written of the general problems: tables, ratios, JSON and a picture."""

import dataclasses

import numpy as np

from speed.field_report import (
    draw,
    FieldRow,
    markdown,
    ratios,
    read_report,
    write_report,
)


def row(problem: str, contestant: str, median_ms: float, error: float = 1e-3):
    return FieldRow(
        problem,
        f"{problem}, in full",
        contestant,
        median_ms=median_ms,
        fastest_ms=median_ms - 0.5,
        slowest_ms=median_ms + 2,
        rounds=3,
        first_call_s=median_ms / 2,
        calls=43,
        temporary_bytes=None if "torch" in contestant else 2048,
        loss=1.25,
        error_state=0.75,
        error_parameters=error,
    )


# One problem where all is well, one where not.
ROWS = [
    row("one", "jaxode", 2.0),
    row("one", "Diffrax", 4.0),
    row("one", "jax.experimental.ode", 3.0),
    row("one", "torchdiffeq odeint", 40.0),
    row("one", "torchdiffeq odeint_adjoint", 30.0),
    row("two", "jaxode", 10.0),
    row("two", "Diffrax", 5.0),
    row("two", "jax.experimental.ode", 1.0, error=0.7),
    row("two", "torchdiffeq odeint", 90.0),
    FieldRow("two", "two, in full", "torchdiffeq odeint_adjoint", "underflow in dt"),
]
THIRD = [
    row("three", "jaxode", 1.0),
    row("three", "torchdiffeq odeint", 8.0),
    row("three", "torchdiffeq odeint_adjoint", 20.0),
]


def test_ratios_leave_out_what_is_wrong_or_fails():
    found = ratios(ROWS, lambda row: row.median_ms)
    assert found == {
        "Diffrax": {"one": 2.0, "two": 0.5},
        "jax.experimental.ode": {"one": 1.5},
        "torchdiffeq odeint": {"one": 20.0, "two": 9.0},
        "torchdiffeq, the faster": {"one": 15.0, "two": 9.0},
        "torchdiffeq odeint_adjoint": {"one": 15.0},
    }
    found = ratios(THIRD, lambda row: row.median_ms)
    assert found["torchdiffeq, the faster"] == {"three": 8.0}
    wrong = [dataclasses.replace(ROWS[0], error_parameters=0.9), *ROWS[1:5]]
    assert ratios(wrong, lambda row: row.median_ms) == {}


def test_tables_mark_what_is_wrong_and_what_fails():
    text = markdown(ROWS)
    assert (
        "| two, in full | 10 (5.0) | 5 (2.5) | wrong: 1 (0.5) | 90 (45.0) | fails |"
    ) in text
    assert (
        "| one | jaxode | 2 [1.5 to 4] | 1.00 | 43 | 2 | 1.25 | 7.5e-01, wrong"
        " | 1.0e-03 |\n"
    ) in text
    assert "| two | torchdiffeq odeint_adjoint | fails: underflow in dt | " in text
    assert "| 7.0e-01, wrong |" in text
    assert "| ms, Diffrax, 2 problems | 1.00 | 0.50 (two) |" in text
    assert "| ms, torchdiffeq, the faster, 2 problems | 11.62 | 9.00 (two) |" in text
    assert "| first call, jax.experimental.ode, 1 problem | 1.50 | 1.50 (one) |" in text
    assert "first call, torchdiffeq" not in text


def test_every_row_of_the_tables_has_all_columns():
    tables = [lines.splitlines() for lines in markdown(ROWS).split("\n\n")]
    assert [len(table) for table in tables] == [4, 12, 9]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_report_that_was_written_is_read_again_with_its_picture(tmp_path):
    write_report(tmp_path, ROWS, {"jax": "0.10"})
    assert read_report(tmp_path) == (ROWS, {"jax": "0.10"})
    assert (tmp_path / "fields.png").read_bytes().startswith(b"\x89PNG")
    axes = draw(ROWS).axes[0]
    points = {
        line.get_label(): np.asarray(line.get_xdata()).tolist() for line in axes.lines
    }
    assert points["Diffrax"] == [2.0, 0.5]
    assert points["jax.experimental.ode"] == [1.5]
