"""`mnist.py` with stretches of three batches: `python streamed.py ARGUMENTS`."""

import sys

import mnist
from classifier import streaming
from console.process import exit_code


if __name__ == "__main__":
    streaming.STRETCH_BYTES = 3 * 16 * 784
    sys.exit(exit_code(mnist.main, "mnist.py"))
