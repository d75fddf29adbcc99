"""Downloads the original files, in the main thread and with every wait bounded.

tensorflow-datasets could download them too, but it retries for minutes where there is
no network, and its download threads keep a program alive after Ctrl-C until the last
byte has come (20 s seen on a slow link). So the files are fetched here, and it is
given their folder; it checks them against its own checksums once more.
"""

import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from .._optional import require
from .dataset import DataError
from .source import File, find_problem, Source


# Seconds. The first bounds the whole question whether there is a network, including
# name look-up and all addresses of a host; the others bound one connection.
REACH_SECONDS = 8.0
CONNECT_SECONDS = 5.0
STALL_SECONDS = 20.0


class DownloadError(DataError):
    """The files could not be downloaded."""

    def __init__(self, source: Source, reason: str):
        self.reason = reason
        super().__init__(
            f"{source.title} is not on this machine and cannot be downloaded: {reason}."
            " Three ways out: (1) connect to the network; (2) put the four original"
            f" files ({source.files[0].name}, ...) in a folder and name it with"
            " --data-dir or JAXODE_DATA_DIR; (3) use --dataset digits, or auto, which"
            " turns to the digits by itself."
        )


def fetch(source: Source, folder: Path, on_progress: Callable[[str], None]) -> Path:
    """Makes sure that the four original files are in our own folder; returns it.

    Files that are there and whole are kept, so a broken download goes on file by file.

    Raises:
        DownloadError: if a file cannot be downloaded, or is not the original.
        OSError: if the folder cannot be written.
    """
    needed = [file for file in source.files if find_problem(folder, file)]
    if not needed:
        return folder
    reason = _why_unreachable(source.url + needed[0].name)
    if reason is not None:
        raise DownloadError(source, reason)
    folder.mkdir(parents=True, exist_ok=True)
    size_mb = sum(file.size for file in needed) / 1e6
    on_progress(f"Downloading {source.title} ({size_mb:.1f} MB), once.")
    for file in needed:
        _fetch_file(source, file, folder)
    return folder


def _why_unreachable(url: str) -> str | None:
    """Asks for the headers of `url`; returns why there are none, None if they came.

    The question is put in a daemon thread, because neither a look-up by a dead name
    server nor a row of dead addresses obeys a timeout or Ctrl-C.
    """
    requests = require("requests")
    host = urlsplit(url).hostname
    answers: list[str | None] = []

    def ask() -> None:
        try:
            # Not HEAD: some servers and proxies refuse it where they grant GET.
            with requests.get(url, stream=True, timeout=CONNECT_SECONDS) as response:
                code = response.status_code
            answers.append(None if code == 200 else f"{host} answers HTTP {code}")
        except requests.RequestException as error:
            answers.append(f"{host} cannot be reached ({type(error).__name__})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return answers[0] if answers else f"{host} does not answer"


def _fetch_file(source: Source, file: File, folder: Path) -> None:
    requests = require("requests")
    part = folder / f".{uuid.uuid4().hex}.part"
    part.mkdir()
    temporary = part / file.name
    try:
        timeout = (CONNECT_SECONDS, STALL_SECONDS)
        with requests.get(
            source.url + file.name, stream=True, timeout=timeout
        ) as response:
            response.raise_for_status()
            with open(temporary, "xb") as output:
                output.writelines(response.iter_content(chunk_size=1 << 16))
        problem = find_problem(part, file)
        if problem is not None:
            raise DownloadError(source, f"what {source.url} sends is wrong, {problem}")
        os.replace(temporary, folder / file.name)
    except requests.RequestException as error:
        raise DownloadError(
            source, f"the transfer of {file.name} broke off ({type(error).__name__})"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
        part.rmdir()
