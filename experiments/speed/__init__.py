"""jaxode, plain Diffrax and PyTorch against the clock: `benchmark.py`."""
