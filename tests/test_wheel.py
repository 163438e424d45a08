"""The wheel without extras in a clean environment, as `pip install transformers-groma` gives it.

`make test-slow` installs the versions of constraints.txt; `make test-newest` the newest that the wheel admits.
"""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.run_document import blocks

REPOSITORY = Path(__file__).parents[1]
PHOTO = "tests/fixtures/photos/cat_and_dog.jpg"

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    """A command in a process that knows nothing of this checkout or of pytest's environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, env=kept | variables
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory) -> Path:
    """The folder of commands of a new environment with the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    newest = os.environ.get("GROMA_TEST_NEWEST") == "1"
    versions = ["--upgrade"] if newest else ["--constraint", REPOSITORY / "constraints.txt"]
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *versions, wheel, cwd=folder)
    return folder / "bin"


@pytest.fixture
def folder(tmp_path) -> Path:
    """What README's examples name, and nothing else of the checkout."""
    (tmp_path / "hub_configs").symlink_to(REPOSITORY / "hub_configs")
    (tmp_path / "tests").symlink_to(REPOSITORY / "tests")
    return tmp_path


def test_the_package_comes_from_the_wheel(bin_folder, tmp_path):
    code = "import transformers_groma; print(transformers_groma.__file__)"
    location = run(bin_folder / "python", "-c", code, cwd=tmp_path).stdout.strip()
    assert Path(location).is_relative_to(bin_folder.parent)


def test_the_wheel_has_the_templates_of_model_cards(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for path in (REPOSITORY / "src").rglob("*.md"):
        assert str(path.relative_to(REPOSITORY / "src")) in names
    assert "transformers_groma/training/model_card.md" in names


def test_demo(bin_folder, tmp_path):
    result = run(bin_folder / "groma", "demo", "--output", tmp_path / "demo", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert "Traceback" not in result.stderr
    assert len(list((tmp_path / "demo").glob("*.png"))) >= 4


def test_chat(bin_folder, folder):
    output = folder / "answer"
    question = ["What is <region>?", "--box", "30,212,372,585", "--output", output]
    result = run(bin_folder / "groma", "chat", PHOTO, *question, cwd=folder, HF_HUB_OFFLINE="1")
    assert result.stdout.strip()
    assert (output / "answer.png").stat().st_size > 1000 and (output / "answer.json").is_file()


def test_propose(bin_folder, folder):
    run(bin_folder / "groma", "propose", PHOTO, "--output", folder / "out", cwd=folder, HF_HUB_OFFLINE="1")
    assert list((folder / "out").glob("*.png")) and list((folder / "out").glob("*.json"))


def test_python_examples_of_the_readme(bin_folder, folder):
    code = "\n".join(text for language, text in blocks(REPOSITORY / "README.md") if language == "python")
    assert "from_pretrained" in code
    (folder / "readme.py").write_text(code, encoding="utf-8")
    run(bin_folder / "python", "readme.py", cwd=folder, HF_HUB_OFFLINE="1")
    assert (folder / "answer.png").stat().st_size > 1000


def test_commands_that_need_an_extra_name_it(bin_folder, tmp_path):
    """Without `train`, `data` or `eval`, their commands end in one line that says what to install."""
    for words, extra in (
        (["train", "detection", "--dataset", "x", "--model", "x", "--output_dir", "x"], "train"),
        (["data", "shapes", "--task", "rec", "--rows", "2", "--seed", "0", "--output", "x"], "data"),
        (
            ["evaluate", "rec", "--dataset", "x", "--model", REPOSITORY / "hub_configs/groma-tiny", "--output", "x"],
            "eval",
        ),
    ):
        result = subprocess.run(
            [str(word) for word in (bin_folder / "groma", *words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=dict(os.environ, PYTHONPATH=""),
        )
        assert result.returncode == 2, f"{words}: {result.stderr}"
        assert f"[{extra}]" in result.stderr and "Traceback" not in result.stderr, f"{words}: {result.stderr}"
