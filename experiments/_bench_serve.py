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
    versions: Callable[[], dict[str, Any]],
    prepare: Callable[[dict[str, Any]], tuple[Callable[[], Any], float]],
) -> None:
    """Answers requests until there are no more.

    Args:
        versions: What the contestant is.
        prepare: Makes a case ready, compiled and warmed up: a function that does one
            run of it and blocks until it is done, and the field calls in one run.
    """
    prepared: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["command"] == "versions":
            answer = versions()
        elif request["command"] == "prepare":
            run, calls = prepare(request)
            prepared[request["name"]] = run
            answer = dict(calls=calls)
        elif request["command"] == "forget":
            prepared.pop(request["name"], None)
            answer = {}
        else:
            run = prepared[request["name"]]
            start = time.perf_counter()
            for _ in range(request["repeats"]):
                run()
            answer = dict(seconds=(time.perf_counter() - start) / request["repeats"])
        print(json.dumps(answer), flush=True)
