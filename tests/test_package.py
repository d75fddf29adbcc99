"""The package as a whole: imports, metadata, documents, and whether they agree."""

import ast
import doctest
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import QUICK_FLAGS

import jaxode


ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxode"
MODULES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]

# What each room may import from, besides itself. A room is a folder or a file.
GROUND = {"_files", "_jax_versions", "_optional"}
ROOMS = {
    "_files": set(),
    "_jax_versions": set(),
    "_optional": set(),
    "_steps": GROUND,
    "_solve": GROUND | {"_steps"},
    "_compare": GROUND | {"_steps", "_solve"},
    "nn": GROUND | {"_steps", "_solve"},
    "training": GROUND | {"_steps", "_solve"},
    "datasets": GROUND,
}

# Where a user finds a name; everything else is private.
PUBLIC: tuple[ModuleType, ...] = (
    jaxode,
    jaxode.nn,
    jaxode.training,
    jaxode.datasets,
)

# What only the experiments need must not slow down, or break, `import jaxode`.
EXPERIMENT_ONLY = """
    array_record grain matplotlib orbax PIL requests rich sklearn tensorflow_datasets
    torch tyro
""".split()


def run_python(
    *arguments: str, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a new interpreter that has none of this process's JAX settings."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def imported_names(source: str, package: str = "jaxode") -> set[str]:
    """Returns the dotted names inside `jaxode` that a module's source imports.

    A name that is imported from the package itself counts too: it is how a module would
    reach round the order. Imports inside functions count like any other.

    Args:
        source: The module's text.
        package: Dotted name of the folder that the module lies in.
    """
    dotted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folders = package.split(".") if node.level else []
            kept = folders[: len(folders) + 1 - node.level]
            base = [*kept, node.module] if node.module else kept
            dotted |= {".".join([*base, alias.name]) for alias in node.names}
    ours = {name for name in dotted if name.split(".")[0] == "jaxode"}
    return {name.removeprefix("jaxode.") for name in ours}


def imported_modules(module: Path) -> set[str]:
    """Returns what a module of the package imports, with and without the last name."""
    package = ".".join(["jaxode", *module.parts[:-1]])
    names = imported_names((PACKAGE / module).read_text("utf-8"), package)
    return names | {name.rpartition(".")[0] for name in names if "." in name}


def read_document(name: str) -> str:
    """Returns the text of a file at the project's root."""
    return (ROOT / name).read_text("utf-8")


def public_objects() -> list[Any]:
    """Returns pytest parameters: the public functions and classes, by name."""
    found = []
    for module in PUBLIC:
        for name in sorted(vars(module)):
            value = getattr(module, name)
            is_ours = getattr(value, "__module__", "").startswith("jaxode.")
            if not name.startswith("_") and callable(value) and is_ours:
                found.append(pytest.param(value, id=f"{module.__name__}.{name}"))
    return found


SHOWN = r"^```python\n(.*?)^```$"
HIDDEN = r"^<!-- run\n(.*?)^-->$"  # run before a page's own programs


def python_blocks(text: str, pattern: str = SHOWN) -> list[tuple[int, str]]:
    """Returns a document's Python blocks, each with the number of its line."""
    blocks = re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start()) + 1, block[1]) for block in blocks]


def readme_examples() -> list[Any]:
    """Returns pytest parameters: the README's Python blocks, by line number."""
    blocks = python_blocks(read_document("README.md"))
    # The first takes a reader's first gradient; the others compile for longer.
    marks = [(), *[pytest.mark.slow] * (len(blocks) - 1)]
    return [
        pytest.param(block, id=f"line{line}", marks=mark)
        for (line, block), mark in zip(blocks, marks, strict=True)
    ]


def private_names(source: str) -> set[str]:
    """Returns the private names of `jaxode` that a program imports or looks up."""
    used = imported_names(source)
    for node in ast.walk(ast.parse(source)):
        dotted = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.fullmatch(r"jaxode(\.\w+)+", dotted):
            used.add(dotted.removeprefix("jaxode."))
    is_private = re.compile(r"(^|\.)_(?!_)")
    return {name for name in used if is_private.search(name)}


def programs_of_users() -> list[Any]:
    """Returns pytest parameters: experiments, and what the documents show."""
    found = []
    for folder in ("experiments", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            found.append(pytest.param(path.read_text("utf-8"), id=name))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text("utf-8")
        for line, block in python_blocks(text) + python_blocks(text, HIDDEN):
            found.append(pytest.param(block, id=f"{path.relative_to(ROOT)}:{line}"))
    return found


@pytest.fixture(scope="module")
def just_imported() -> dict[str, Any]:
    """What there is in a new interpreter after `import jaxode`."""
    code = """
import jax, json, sys
import jaxode
print(json.dumps({"arrays": len(jax.live_arrays()), "modules": list(sys.modules)}))
"""
    finished = run_python("-c", code)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_import_creates_no_arrays(just_imported: dict[str, Any]):
    assert just_imported["arrays"] == 0


def test_import_leaves_out_what_only_experiments_need(just_imported: dict[str, Any]):
    assert set(EXPERIMENT_ONLY) & set(just_imported["modules"]) == set()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_room_imports_only_from_those_below(module: Path):
    room = module.parts[0].removesuffix(".py")
    if room == "__init__":
        pytest.skip("it imports every room, to re-export what is public")
    assert room in ROOMS, f"give {room} its place in ROOMS"
    imported = {name.split(".")[0] for name in imported_modules(module)}
    assert imported <= ROOMS[room] | {room}


def test_no_modules_import_each_other_in_a_circle():
    names = {".".join(path.with_suffix("").parts): path for path in MODULES}
    graph = {
        name: names.keys() & imported_modules(path)
        for name, path in names.items()
        if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from ._solve.stats import SolveStats", "jaxode", {"_solve.stats.SolveStats"}),
        ("from . import _solve", "jaxode", {"_solve"}),
        ("from jaxode._solve import odeint", "jaxode", {"_solve.odeint"}),
        ("import jaxode._solve.odeint", "jaxode", {"_solve.odeint"}),
        ("import jaxode", "jaxode", {"jaxode"}),
        ("from jaxode import odeint", "jaxode", {"odeint"}),
        ("from .source import read", "jaxode.datasets", {"datasets.source.read"}),
        ("from .._solve import odeint", "jaxode.datasets", {"_solve.odeint"}),
        ("def f():\n    from ._files import x", "jaxode", {"_files.x"}),
        ("import jax\nfrom jax import numpy", "jaxode", set()),
    ],
)
def test_imported_names_sees_each_form(source: str, package: str, expected: set[str]):
    assert imported_names(source, package) == expected


@pytest.mark.parametrize("program", programs_of_users())
def test_programs_use_public_names_only(program: str):
    assert private_names(program) == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from jaxode._solve import odeint", {"_solve.odeint"}),
        ("from jaxode.nn import _kernels", {"nn._kernels"}),
        ("import jaxode\njaxode._solve.odeint()", {"_solve", "_solve.odeint"}),
        ("import jaxode\njaxode.nn.ConvField._packed()", {"nn.ConvField._packed"}),
        ("import jaxode\njaxode.odeint(f)._x, jaxode.__version__", set()),
        ("import other\nother._private", set()),
    ],
)
def test_private_names_sees_each_form(source: str, expected: set[str]):
    assert private_names(source) == expected


def test_version_is_the_same_everywhere():
    citation = read_document("CITATION.cff")
    cited = re.findall(r"^version: (\S+)$", citation, re.MULTILINE)
    installed = importlib.metadata.version("jaxode")
    bibtex = re.findall(r"version = \{(\S+)\}", read_document("README.md"))
    found = [jaxode.__version__, installed, *cited, *bibtex]
    assert found == [PROJECT["version"]] * 4, "install the package again?"


def test_newest_dated_entry_of_the_changelog_is_this_version():
    changelog, citation = read_document("CHANGELOG.md"), read_document("CITATION.cff")
    entries = re.findall(r"^## \[([\d.]+)\] - (\S+)$", changelog, re.MULTILINE)
    [date] = re.findall(r'^date-released: "(\S+)"$', citation, re.MULTILINE)
    assert entries[0] == (PROJECT["version"], date)


def test_licence_is_the_same_everywhere():
    citation = read_document("CITATION.cff")
    assert re.findall(r"^license: (\S+)$", citation, re.MULTILINE) == ["Apache-2.0"]
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in read_document(
        "LICENSE"
    )


def test_readme_states_the_python_floor():
    floor = PROJECT["requires-python"].removeprefix(">=")
    pattern = r"Python (?:>= ?(3\.\d+)|(3\.\d+)(?: or (?:later|newer)|\+))"
    stated = re.findall(pattern, read_document("README.md"))
    assert {left or right for left, right in stated} == {floor}


def test_readme_names_only_extras_that_exist():
    groups = re.findall(r"(?:\.|jaxode)\[([\w,]+)\]", read_document("README.md"))
    named = {extra for group in groups for extra in group.split(",")}
    assert named <= PROJECT["optional-dependencies"].keys()
    assert {"experiments", "test"} <= named


@pytest.mark.parametrize(
    "work",
    [
        "A Simple Introduction to Neural ODEs",
        "Neural ODEs in Detail",
        "arXiv:1806.07366",
    ],
)
def test_citation_names_what_the_project_builds_on(work: str):
    assert work in read_document("CITATION.cff")


def test_configured_paths_exist():
    tool = PYPROJECT["tool"]
    targets = tool["hatch"]["build"]["targets"]
    configured = [
        PROJECT["readme"],
        *PROJECT["license-files"],
        *tool["pytest"]["ini_options"]["testpaths"],
        *tool["pytest"]["ini_options"]["pythonpath"],
        *tool["pyright"]["include"],
        *tool["pyright"]["extraPaths"],
        *tool["pyright"]["ignore"],
        *targets["wheel"]["packages"],
        *(path.removeprefix("/") for path in targets["sdist"]["include"]),
    ]
    assert [path for path in configured if not (ROOT / path).exists()] == []


def test_readme_has_an_example():
    assert readme_examples() != []


@pytest.mark.parametrize("example", readme_examples())
def test_readme_example_runs(example: str, tmp_path: Path):
    script = tmp_path / "example.py"
    script.write_text(example, "utf-8")
    finished = run_python(str(script), cwd=tmp_path, XLA_FLAGS=QUICK_FLAGS)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("value", public_objects())
def test_public_name_is_documented(value: Any):
    # A dataclass without a docstring gets its own signature for one.
    text = value.__doc__ or ""
    assert text.strip() and not text.startswith(f"{value.__name__}(")


def test_every_public_name_has_its_place_and_an_example_on_the_site():
    pages = [path.read_text("utf-8") for path in (ROOT / "docs/api").glob("*.md")]
    entries = re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE)
    names = {case.id for case in public_objects()}
    assert set(entries) == names and len(entries) == len(names)
    programs = "".join(code for page in pages for _, code in python_blocks(page))
    used = set(re.findall(r"\.(\w+)", programs))
    assert {name.rpartition(".")[2] for name in names} - used <= {
        # What the functions return or take, seen in their entries.
        *("EventSolution", "LeafError", "Solution", "SolveCounts", "SolveStats"),
        "TrainData",
    }


@pytest.mark.parametrize("value", public_objects())
def test_public_name_has_an_example_that_stands_by_itself(value: Any):
    lines = doctest.DocTestParser().get_examples(value.__doc__ or "")
    program = "".join(line.source for line in lines)
    assert "import jaxode\n" in program and value.__name__ in program


@pytest.mark.slow
def test_examples_of_public_names_say_what_is_true(tmp_path: Path):
    script = str(ROOT / "docs/_site/docstrings.py")
    finished = run_python(script, cwd=tmp_path, XLA_FLAGS=QUICK_FLAGS)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"^[1-9]\d\d lines .*, 0 failed$", finished.stdout, re.MULTILINE)


@pytest.mark.parametrize("value", public_objects())
def test_public_methods_are_documented(value: Any):
    methods = {
        name
        for name, method in vars(value).items()
        if isinstance(value, type) and callable(method) and not name.startswith("_")
    }
    assert {
        name for name in methods if not inspect.getdoc(getattr(value, name))
    } == set()


def test_no_file_names_a_machine_path():
    # Bounded on the left, so that an address such as https://host/home/ is no finding.
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/|\.\./shared\b")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("this copy of the project is no git checkout")
    found = []
    for name in listed.stdout.splitlines():
        # The one file that may know where the data set lies beside the checkout.
        if name == ".ci/run" or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_bytes().decode("utf-8", errors="replace")
        found += [f"{name}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []
