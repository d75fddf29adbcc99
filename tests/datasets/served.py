"""A data set of 40 images in the four files, and a server of them on loopback."""

import gzip
import hashlib
import http.server
import time
from pathlib import Path

import numpy as np

from jaxode import datasets
from jaxode.datasets import Split
from jaxode.datasets.source import File, Source, SOURCES


# How long a stalled server says nothing: far longer than a busy machine takes to react.
PAUSE_SECONDS = 20.0

NAMES = tuple(file.name for file in SOURCES["mnist"].files)


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes(), mtime=0)


def make_split(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    return Split(images, rng.integers(0, 10, count, dtype=np.int32))


TRAIN, TEST = make_split(30, 0), make_split(10, 1)
CONTENTS = dict(
    zip(
        NAMES,
        [
            idx_bytes(array)
            for split in (TRAIN, TEST)
            for array in (split.images[..., 0], split.labels.astype(np.uint8))
        ],
        strict=True,
    )
)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENTS well or badly, and keeps the names that were asked for."""

    daemon_threads = True
    behaviour = "well"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requested: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        assert isinstance(self.server, Server)
        name = self.path.removeprefix("/")
        self.server.requested.append(name)
        behaviour = self.server.behaviour
        content = CONTENTS[name]
        self.send_response(503 if behaviour == "busy" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if behaviour == "well":
            self.wfile.write(content)
        elif behaviour == "wrong":
            self.wfile.write(content[::-1])
        elif behaviour in ("short", "stalled"):
            self.wfile.write(content[:-5])
            self.wfile.flush()
            if behaviour == "stalled":
                time.sleep(PAUSE_SECONDS)

    def log_message(self, format, *args):
        pass


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def as_source(url: str) -> Source:
    first, second, third, fourth = (
        File(name, len(content), sha256(content), sha256(gzip.decompress(content)))
        for name, content in CONTENTS.items()
    )
    counts = (len(TRAIN.labels), len(TEST.labels))
    files = (first, second, third, fourth)
    return Source("mnist", "MNIST", url, "MNIST", files, counts)


def assert_is_tiny(dataset: datasets.Dataset) -> None:
    assert dataset.name == "mnist"
    for split, expected in zip(dataset, (TRAIN, TEST), strict=True):
        np.testing.assert_array_equal(split.images, expected.images, strict=True)
        np.testing.assert_array_equal(split.labels, expected.labels, strict=True)


def flip(path: Path, position: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
