"""Runs the programs of one page in one process; see hooks.py.

Reads a JSON list of `{"code", "line", "raises"}` and writes what each printed.
"""

import contextlib
import io
import json
import sys
import traceback


def run(block, page, namespace):
    printed = io.StringIO()
    # Line numbers in a traceback are those of the page.
    code = "\n" * block["line"] + block["code"]
    wanted = block["raises"]
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page, "exec"), namespace)
    except Exception as error:
        if type(error).__name__ != wanted:
            raise
        return printed.getvalue() + f"{wanted}: {error}\n"
    if wanted:
        raise AssertionError(f"{page}, line {block['line']}: no {wanted} was raised")
    return printed.getvalue()


if __name__ == "__main__":
    namespace = {"__name__": "__main__"}
    try:
        outputs = [run(one, sys.argv[1], namespace) for one in json.load(sys.stdin)]
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    json.dump(outputs, sys.stdout)
