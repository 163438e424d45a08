"""The import rules: each package imports only those below it, and there is no circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import transformers_groma

PACKAGE = Path(transformers_groma.__file__).parent

# The rooms, lowest first. A module may import those of its own room and of the rooms named after it.
ROOMS = {
    "root": (),
    "models": ("root",),
    "family": ("root", "models"),
    "pipeline": ("root", "models", "family"),
    "data": ("root",),
    "shapes": ("root", "data"),
    "endpoints": ("root",),
    "evaluation": ("root", "models", "family", "pipeline", "data", "shapes", "endpoints"),
    "training": ("root", "models", "family", "pipeline", "data", "evaluation"),
    "integrations": ("root", "models", "family", "pipeline", "data", "evaluation"),
    "cli": ("root", "models", "family", "pipeline", "data", "shapes", "endpoints", "evaluation", "training"),
}
# These say where things are to be found, so they name modules of every room.
DIRECTORIES = ("__init__.py", "_registration.py", "export_remote_code.py")
# Public names of modules that moved: each is one import from the new place.
MOVED = ("data/shapes.py", "evaluation/card.py")


def room(path: Path) -> str:
    """The room of a module of the package."""
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return "pipeline" if parts[0] == "pipeline.py" else "root"
    if parts[0] == "models" and len(parts) > 2:
        return "family"
    return parts[0]


def imports(path: Path) -> Iterator[Path]:
    """The modules of the package that a module imports, also in functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(name.name.split(".")[0] == PACKAGE.name for name in node.names), (
                f"{path}: use relative imports"
            )
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level == 0:
            assert (node.module or "").split(".")[0] != PACKAGE.name, f"{path}: use relative imports"
            continue
        base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        assert base.is_relative_to(PACKAGE), f"{path}, line {node.lineno} leaves the package"
        for name in node.names:
            candidates = (
                base / f"{name.name}.py",
                base / name.name / "__init__.py",
                base.with_suffix(".py"),
                base / "__init__.py",
            )
            yield next(candidate for candidate in candidates if candidate.is_file())


def modules() -> dict[Path, set[Path]]:
    """Every module that has a room, and what it imports."""
    skipped = {PACKAGE / name for name in (*DIRECTORIES, *MOVED)}
    return {path: set(imports(path)) for path in sorted(PACKAGE.rglob("*.py")) if path not in skipped}


@pytest.fixture(scope="module")
def graph() -> dict[Path, set[Path]]:
    return modules()


def test_every_module_has_a_room(graph):
    assert {room(path) for path in graph} == set(ROOMS)


def test_rooms_stand_on_the_rooms_below(graph):
    wrong = []
    for path, imported in graph.items():
        for target in imported:
            same_family = room(path) != "family" or room(target) != "family" or path.parent == target.parent
            if room(target) not in (room(path), *ROOMS[room(path)]) or not same_family:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {target.relative_to(PACKAGE)}")
    assert not wrong, "\n".join(wrong)


def test_no_import_goes_in_a_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(str(path.relative_to(PACKAGE)) for path in reversed(error.args[1])))


def test_nobody_reaches_into_private_names(graph):
    wrong = []
    for path in graph:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = [
                    name.name for name in node.names if name.name.startswith("_") and not name.name.startswith("__")
                ]
                # Files of the root with an underscore are the package's own, not those of one module.
                wrong += [
                    f"{path.relative_to(PACKAGE)}: {name}" for name in names if not (PACKAGE / f"{name}.py").is_file()
                ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", MOVED)
def test_a_module_that_moved_is_one_import(name):
    body = ast.parse((PACKAGE / name).read_text(encoding="utf-8")).body
    assert len(body) == 2 and isinstance(body[0], ast.Expr) and isinstance(body[1], ast.ImportFrom)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Writes modules of another package and checks it; each is a file and what it imports."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)

    def write(files: dict[str, str]) -> None:
        for name, line in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{line}\n")

    return write


@pytest.mark.parametrize(
    ("name", "line", "is_allowed"),
    [
        ("models/b/modeling_b.py", "from ..modeling_ops import use_kernels", True),
        ("models/b/modeling_b.py", "from .configuration_b import Config", True),
        ("models/b/modeling_b.py", "from . import configuration_b", True),
        ("models/b/modeling_b.py", "from ..a.modeling_a import Model", False),
        ("models/modeling_ops.py", "from .b.configuration_b import Config", False),
        ("pipeline.py", "from .models.b.configuration_b import Config", True),
        ("boxes.py", "from .models.modeling_ops import use_kernels", False),
        ("data/rows.py", "from ..pipeline import pipeline", False),
        ("data/rows.py", "from ..models.modeling_ops import use_kernels", False),
        ("cli/main.py", "from ..pipeline import pipeline", True),
    ],
)
def test_who_may_import_whom(house, name, line, is_allowed):
    modules_of_others = ("models/modeling_ops", "models/a/modeling_a", "models/b/configuration_b", "pipeline")
    house({**{f"{other}.py": "" for other in modules_of_others}, name: line})
    if is_allowed:
        test_rooms_stand_on_the_rooms_below(modules())
    else:
        with pytest.raises(AssertionError, match=f"{name} imports "):
            test_rooms_stand_on_the_rooms_below(modules())


@pytest.mark.parametrize(("name", "is_private"), [("_nms", True), ("nms", False), ("__doc__", False)])
def test_private_names_are_seen(house, name, is_private):
    house({"boxes.py": "", "_files.py": "", "regions.py": f"from . import _files\nfrom .boxes import {name}"})
    if is_private:
        with pytest.raises(AssertionError, match=r"^regions\.py: _nms\n"):
            test_nobody_reaches_into_private_names(modules())
    else:
        test_nobody_reaches_into_private_names(modules())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import {package}.boxes", "use relative imports"),
        ("from {package}.boxes import nms", "use relative imports"),
        ("from {package} import boxes", "use relative imports"),
        ("from ..elsewhere import nms", "line 1 leaves the package"),
    ],
)
def test_imports_are_relative_and_stay_inside(house, tmp_path, line, message):
    house({"boxes.py": "", "regions.py": line.format(package=tmp_path.name)})
    with pytest.raises(AssertionError, match=message):
        modules()


@pytest.mark.parametrize(
    "line",
    [
        "from .models.modeling_ops import use_kernels",
        "def late():\n    from .cli import main",
        "if TYPE_CHECKING:\n    from .training.sft import train",
    ],
)
def test_the_rules_see_imports_wherever_they_stand(tmp_path, monkeypatch, line):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    for name in ("models/modeling_ops.py", "cli/__init__.py", "training/sft.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "boxes.py").write_text(f"{line}\n")
    with pytest.raises(AssertionError, match=r"boxes\.py imports"):
        test_rooms_stand_on_the_rooms_below(modules())
    for name in ("models/modeling_ops.py", "cli/__init__.py", "training/sft.py"):
        (tmp_path / name).write_text("from ..boxes import nms\n")
    with pytest.raises(pytest.fail.Exception, match=r"boxes\.py"):
        test_no_import_goes_in_a_circle(modules())
