"""What the tests of the experiments share."""

import os

import pytest


@pytest.fixture(autouse=True)
def _process_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command sets for its process would reach every test after this one.

    It sets nothing that the user has set.
    """
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setenv("NPROC", os.environ.get("NPROC") or str(os.cpu_count()))
