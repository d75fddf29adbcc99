"""Downloads that fail, stall or are interrupted."""

import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from served import (
    as_source,
    assert_is_tiny,
    CONTENTS,
    NAMES,
    PAUSE_SECONDS,
    Server,
)

from jaxode.datasets import DataError, download, load
from jaxode.datasets.source import SOURCES


WAYS_OUT = r"\(1\) connect .*\(2\) put .*--data-dir .*JAXODE_DATA_DIR; \(3\).*digits"


def test_mnist_without_network_names_the_three_ways_out(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    # Importing it costs a second, which nobody should wait for here.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    # Bound and not listening: nobody answers, and nobody else can take the port.
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        monkeypatch.setitem(SOURCES, "mnist", as_source(url))
        with pytest.raises(DataError, match=f"127.0.0.1 cannot be reached.*{WAYS_OUT}"):
            load("mnist")
    assert not cache.exists()


def test_silent_host_is_given_up_in_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setitem(SOURCES, "mnist", as_source(url))
        start = time.monotonic()
        with pytest.raises(DataError, match=f"127.0.0.1 does not answer.*{WAYS_OUT}"):
            load("mnist")
        # Observed 0.2 s; one connection alone would wait for CONNECT_SECONDS.
        assert time.monotonic() - start < download.CONNECT_SECONDS


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
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    server.behaviour = behaviour
    start = time.monotonic()
    with pytest.raises(DataError, match=f"{BAD_SERVERS[behaviour]}.*{WAYS_OUT}"):
        load("mnist")
    # Observed 0.25 s; the stalled server would end the connection after PAUSE_SECONDS.
    assert time.monotonic() - start < PAUSE_SECONDS / 2
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_download_goes_on_with_the_missing_files(server: Server, cache: Path):
    downloads = cache / "downloads" / "mnist"
    downloads.mkdir(parents=True)
    (downloads / NAMES[0]).write_bytes(CONTENTS[NAMES[0]])
    (downloads / NAMES[1]).write_bytes(CONTENTS[NAMES[1]][:-1])
    assert_is_tiny(load("mnist"))
    assert set(server.requested) == set(NAMES[1:])


def test_interrupt_ends_a_slow_download_at_once(server: Server, cache: Path):
    server.behaviour = "stalled"
    program = f"""
        # A test run in the background of a shell ignores the signal, and so would this.
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from jaxode.datasets.download import fetch
        from jaxode.datasets.source import File, Source
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
        time.sleep(0.3)  # It now waits for bytes that do not come.
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        process.wait(timeout=2 * PAUSE_SECONDS)
    # Observed 0.1 s; a pool of threads would sit out the server's pause.
    assert time.monotonic() - start < PAUSE_SECONDS / 2
    assert process.returncode == -signal.SIGINT
    assert not list(cache.iterdir())
