"""The package as a whole: imports, metadata, documents, and whether they agree."""

import ast
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import jaxode


ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxode"
MODULES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]

# A module imports only from those that stand before it, so that each can be read
# knowing what it builds on and nothing else.
MODULE_ORDER = """
    _types _require _kernels
    _tableaus _solver _stats _context _controller _equal_steps _integrate _errors
    _adjoint _backsolve _checks _inspect _time_gradient _solve _gradient
    _layers _field _block _model _resnet
    _objective _batches _train _checkpoint
    _data _compare _torch
""".split()

# What only the experiments need must not slow down, or break, `import jaxode`.
EXPERIMENT_ONLY = """
    array_record matplotlib PIL requests rich sklearn tensorflow_datasets torch tyro
""".split()


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a new interpreter that has none of this process's JAX settings."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )


def imported_modules(source: str, package: str = "jaxode") -> set[str]:
    """Returns the first-level names inside `jaxode` that a module's source imports.

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
    return {name.removeprefix("jaxode.").split(".")[0] for name in ours}


def read_document(name: str) -> str:
    """Returns the text of a file at the project's root."""
    return (ROOT / name).read_text("utf-8")


def public_objects() -> list[Any]:
    """Returns pytest parameters: the public functions and classes, by name."""
    found = []
    for name in sorted(vars(jaxode)):
        value = getattr(jaxode, name)
        is_ours = getattr(value, "__module__", "").startswith("jaxode.")
        if not name.startswith("_") and callable(value) and is_ours:
            found.append(pytest.param(value, id=name))
    return found


def readme_examples() -> list[Any]:
    """Returns pytest parameters: the README's Python blocks, by line number."""
    text = read_document("README.md")
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        pytest.param(block[1], id=f"line{text.count(chr(10), 0, block.start()) + 1}")
        for block in blocks
    ]


def test_import_creates_no_arrays():
    code = "import jax, jaxode; print(len(jax.live_arrays()))"
    finished = run_python("-c", code)
    assert (finished.stdout.strip(), finished.returncode) == ("0", 0), finished.stderr


def test_import_leaves_out_what_only_experiments_need():
    code = f"import sys, jaxode; print(*{set(EXPERIMENT_ONLY)} & set(sys.modules))"
    finished = run_python("-c", code)
    assert (finished.stdout.strip(), finished.returncode) == ("", 0), finished.stderr


@pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_module_imports_only_earlier_ones(path: Path):
    inside = path.relative_to(PACKAGE)
    if inside == Path("__init__.py"):
        pytest.skip("it imports every module, to re-export what is public")
    module = inside.parts[0].removesuffix(".py")
    assert module in MODULE_ORDER, f"give {module} its place in MODULE_ORDER"
    # A module that is a folder may import from its own files.
    allowed = {*MODULE_ORDER[: MODULE_ORDER.index(module)], module}
    package = ".".join(["jaxode", *inside.parts[:-1]])
    text = (PACKAGE / inside).read_text("utf-8")
    assert imported_modules(text, package) <= allowed


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from ._solve import odeint", "jaxode", {"_solve"}),
        ("from . import _solve", "jaxode", {"_solve"}),
        ("from jaxode._solve import odeint", "jaxode", {"_solve"}),
        ("import jaxode._solve", "jaxode", {"_solve"}),
        ("import jaxode", "jaxode", {"jaxode"}),
        ("from jaxode import odeint", "jaxode", {"odeint"}),
        ("from ._idx import read", "jaxode._data", {"_data"}),
        ("from .._solve import odeint", "jaxode._data", {"_solve"}),
        ("def f():\n    from ._solve import odeint", "jaxode", {"_solve"}),
        ("import jax\nfrom jax import numpy", "jaxode", set()),
    ],
)
def test_imported_modules_sees_each_form(source: str, package: str, expected: set[str]):
    assert imported_modules(source, package) == expected


def test_version_is_the_same_everywhere():
    citation = read_document("CITATION.cff")
    cited = re.findall(r"^version: (\S+)$", citation, re.MULTILINE)
    installed = importlib.metadata.version("jaxode")
    found = [jaxode.__version__, installed, *cited]
    assert found == [PROJECT["version"]] * 3, "install the package again?"


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
    finished = run_python(str(script), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("value", public_objects())
def test_public_name_is_documented(value: Any):
    # A dataclass without a docstring gets its own signature for one.
    text = value.__doc__ or ""
    assert text.strip() and not text.startswith(f"{value.__name__}(")


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
