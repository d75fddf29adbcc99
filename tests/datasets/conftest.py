"""Without network: tiny IDX files come from a server on loopback."""

import importlib
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import as_source, CONTENTS, Server

from jaxode.datasets.source import SOURCES


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
        url + file.name: tfds.core.download.checksums.UrlInfo(
            tfds.core.utils.Size(file.size), file.sha256, file.name
        )
        for file in source.files
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


@pytest.fixture
def fetched(cache: Path, server: Server) -> None:
    """The four files as a download would leave them, for tensorflow-datasets."""
    server.behaviour = "busy"
    place = cache / "downloads" / "mnist"
    place.mkdir(parents=True)
    for name, content in CONTENTS.items():
        (place / name).write_bytes(content)
