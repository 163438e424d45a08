"""The import rules: each package imports only those below it, and there is no circle."""

import ast
import importlib
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
    "exports": ("root", "data"),
    "shapes": ("root", "data"),
    "endpoints": ("root",),
    "zero_shot": ("root", "models", "family", "pipeline", "endpoints"),
    "evaluation": ("root", "models", "family", "pipeline", "data", "shapes", "endpoints", "zero_shot"),
    "training": ("root", "models", "family", "pipeline", "data", "evaluation"),
    "integrations": ("root", "models", "family", "pipeline", "data", "evaluation"),
    "annotation": ("root", "models", "family", "pipeline", "data"),
    "serving": ("root", "models", "family", "pipeline"),
    "deploy": ("root", "models", "family", "pipeline"),
    "apps": ("root", "models", "family", "pipeline", "shapes", "serving"),
    "publishing": ("root", "models", "data", "evaluation"),
    "cli": (
        *("root", "models", "family", "pipeline", "data", "shapes", "endpoints", "evaluation", "training"),
        *("annotation", "serving", "apps", "publishing", "exports", "deploy", "zero_shot"),
    ),
}
# Modules beside the pure ones at the root that know models: the pipeline and what it is made of.
PIPELINE_MODULES = (
    *("pipeline.py", "verbs.py", "verb_inputs.py", "grounded_chat.py", "answering.py", "answer_settings.py"),
    *("loading.py", "perceived_images.py", "streaming.py", "answer_masks.py", "pointed_regions.py", "segmenting.py"),
    *("verb_steps.py", "pipeline_samples.py", "converting.py", "language_model_export.py", "perceiver_loading.py"),
    "detector_loading.py",
)
# These say where things are to be found, so they name modules of every room.
DIRECTORIES = ("__init__.py", "_registration.py", "export_remote_code.py")
# Commands stand above all rooms: `groma push` exports code.
FROM_ABOVE = {("cli", "export_remote_code.py")}
# Public names of modules that moved, for users alone: each is one import from the new place.
MOVED = ("data/shapes.py", "evaluation/card.py", "image_reading.py")
# What imports modules by a name that only a running program knows, where no import statement can be read.
LATE_IMPORTS = {"import_module", "__import__"}
LATE_IMPORTERS = {"__init__.py", "cli/train.py"}


def room(path: Path) -> str:
    """The room of a module of the package."""
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return "pipeline" if parts[0] in PIPELINE_MODULES else "root"
    if parts[0] == "models" and len(parts) > 2:
        return "family"
    return parts[0]


def imports(path: Path) -> Iterator[Path]:
    """The modules of the package that a module imports, also in functions and for type checkers.

    To import a module, Python runs the `__init__.py` of each folder on the way to it, so these are imported too.
    """
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
            if name.name == "__version__":
                continue  # a string
            candidates = (
                base / f"{name.name}.py",
                base / name.name / "__init__.py",
                base.with_suffix(".py"),
                base / "__init__.py",
            )
            target = next((candidate for candidate in candidates if candidate.is_file()), None)
            assert target, f"{path}, line {node.lineno}: there is no {base / name.name}"
            yield target
            for folder in target.parents:
                if path.is_relative_to(folder):
                    break
                if (folder / "__init__.py").is_file():
                    yield folder / "__init__.py"


def words(path: Path) -> set[str]:
    """Each name that the code of a module holds, whatever it is of."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.update(node.name.split("."))
    return found


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
            # What lists names of every room is not below any room, though it is a file of the root.
            name = target.relative_to(PACKAGE).as_posix()
            is_above = name in (*DIRECTORIES, *MOVED) and (room(path), name) not in FROM_ABOVE
            if is_above or room(target) not in (room(path), *ROOMS[room(path)]) or not same_family:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {target.relative_to(PACKAGE)}")
    assert not wrong, "\n".join(wrong)


def test_no_import_goes_in_a_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(str(path.relative_to(PACKAGE)) for path in reversed(error.args[1])))


def test_no_module_imports_private_names(graph):
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
    """It defines nothing: beside its docstring it imports, or puts the new module in its own place."""
    body = ast.parse((PACKAGE / name).read_text(encoding="utf-8")).body
    assert [type(node) for node in body] in (
        [ast.Expr, ast.ImportFrom],
        [ast.Expr, ast.Import, ast.ImportFrom, ast.Assign],
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("data.shapes", "make_scene"),
        ("evaluation.card", "add_results_to_card"),
        ("evaluation.runner", "read_predictions"),
        ("image_reading", "read_image"),
    ],
)
def test_names_that_readme_and_docs_once_showed_keep_working(module, name):
    assert callable(getattr(importlib.import_module(f"transformers_groma.{module}"), name))


def test_a_limit_set_under_the_old_name_holds(monkeypatch):
    from transformers_groma import image_reading, images

    monkeypatch.setattr(image_reading, "MAX_IMAGE_PIXELS", 3)
    with pytest.raises(images.ImageTooLargeError):
        images.check_image_pixels(2, 2)


def test_imports_are_statements():
    """An import that is a call names its module at run time, where the other tests can't see it."""
    importers = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if words(path) & LATE_IMPORTS}
    assert importers == LATE_IMPORTERS


@pytest.fixture
def write_package(tmp_path, monkeypatch):
    """Writes modules, text by name, in the place of the package."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)

    def write(**texts: str) -> Path:
        for name, text in texts.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return write


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
            test_no_module_imports_private_names(modules())
    else:
        test_no_module_imports_private_names(modules())


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
        "from . import cli",
        "from .training import sft",
        "from .training.sft import *",
        "from .cli import *",
    ],
)
def test_the_rules_see_imports_wherever_they_stand(write_package, line):
    upper = ("models/modeling_ops", "cli/__init__", "training/sft", "training/__init__")
    write_package(boxes=line, **dict.fromkeys(upper, ""))
    with pytest.raises(AssertionError, match=r"boxes\.py imports"):
        test_rooms_stand_on_the_rooms_below(modules())
    write_package(**dict.fromkeys(upper, "from ..boxes import nms"))
    with pytest.raises(pytest.fail.Exception, match=r"boxes\.py"):
        test_no_import_goes_in_a_circle(modules())


def test_names_of_every_room_are_for_users_alone(write_package):
    write_package(**{"__init__": "", "image_reading": "", "data/shapes": "", "data/mixtures": ""})
    for line in ("from .. import GromaConfig", "from ..image_reading import Image", "from .shapes import make_scene"):
        write_package(**{"data/columns": line})
        with pytest.raises(AssertionError, match=r"columns\.py imports"):
            test_rooms_stand_on_the_rooms_below(modules())
    write_package(**{"data/columns": "from .mixtures import mix", "cli/__init__": "from .. import __version__"})
    test_rooms_stand_on_the_rooms_below(modules())


def test_a_circle_may_go_through_the_file_of_a_folder(write_package):
    """Python runs `metrics/__init__.py` before `metrics/recall.py`, though no line names it."""
    texts = {"evaluation/__init__": "", "evaluation/metrics/recall": "", "evaluation/metrics/__init__": ""}
    write_package(**texts, **{"evaluation/runner": "from .metrics.recall import recall"})
    test_no_import_goes_in_a_circle(modules())
    write_package(**{"evaluation/metrics/__init__": "from ..runner import run"})
    with pytest.raises(pytest.fail.Exception, match=r"metrics/__init__\.py"):
        test_no_import_goes_in_a_circle(modules())


@pytest.mark.parametrize(
    "line",
    [
        'importlib.import_module("..training", __package__)',
        "from importlib import import_module as load",
        'def late():\n    return __import__("transformers_groma.cli")',
        "load = importlib.__import__",
    ],
)
def test_calls_that_import_are_seen(write_package, line):
    write_package(**dict.fromkeys(("__init__", "cli/train"), "importlib.import_module(name)"))
    test_imports_are_statements()
    write_package(boxes=line)
    with pytest.raises(AssertionError, match=r"boxes\.py"):
        test_imports_are_statements()


@pytest.mark.parametrize(
    "line",
    [
        "def late():\n    import transformers_groma.cli",
        "import transformers_groma as groma",
        "from transformers_groma.cli import main",
    ],
)
def test_absolute_imports_of_the_package_are_refused(write_package, monkeypatch, line):
    folder = write_package(**{"transformers_groma/boxes": line}) / "transformers_groma"
    monkeypatch.setitem(globals(), "PACKAGE", folder)
    with pytest.raises(AssertionError, match="use relative imports"):
        modules()
