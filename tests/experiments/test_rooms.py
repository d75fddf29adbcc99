"""The rooms of the experiments: which of them may import from which."""

import ast
from pathlib import Path

import pytest

import adjoints
import benchmark
import mnist


EXPERIMENTS = Path(mnist.__file__).parent
MODULES = [path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.py")]
PUBLIC = {"jaxode", "jaxode.nn", "jaxode.training", "jaxode.datasets"}

# What each room may import from, besides itself.
ROOMS = {
    "console": set(),
    "classifier": {"console"},
    "adjoint_study": {"console", "classifier"},
    "speed": {"console", "classifier"},
}
COMMANDS = {
    mnist.__file__: {"console", "classifier"},
    adjoints.__file__: {"console", "adjoint_study"},
    benchmark.__file__: {"console", "speed"},
}


def imported(source: str) -> set[tuple[str, str]]:
    """Module and name of every import, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "rooms are imported by their full names"
            found |= {(node.module or "", alias.name) for alias in node.names}
    return found


def rooms(source: str) -> set[str]:
    return {module.split(".")[0] for module, _ in imported(source)} & set(ROOMS)


def private_names(source: str) -> set[str]:
    """What is imported from jaxode, or read from it, that it does not offer."""
    found = set()
    for module, name in imported(source):
        is_ours = module.split(".")[0] == "jaxode"
        if is_ours and (module not in PUBLIC or name.startswith("_")):
            found.add(f"{module}.{name}".rstrip("."))
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
            continue
        if ast.unparse(node.value).split(".")[0] == "jaxode":
            found.add(ast.unparse(node))
    return found


def read(module: Path) -> str:
    return (EXPERIMENTS / module).read_text("utf-8")


@pytest.mark.parametrize("room", list(ROOMS))
def test_room_imports_only_from_those_below(room: str):
    own = [module for module in MODULES if module.parts[0] == room]
    assert own != []
    for module in own:
        assert rooms(read(module)) <= ROOMS[room] | {room}, module


def test_every_folder_has_its_place():
    assert {m.parts[0] for m in MODULES if len(m.parts) > 1} == set(ROOMS)


@pytest.mark.parametrize("command", list(COMMANDS), ids=lambda path: Path(path).name)
def test_command_uses_its_own_rooms(command: str):
    assert rooms(Path(command).read_text("utf-8")) == COMMANDS[command]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_private_of_the_library_is_used(module: Path):
    assert private_names(read(module)) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import jaxode._solve",
        "from jaxode._solve.odeint import odeint",
        "from jaxode import _files",
        "from jaxode.training.metrics import Metrics",
        "def f():\n    import jaxode.nn.block",
        "import jaxode\njaxode._files.atomic_write",
        "import jaxode\njaxode.nn._block",
    ],
)
def test_private_names_sees_each_form(source: str):
    assert len(private_names(source)) == 1


def test_the_benchmark_takes_only_the_memory_from_the_classifier():
    own = [module for module in MODULES if module.parts[0] == "speed"]
    taken = {name for module in own for name, _ in imported(read(module))}
    assert {n for n in taken if n.startswith("classifier")} == {"classifier.memory"}
