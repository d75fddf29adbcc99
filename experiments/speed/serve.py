"""Answers the benchmark's requests, in a process that times one contestant.

One JSON request per line, one answer each, so that contestants in several processes
can take turns in one run. This runs under the Python that has PyTorch too, so it
imports nothing but the standard library.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(
    prepare: Callable[[dict[str, Any]], tuple[Callable[[], Any], dict[str, Any]]],
    versions: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Answers requests until there are no more.

    Args:
        prepare: Makes a case ready, compiled and warmed up: a function that does one
            run of it and blocks until it is done, and what to answer.
        versions: What the contestant is, where the benchmark does not know.
    """
    prepared: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["command"] == "versions":
            answer = versions()
        elif request["command"] == "prepare":
            prepared[request["name"]], answer = prepare(request)
        elif request["command"] == "forget":
            prepared.pop(request["name"], None)
            answer = {}
        else:
            run = prepared[request["name"]]
            answer = dict(seconds=mean_seconds(run, request["repeats"]))
        print(json.dumps(answer), flush=True)


def mean_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Mean seconds of a run over so many, one after the other."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats
