"""What is said in more than one place agrees: extras, pinned versions, targets of make, the workflow, the version."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import transformers_groma

from .tracked_files import tracked_files

REPOSITORY = Path(__file__).parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
# Extras that no test installs: one needs a GPU to be of use, the other brings a whole evaluation harness.
NOT_PINNED = {"lmms-eval", "qlora"}
# Pinned, but in an environment of its own: with Ray Serve in it Ray starts its dashboard, for which slow machines
# have no time.
NOT_IN_VENV = {"scale"}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def makefile() -> str:
    return (REPOSITORY / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def constraints() -> dict[str, Version]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").split()
    pins = [line.split("==") for line in lines]
    assert all(len(pin) == 2 for pin in pins)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", makefile, flags=re.MULTILINE))


def requirements(lines: Iterable[str], extras: Iterable[str] = ("",)) -> Iterator[Requirement]:
    """Those that this machine needs."""
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement


def test_the_version_stands_in_one_place(project):
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    path = REPOSITORY / project["tool"]["hatch"]["version"]["path"]
    assert Path(transformers_groma.__file__).samefile(path) or path.name == "__init__.py"
    statements = re.findall(r'^__version__ = "(.+)"$', path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [Version(version) for version in statements] == [Version(transformers_groma.__version__)]
    others = [
        path.relative_to(REPOSITORY)
        for folder in ("src", "scripts")
        for path in (REPOSITORY / folder).rglob("*.py")
        if f'"{transformers_groma.__version__}"' in path.read_text(encoding="utf-8") and path.name != "__init__.py"
    ]
    assert others == []


def test_the_constraints_are_sorted_and_name_each_package_once(constraints):
    names = [line.split("==")[0] for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").split()]
    assert names == sorted(names, key=str.lower)
    assert len(names) == len(constraints)


def test_the_bounds_admit_the_pinned_versions(project, constraints):
    extras = project["project"]["optional-dependencies"]
    lines = [*project["project"]["dependencies"]]
    for extra in extras.keys() - NOT_PINNED:
        lines += extras[extra]
    for requirement in requirements(lines):
        name = canonicalize_name(requirement.name)
        assert name in constraints, f"constraints.txt does not pin {requirement}"
        assert requirement.specifier.contains(constraints[name]), f"{requirement}, but {constraints[name]} is pinned"


def test_all_that_the_extras_bring_is_pinned(project, constraints):
    """Walks the requirements of what is installed here; what is missing here is left to the next run elsewhere."""
    extras = project["project"]["optional-dependencies"]
    lines = [line for extra in extras.keys() - NOT_PINNED for line in extras[extra]]
    waiting = [*requirements([*project["project"]["dependencies"], *lines])]
    seen: set[tuple[str, frozenset[str]]] = set()
    wrong = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        if name not in constraints:
            wrong[name] = installed.version
        # Another version's requirements are none of ours.
        if name in constraints and constraints[name] != Version(Version(installed.version).public):
            continue
        waiting += requirements(installed.requires or [], requirement.extras or {""})
    assert len(seen) > 100
    # setuptools comes with Python's own environments.
    assert wrong.keys() <= {"setuptools"}, f"constraints.txt does not pin {wrong}"


def test_each_extra_that_a_message_names_exists(project):
    extras = set(project["project"]["optional-dependencies"])
    files = [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "README.md"]
    named = {
        name
        for path in files
        for names in re.findall(
            r"(?:transformers-groma|pip install \"\.)\[([\w,-]+)\]", path.read_text(encoding="utf-8")
        )
        for name in names.split(",")
    }
    assert {"app", "serve", "train", "data", "eval"} <= named
    assert named <= extras


def test_make_installs_every_extra_that_tests_use(project, makefile):
    (line,) = re.findall(r"^EXTRAS := (.*)$", makefile, flags=re.MULTILINE)
    assert set(line.split()) == set(project["project"]["optional-dependencies"]) - NOT_PINNED - NOT_IN_VENV


def test_every_target_says_what_it_is_for(makefile):
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert set(phony.split()) == targets(makefile)
    silent = [name for name in targets(makefile) if not re.search(rf"^{name}:.*  ## \w", makefile, re.MULTILINE)]
    assert silent == []


@pytest.fixture
def make(tmp_path):
    """Runs make with an environment whose programs only note how they are called; returns those notes."""
    programs, notes = tmp_path / "venv" / "bin", tmp_path / "notes"
    programs.mkdir(parents=True)
    for name in ("python", "groma", "ruff"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {notes}\n', encoding="utf-8")
        (programs / name).chmod(0o755)

    def run(*words: str) -> list[str]:
        notes.write_text("", encoding="utf-8")
        command = ["make", f"VENV={programs.parent}", *words]
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return notes.read_text(encoding="utf-8").splitlines()

    return run


def installed(lines: list[str]) -> list[str]:
    return [line.rpartition(" ")[2] for line in lines if "--editable" in line]


def test_the_demo_installs_the_package_alone(make):
    first, demos = (
        make("demo"),
        [
            "groma demo --output demo_output",
            "groma demo --model hub_configs/glamm-tiny --output demo_output/glamm",
        ],
    )
    assert installed(first) == ["."] and first[-2:] == demos
    assert make("demo") == demos


def test_tests_after_the_demo_add_the_extras(make):
    assert installed(make("demo")) == ["."]
    everything = ".[train,data,eval,app,serve,export,quantize,docs,dev]"
    lines = make("test")
    assert installed(lines) == [everything] and lines[-1].endswith("-m pytest -n 2 -m not slow tests")
    assert installed(make("test", "quality", "app", "serve", "docs", "test-wheel")) == []


def test_tests_before_the_demo_leave_it_nothing_to_install(make):
    assert installed(make("test")) == [".", ".[train,data,eval,app,serve,export,quantize,docs,dev]"]
    assert installed(make("demo")) == []


@pytest.mark.parametrize(("target", "extra"), [("app", "app"), ("serve", "serve"), ("docs", "docs")])
def test_a_target_installs_the_extra_that_it_needs(make, target, extra):
    assert installed(make(target)) == [".", f".[{extra}]"]
    assert installed(make(target)) == []


def test_ci_runs_what_a_contributor_runs():
    lines = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "exec make quality test"
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & 0o111


def read_workflow(path: Path) -> dict:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True)  # YAML reads `on` as a truth value
    return workflow


def steps(workflow: dict) -> Iterator[dict]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", ())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_what_exists(path, makefile):
    workflow = read_workflow(path)
    runs = [step["run"] for step in steps(workflow) if "run" in step]
    for target in (word for run in runs for word in re.findall(r"\bmake ([a-z-]+)", run)):
        assert target in targets(makefile)
    for job in workflow["jobs"].values():
        if "uses" in job:
            assert (REPOSITORY / job["uses"]).is_file()
        else:
            assert job["timeout-minutes"] <= 60
    for run in runs:
        if run.startswith("."):
            assert (REPOSITORY / run).is_file()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_no_more_rights_than_it_needs(path):
    workflow = read_workflow(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text(encoding="utf-8")
    assert "pull_request_target" not in workflow["on"]
    for name, job in workflow["jobs"].items():
        assert "permissions" not in job or (path.stem, name) == ("release", "publish")
    for step in steps(workflow):
        if "uses" in step:  # a tag can be moved to other code, a commit can't
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_the_workflow_covers_tests_docs_dist_and_each_python(project):
    workflow = read_workflow(REPOSITORY / ".github" / "workflows" / "ci.yml")
    runs = [step["run"] for step in steps(workflow) if "run" in step]
    assert {".ci/run", "make docs", "make dist"} <= set(runs)
    pythons = workflow["jobs"]["wheel"]["strategy"]["matrix"]["python"]
    named = [line.rpartition(" ")[2] for line in project["project"]["classifiers"] if "Python :: 3." in line]
    assert pythons == named
    assert project["project"]["requires-python"] == f">={pythons[0]}"


def test_the_readme_on_pypi_has_whole_addresses(project):
    """PyPI shows it without the checkout: links lead to files on GitHub, and the image comes from there."""
    (fragment,) = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["fragments"]
    readme = (REPOSITORY / fragment["path"]).read_text(encoding="utf-8")
    text = readme
    for rule in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    address = re.compile(r"(!?)\[[^]]*\]\(([^)\s]+)\)")
    before, after = address.findall(readme), address.findall(text)
    files = f"{project['project']['urls']['Repository']}/blob/main/"
    images = files.replace("github.com", "raw.githubusercontent.com").replace("/blob/", "/")
    assert any(mark for mark, _ in before) and len(before) > 10
    for (mark, path), (_, whole) in zip(before, after, strict=True):
        assert whole == (path if path.startswith("https://") else (images if mark else files) + path)
    # Nothing but addresses changes.
    assert address.sub("", text) == address.sub("", readme)


def test_the_sdist_names_what_the_checkout_has(project):
    included = {name.strip("/") for name in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    tracked = {path.relative_to(REPOSITORY).parts[0] for path in tracked_files(REPOSITORY)}
    # These two are always in an sdist.
    assert tracked - included <= {"pyproject.toml", ".gitignore"}
    assert included <= tracked


def test_the_command_line_answers_at_once():
    """`groma --help` imports nothing heavy: neither torch nor what the extras bring."""
    heavy = ("torch", "transformers", "numpy", "PIL", "gradio", "fastapi", "uvicorn", "prometheus_client", "datasets")
    code = (
        "import sys; from transformers_groma.cli import main; code = main(['--help']); "
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr.strip() == "[]"
