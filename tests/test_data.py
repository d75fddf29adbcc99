"""Data sets, without network: tiny IDX files come from a server on loopback."""

import dataclasses
import gzip
import hashlib
import http.server
import importlib
import importlib.util
import itertools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxode import _data
from jaxode._data import _cache, _download, _load, _tfds, DataError, load_mnist, Split
from jaxode._data._source import File, read_idx, Source, SOURCES


REAL_FILES = os.environ.get("JAXODE_DATA_DIR")
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
                time.sleep(3)

    def log_message(self, format, *args):
        pass


def as_source(url: str) -> Source:
    first, second, third, fourth = (
        File(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in CONTENTS.items()
    )
    counts = (len(TRAIN.labels), len(TEST.labels))
    return Source("mnist", "MNIST", url, (first, second, third, fourth), counts)


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAXODE_DATA_DIR", raising=False)
    monkeypatch.setenv("JAXODE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A data set of 40 images takes MNIST's place, here and in tensorflow-datasets."""
    tfds: Any = importlib.import_module("tensorflow_datasets")
    server = Server()
    # The argument is the time that shutdown may take.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    source = as_source(url)
    monkeypatch.setitem(SOURCES, "mnist", source)
    official = tfds.builder_cls("mnist")
    infos = {
        url + name: tfds.core.download.checksums.UrlInfo(
            tfds.core.utils.Size(size), sha256, name
        )
        for name, size, sha256 in source.files
    }
    monkeypatch.setattr(official, "URL", url)
    monkeypatch.setattr(official, "url_infos", infos)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path, server: Server) -> Path:
    """The four files as a person would put them; nothing has to be downloaded."""
    server.behaviour = "busy"
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    return folder


def assert_is_tiny(dataset: _data.Dataset) -> None:
    assert dataset.name == "mnist"
    for split, expected in zip(dataset, (TRAIN, TEST), strict=True):
        np.testing.assert_array_equal(split.images, expected.images, strict=True)
        np.testing.assert_array_equal(split.labels, expected.labels, strict=True)


def flip(path: Path, position: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)


# What comes back, and by which way.


def test_downloaded_mnist_equals_its_files(
    server: Server, cache: Path, capfd: pytest.CaptureFixture[str]
):
    lines: list[str] = []
    assert_is_tiny(load_mnist("mnist", on_notice=lines.append))
    assert set(server.requested) == set(NAMES)
    assert list(cache.glob("tfds/mnist/*/mnist-train.array_record*"))
    assert [line.split()[0] for line in lines] == ["Downloading", "Preparing"]
    assert capfd.readouterr() == ("", "")  # No bars of others among the caller's lines.


def test_dataset_unpacks_into_two_splits_and_keeps_its_name(folder: Path):
    data = load_mnist("mnist", data_dir=folder)
    (train_images, train_labels), (test_images, test_labels) = data
    assert train_images is data.train_images and train_labels is data.train_labels
    assert test_images is data.test_images and test_labels is data.test_labels
    assert (data.name, data.num_classes) == ("mnist", 10)


def test_auto_is_mnist_when_the_files_are_there(folder: Path):
    assert_is_tiny(load_mnist(data_dir=folder))


def test_files_are_read_directly_when_array_record_has_no_wheel(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_is_tiny(load_mnist("mnist", data_dir=folder))
    assert not (cache / "tfds").exists()


def test_named_folder_is_only_read(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def state() -> list[tuple[str, int]]:
        paths = [folder, *sorted(folder.rglob("*"))]
        return [(str(path), path.stat().st_mtime_ns) for path in paths]

    folder.chmod(0o555)
    before = state()
    monkeypatch.setenv("JAXODE_DATA_DIR", str(folder))
    assert_is_tiny(load_mnist("mnist"))
    assert state() == before
    assert not (cache / "downloads").exists()
    folder.chmod(0o755)


def test_argument_goes_before_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JAXODE_DATA_DIR", str(tmp_path / "absent"))
    monkeypatch.setenv("JAXODE_CACHE_DIR", str(tmp_path / "unused"))
    load_mnist("mnist", data_dir=folder, cache_dir=tmp_path / "used")
    assert (tmp_path / "used").exists() and not (tmp_path / "unused").exists()


# The cache.


def test_second_start_needs_no_file_no_network_and_no_tensorflow_datasets(
    folder: Path, cache: Path
):
    load_mnist("mnist", data_dir=folder)
    # A process of its own, since this one has imported everything.
    program = """
        import dataclasses, sys
        from jaxode._data import load_mnist
        from jaxode._data._source import SOURCES
        SOURCES["mnist"] = dataclasses.replace(SOURCES["mnist"], counts=(30, 10))
        print(load_mnist().train_images.shape)
        print({"tensorflow_datasets", "sklearn", "PIL", "requests"} & {*sys.modules})
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["(30, 28, 28, 1)", "set()"]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    flip(path, 0.5)


def hold_another_data_set(path: Path) -> None:
    other = dataclasses.replace(_data.Dataset("kmnist", TRAIN, TEST))
    _cache.write_cache(path, other)


def lose_an_image(path: Path) -> None:
    short = Split(TRAIN.images[1:], TRAIN.labels[1:])
    _cache.write_cache(path, _data.Dataset("mnist", short, TEST))


@pytest.mark.parametrize(
    "damage", [empty, truncate, flip_a_bit, hold_another_data_set, lose_an_image]
)
def test_damaged_cache_is_rebuilt(
    damage: Callable[[Path], None], folder: Path, cache: Path
):
    load_mnist("mnist", data_dir=folder)
    (path,) = cache.glob("*.npz")
    whole = path.read_bytes()
    damage(path)
    assert_is_tiny(load_mnist("mnist"))
    # Equal but for the times that a zip file holds.
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.parametrize("pattern", ["*train.array_record*", "dataset_info.json"])
def test_damaged_preparation_is_made_anew(pattern: str, folder: Path, cache: Path):
    load_mnist("mnist", data_dir=folder)
    (cache / "mnist-1.npz").unlink()
    (part,) = cache.glob(f"tfds/mnist/*/{pattern}")
    flip(part, 0.5) if part.suffix != ".json" else truncate(part)
    lines: list[str] = []
    assert_is_tiny(load_mnist("mnist", data_dir=folder, on_notice=lines.append))
    assert len(lines) == 1 and lines[0].startswith("Preparing")


def test_preparation_that_cannot_be_read_is_tried_twice_and_reported(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(builder: object, split: str) -> Split:
        raise RuntimeError("bad chunk")

    monkeypatch.setattr(_tfds, "_read_split", fail)
    lines: list[str] = []
    with pytest.raises(DataError, match=r"could not prepare MNIST in .*bad chunk"):
        load_mnist("mnist", data_dir=folder, on_notice=lines.append)
    assert len(lines) == 2
    assert not list(cache.glob("*.npz"))


def test_incomplete_preparation_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    short = Split(TRAIN.images[1:], TRAIN.labels[1:])
    monkeypatch.setattr(_tfds, "_read_split", lambda builder, split: short)
    with pytest.raises(DataError, match=r"does not hold \(30, 10\) images"):
        load_mnist("mnist", data_dir=folder)


def test_second_of_two_processes_uses_what_the_first_prepared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    encode, others = _tfds._encode_png, []

    def encode_while_another_prepares(image: np.ndarray) -> bytes:
        if not others:
            others.append(None)
            others.append(load_mnist("mnist", data_dir=folder))
        return encode(image)

    monkeypatch.setattr(_tfds, "_encode_png", encode_while_another_prepares)
    lines: list[str] = []
    assert_is_tiny(load_mnist("mnist", data_dir=folder, on_notice=lines.append))
    assert_is_tiny(others[1])
    assert len(lines) == 1  # The loser read the winner's folder, it did not start anew.


def test_failed_write_leaves_the_old_cache_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "mnist-1.npz"
    path.write_bytes(b"old")

    def fill_the_disk(file, **arrays: np.ndarray):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        _cache.write_cache(path, _data.Dataset("mnist", TRAIN, TEST))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("has_wheel", [True, False])
def test_unusable_cache_folder_is_reported(
    has_wheel: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    if not has_wheel:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    inside_a_file = folder / NAMES[0] / "cache"
    match = r"(could not prepare MNIST in|The data cache) .*cache.*JAXODE_CACHE_DIR"
    with pytest.raises(DataError, match=match):
        load_mnist("mnist", data_dir=folder, cache_dir=inside_a_file)


# Bad files.


def remove(path: Path) -> None:
    path.unlink()


def flip_the_last_bit(path: Path) -> None:
    flip(path, 1 - 1e-9)


def swap(path: Path) -> None:
    path.write_bytes(CONTENTS[NAMES[2]])


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD_FILES = [
    (remove, r"train-images-idx3-ubyte.gz is missing \([\d,]+ bytes expected\)"),
    (truncate, r"train-images-idx3-ubyte.gz has [\d,]+ bytes, [\d,]+ expected"),
    (flip_the_last_bit, r"train-images-idx3-ubyte.gz is damaged \(sha256 \w{64} exp"),
    (swap, r"train-images-idx3-ubyte.gz is t10k-images-idx3-ubyte.gz of mnist"),
    (become_a_folder, r"train-images-idx3-ubyte.gz cannot be read \(Is a directory\)"),
]


@pytest.mark.parametrize("dataset", ["mnist", "auto"])
@pytest.mark.parametrize(("damage", "message"), BAD_FILES)
def test_bad_file_is_named_even_when_the_data_is_cached(
    damage: Callable[[Path], None], message: str, dataset: str, folder: Path
):
    load_mnist("mnist", data_dir=folder)
    damage(folder / NAMES[0])
    with pytest.raises(DataError, match=f"^data_dir '.*: {message}"):
        load_mnist(dataset, data_dir=folder)


def test_every_bad_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name in NAMES[1:3]:
        remove(folder / name)
    monkeypatch.setenv("JAXODE_DATA_DIR", str(folder))
    with pytest.raises(DataError, match=f"^JAXODE_DATA_DIR .*{NAMES[1]}.*{NAMES[2]}"):
        load_mnist("mnist")


def test_files_of_another_data_set_do_not_pass_for_mnist(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    # Same names, same form, other sums: the tiny files are now Fashion-MNIST's.
    tiny = SOURCES["mnist"]
    fashion = dataclasses.replace(tiny, name="fashion_mnist")
    sums = [file._replace(sha256="0" * 64) for file in tiny.files]
    mnist = dataclasses.replace(tiny, files=(sums[0], sums[1], sums[2], sums[3]))
    monkeypatch.setitem(SOURCES, "fashion_mnist", fashion)
    monkeypatch.setitem(SOURCES, "mnist", mnist)
    with pytest.raises(DataError, match=f"{NAMES[0]} is {NAMES[0]} of fashion_mnist"):
        load_mnist("mnist", data_dir=folder)


def test_tensorflow_datasets_checks_the_sums_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_load, "find_problem", lambda folder, file: None)
    flip_the_last_bit(folder / NAMES[0])
    with pytest.raises(DataError, match="could not prepare.*has wrong checksum"):
        load_mnist("mnist", data_dir=folder)


def test_tensorflow_datasets_takes_no_file_without_a_sum(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    official: Any = importlib.import_module("tensorflow_datasets").builder_cls("mnist")
    monkeypatch.setattr(official, "url_infos", {})
    with pytest.raises(DataError, match="could not prepare.*Missing checksums url"):
        load_mnist("mnist")


def test_absent_folder_is_reported(tmp_path: Path):
    with pytest.raises(
        DataError, match="data_dir names '.*absent', which is no folder"
    ):
        load_mnist("mnist", data_dir=tmp_path / "absent")


def test_unknown_data_set_is_reported_with_the_list():
    with pytest.raises(DataError, match="Unknown data set 'mist'; .*auto.*kmnist, dig"):
        load_mnist("mist")


def test_file_that_is_no_idx_is_reported(tmp_path: Path):
    path = tmp_path / "a.gz"
    path.write_bytes(idx_bytes(np.zeros((2, 3), np.uint8)))
    assert read_idx(path).shape == (2, 3)
    content = gzip.decompress(path.read_bytes())
    for bad in (b"", b"\x01" + content[1:], content[:-1]):
        path.write_bytes(gzip.compress(bad))
        with pytest.raises(DataError, match="a.gz is no IDX file of bytes"):
            read_idx(path)


@pytest.mark.parametrize(
    ("module", "dataset"),
    [
        ("sklearn.datasets", "digits"),
        ("tensorflow_datasets", "mnist"),
        ("importlib_resources", "mnist"),
        ("requests", "kmnist"),
    ],
)
def test_missing_package_names_the_extra(
    module: str, dataset: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module}.*pip install .jaxode\[experi"):
        load_mnist(dataset, data_dir=folder if dataset == "mnist" else None)


# The network.


WAYS_OUT = r"\(1\) connect .*\(2\) put .*--data-dir .*JAXODE_DATA_DIR; \(3\).*digits"


def test_mnist_without_network_names_the_three_ways_out(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setitem(SOURCES, "mnist", as_source(f"http://127.0.0.1:{port}/"))
    # Importing it costs a second, which nobody should wait for here.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=f"127.0.0.1 cannot be reached.*{WAYS_OUT}"):
        load_mnist("mnist")
    assert not cache.exists()


def test_silent_host_is_given_up_in_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_download, "REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setitem(SOURCES, "mnist", as_source(url))
        start = time.monotonic()
        with pytest.raises(DataError, match=f"127.0.0.1 does not answer.*{WAYS_OUT}"):
            load_mnist("mnist")
        # Observed 0.2 s; one connection alone would wait for CONNECT_SECONDS = 5.
        assert time.monotonic() - start < 3


BAD_SERVERS = {
    "busy": "127.0.0.1 answers HTTP 503",
    "wrong": "what .* sends is wrong, train-images-idx3-ubyte.gz is damaged",
    "short": "the transfer of train-images-idx3-ubyte.gz broke off",
    "stalled": "the transfer of train-images-idx3-ubyte.gz broke off",
}


@pytest.mark.parametrize("behaviour", BAD_SERVERS)
def test_bad_download_is_reported_and_nothing_of_it_is_kept(
    behaviour: str, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_download, "STALL_SECONDS", 0.2)
    server.behaviour = behaviour
    start = time.monotonic()
    with pytest.raises(DataError, match=f"{BAD_SERVERS[behaviour]}.*{WAYS_OUT}"):
        load_mnist("mnist")
    # Observed 0.25 s; the stalled server would end the connection after 3 s.
    assert time.monotonic() - start < 2
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_download_goes_on_with_the_missing_files(server: Server, cache: Path):
    downloads = cache / "downloads" / "mnist"
    downloads.mkdir(parents=True)
    (downloads / NAMES[0]).write_bytes(CONTENTS[NAMES[0]])
    (downloads / NAMES[1]).write_bytes(CONTENTS[NAMES[1]][:-1])
    assert_is_tiny(load_mnist("mnist"))
    assert set(server.requested) == set(NAMES[1:])


def test_interrupt_ends_a_slow_download_at_once(server: Server, cache: Path):
    server.behaviour = "stalled"
    program = f"""
        from jaxode._data._download import fetch
        from jaxode._data._source import File, Source
        from pathlib import Path
        source = {SOURCES["mnist"]!r}
        fetch(source, Path({str(cache)!r}), lambda line: print(line, flush=True))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    with process, process.stdout as lines:
        lines.readline()
        time.sleep(0.3)  # It now waits for bytes that come in 3 s, or not at all.
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        process.wait(timeout=10)
    # Observed 0.1 s; the server's pause, which a pool of threads sits out, is 3 s.
    assert time.monotonic() - start < 1.5
    assert process.returncode == -signal.SIGINT
    assert not list(cache.iterdir())


# The digits that stand in.


@pytest.fixture
def no_network(server: Server) -> None:
    server.behaviour = "busy"


@pytest.mark.usefixtures("no_network")
def test_auto_without_network_warns_and_returns_the_digits():
    with pytest.warns(UserWarning, match=r"^NOT MNIST: .*HTTP 503.*not comparable"):
        data = load_mnist()
    assert data.name == "digits"


@pytest.mark.usefixtures("no_network")
def test_auto_tells_the_callback_instead_of_warning():
    lines: list[str] = []
    assert load_mnist("auto", on_notice=lines.append).name == "digits"
    assert len(lines) == 1 and lines[0].startswith("NOT MNIST")


def test_digits_are_scikit_learns_enlarged():
    digits: Any = importlib.import_module("sklearn.datasets").load_digits()
    data = load_mnist("digits")
    assert data.train_images.shape == (1437, 28, 28, 1)
    assert data.test_images.shape == (360, 28, 28, 1)
    images = np.concatenate([split.images for split in data])[..., 0]
    assert images.dtype == np.uint8 and data.train_labels.dtype == np.int32
    # Any pixel of each 3x3 block gives the small image back; the frame is empty.
    for row, column in itertools.product((2, 3, 4), repeat=2):
        small = images[:, row:26:3, column:26:3].reshape(-1, 64) / (255 / 16)
        expected = {row.tobytes() for row in digits.data.astype(np.uint8)}
        assert {row.tobytes() for row in np.rint(small).astype(np.uint8)} == expected
    frame = np.ones((28, 28), bool)
    frame[2:26, 2:26] = False
    assert images.max() == 255 and not images[:, frame].any()


def test_digits_are_split_four_to_one_in_every_class():
    data = load_mnist("digits")
    train, test = (np.bincount(split.labels, minlength=10) for split in data)
    # Counts of the 1,797 as scikit-learn's description gives them.
    np.testing.assert_array_equal(
        train + test, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    np.testing.assert_allclose(test / (train + test), 0.2, atol=0.005)
    tests = {image.tobytes() for image in data.test_images}
    assert not any(image.tobytes() in tests for image in data.train_images)


# The real thing.


@pytest.mark.parametrize("name", SOURCES)
def test_sums_are_those_of_tensorflow_datasets(name: str):
    tfds: Any = importlib.import_module("tensorflow_datasets")
    official, source = tfds.builder_cls(name), SOURCES[name]
    path = tfds.core.utils.tfds_path() / "url_checksums" / f"{name}.txt"
    known = tfds.core.download.checksums.load_url_infos(path)
    assert official.URL == source.url
    assert {url: (info.size, info.checksum) for url, info in known.items()} == {
        source.url + file.name: (file.size, file.sha256) for file in source.files
    }


@pytest.mark.slow
@pytest.mark.data
def test_real_mnist_equals_its_files():
    if REAL_FILES is None:
        pytest.skip("JAXODE_DATA_DIR names no folder with the four MNIST files")
    data = load_mnist("mnist", data_dir=REAL_FILES)
    assert (len(data.train_labels), len(data.test_labels)) == (60_000, 10_000)
    # Known counts of the classes 0 to 9 in the training set.
    np.testing.assert_array_equal(
        np.bincount(data.train_labels),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    # The mean and deviation that everyone normalises MNIST with: 0.1307 and 0.3081.
    assert round(float(data.train_images.mean()) / 255, 4) == 0.1307
    assert round(float(data.train_images.std()) / 255, 4) == 0.3081
    for split, images, labels in zip(data, NAMES[::2], NAMES[1::2], strict=True):
        pixels = gzip.decompress((Path(REAL_FILES) / images).read_bytes())[16:]
        assert split.images.tobytes() == pixels
        expected = gzip.decompress((Path(REAL_FILES) / labels).read_bytes())[8:]
        assert split.labels.astype(np.uint8).tobytes() == expected
