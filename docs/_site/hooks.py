"""Runs every program of the pages while the site is built; a failing one ends it.

The programs of a page run in order, in one process of its own:

- each block that starts with three backticks and `python`,
- lines between `<!-- run` and `-->`, which a reader does not see,
- after `<!-- raises NAME -->`, a block that must end in that error,
- after `<!-- needs MODULE -->`, one that runs where that module is installed.

What a program prints is shown below it, in place of a fenced block without a language
(or `text`) that directly follows: the output that is stored for readers of the files.

`<!-- script NAME.py ARGUMENTS -->` runs a file of `examples/` as readers run it, and
stands for its source and its output. The pictures that it writes replace those of the
same name. The examples in docstrings run too (docstrings.py). With JAXODE_SITE=quick in
the environment neither they nor scripts run; stored output and pictures are shown.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File


HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
QUICK = os.environ.get("JAXODE_SITE") == "quick"

PROGRAM = re.compile(
    r"<!-- run\n(?P<hidden>.*?)-->\n"
    r"|(?:<!-- (?P<kind>raises|needs) (?P<what>\w+) -->\n)?"
    r"(?P<shown>```python\n(?P<code>.*?)^```\n)(?P<output>\n?```(?:text)?\n.*?^```\n)?",
    re.MULTILINE | re.DOTALL,
)
SCRIPT = re.compile(
    r"<!-- script (?P<name>\w+\.py)(?P<arguments>[^>]*?) -->\n"
    r"(?P<output>\n?```(?:text)?\n.*?^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def run_python(arguments: list[str], cwd: str, text: str | None = None) -> str:
    """What a new interpreter prints; its warnings are errors."""
    environment = {"MPLBACKEND": "Agg", "JAXODE_CACHE_DIR": cwd, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=text,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        said = done.stdout + done.stderr
        raise PluginError(f"{arguments[-1]} failed:\n{said}")
    return done.stdout


# Docstrings


def on_pre_build(config: Any) -> None:
    """Runs the examples that the API pages show."""
    if not QUICK:
        with tempfile.TemporaryDirectory() as folder:
            run_python([str(HERE / "docstrings.py")], folder)


# Pages


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Runs a page's programs and sets in what they print."""
    found = list(PROGRAM.finditer(markdown))
    runs = [match for match in found if _is_runnable(match)]
    blocks = [_block(match, markdown) for match in runs]
    outputs: list[str] = []
    if blocks:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [str(HERE / "page_program.py"), page.file.src_uri]
            outputs = json.loads(run_python(arguments, folder, json.dumps(blocks)))
    by_start = {m.start(): text for m, text in zip(runs, outputs, strict=True)}
    markdown = PROGRAM.sub(lambda m: _shown(m, by_start.get(m.start())), markdown)
    return SCRIPT.sub(_shown_script, markdown)


def _is_runnable(match: re.Match) -> bool:
    if match["kind"] != "needs":
        return True
    return importlib.util.find_spec(match["what"]) is not None


def _block(match: re.Match, markdown: str) -> dict[str, Any]:
    part = "code" if match["hidden"] is None else "hidden"
    return {
        "code": match[part],
        "line": markdown.count("\n", 0, match.start(part)),
        "raises": match["what"] if match["kind"] == "raises" else None,
    }


def _shown(match: re.Match, output: str | None) -> str:
    if match["hidden"] is not None:
        return ""
    if output is None:  # it was not run
        note = f"*Stored output: {match['what']} is not installed here.*"
        return f"{match['shown']}{match['output'] or ''}\n{note}\n"
    return match["shown"] + _fenced(output)


def _fenced(output: str) -> str:
    if not output.strip():
        return ""
    lines = [
        textwrap.fill(line, 88) if "Error: " in line else line
        for line in output.rstrip().splitlines()
    ]
    return "\n```{.text .output}\n" + "\n".join(lines) + "\n```\n"


# Scripts


_outputs: dict[str, str] = {}


def on_files(files: Any, config: Any) -> Any:
    """Runs the scripts that the pages name, for their output and their pictures."""
    if QUICK:
        return files
    for file in list(files.documentation_pages()):
        for match in SCRIPT.finditer(file.content_string):
            with tempfile.TemporaryDirectory() as folder:
                script = str(EXAMPLES / match["name"])
                arguments = [script, *match["arguments"].split()]
                _outputs[match[0]] = run_python(arguments, folder)
                for picture in Path(folder).glob("*.png"):
                    uri = f"examples/{picture.name}"
                    old = files.get_file_from_path(uri)
                    if old is not None:
                        files.remove(old)
                    content = picture.read_bytes()
                    files.append(File.generated(config, uri, content=content))
    return files


def _shown_script(match: re.Match) -> str:
    name, source = match["name"], (EXAMPLES / match["name"]).read_text("utf-8")
    output = _outputs.get(match[0])
    shown = (match["output"] or "") if output is None else _fenced(output)
    code = textwrap.indent(f'```python title="{name}"\n{source}```', "    ")
    return f'{shown}\n??? example "The program: {name}"\n\n{code}\n'
