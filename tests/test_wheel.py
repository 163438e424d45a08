"""The wheel in clean environments: without extras, as `pip install transformers-groma` gives it, and with each one.

`make test-slow` installs the versions of constraints.txt, `make test-newest` the newest that the wheel admits, and
`make test-wheel WHEEL_PYTHON=python3.13` takes another Python. pip needs its index, which may be the slowest part.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.run_document import blocks
from tests.tracked_files import tracked_files

REPOSITORY = Path(__file__).parents[1]
PHOTO = "tests/fixtures/photos/cat_and_dog.jpg"
SCENE = REPOSITORY / "docs" / "images" / "scene.png"
GROMA_TINY = REPOSITORY / "hub_configs" / "groma-tiny"
# The small black star is right of this box of the scene.
STAR = [278, 338, 345, 405]

pytestmark = pytest.mark.slow


def clean_variables(**variables: str) -> dict[str, str]:
    """Environment variables of a process that knows nothing of this checkout or of pytest's environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"HF_HUB_OFFLINE": "1"} | variables


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    """A command that ends well."""
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=clean_variables(**variables))
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The folder that `make dist` makes; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, REPOSITORY, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Callable[[str], Path]:
    """Makes environments: the folder of commands of one with the wheel and an extra, or none.

    Each starts with hard links to the one without extras, which is what pip would put there first. pip replaces
    files and never writes into them.
    """
    versions = ["--constraint", REPOSITORY / "constraints.txt"]
    if os.environ.get("GROMA_TEST_NEWEST") == "1":
        versions = ["--upgrade"]

    def install(folder: Path, what: str) -> None:
        run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *versions, what, cwd=folder)
        run(folder / "bin" / "python", "-m", "pip", "check", cwd=folder)

    @cache
    def make(extra: str = "") -> Path:
        folder = tmp_path_factory.mktemp(f"environment-{extra}") / "venv"
        if not extra:
            run(os.environ.get("GROMA_TEST_PYTHON") or sys.executable, "-m", "venv", folder, cwd=folder.parent)
            install(folder, str(wheel))
        else:
            shutil.copytree(make().parent, folder, symlinks=True, copy_function=os.link)
            # Its commands name the Python of the other environment.
            run(folder / "bin" / "python", "-m", "pip", "uninstall", "--yes", "transformers-groma", cwd=folder)
            install(folder, f"{wheel}[{extra}]")
        return folder / "bin"

    return make


@pytest.fixture(scope="module")
def bin_folder(environment) -> Path:
    """The folder of commands of the environment without extras."""
    return environment()


@pytest.fixture
def folder(tmp_path) -> Path:
    """What README's examples name, and nothing else of the checkout."""
    for name in ("docs", "hub_configs", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


@contextmanager
def running(*command: str | Path, cwd: Path) -> Iterator[str]:
    """Starts a server; gives the address that it prints, and ends it afterwards as Ctrl-C does."""
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_variables()
    )
    alarm = threading.Timer(300, process.kill)
    alarm.start()
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
            if address:
                break
        else:
            pytest.fail(f"{command} ended without an address:\n{''.join(lines)[-4000:]}")
        # Whatever it prints from now on must not fill the pipe.
        threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
        yield address[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in (0, 130), "".join(lines)[-4000:]
        assert "Traceback" not in "".join(lines), "".join(lines)[-4000:]
    finally:
        alarm.cancel()
        process.kill()
        process.wait()


def get(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.status, response.read().decode()


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 200
        return json.load(response)


# What is in the files.


def test_the_wheel_has_what_the_package_needs_and_no_more(wheel):
    files = zipfile.ZipFile(wheel).infolist()
    names = {file.filename for file in files}
    package = REPOSITORY / "src"
    wanted = {path.relative_to(package).as_posix() for path in tracked_files(package)}
    wanted |= {
        f"transformers_groma/_models/groma-tiny/{path.relative_to(GROMA_TINY).as_posix()}"
        for path in tracked_files(GROMA_TINY)
    }
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert {"transformers_groma/py.typed", "transformers_groma/training/model_card.md"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 10_000_000


def test_pypi_shows_the_readme_with_whole_addresses(wheel):
    """tests/test_packaging.py looks at each; this is that the wheel has them."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    assert "\nDescription-Content-Type: text/markdown\n" in metadata and "\n# transformers-groma\n" in metadata
    addresses = re.findall(r"\]\(([^)\s]+)\)", metadata)
    assert len(addresses) > 10 and [each for each in addresses if not each.startswith("https://")] == []


def test_the_sdist_is_the_checkout(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    tracked = {path.relative_to(REPOSITORY).as_posix() for path in tracked_files(REPOSITORY)}
    assert members.keys() - {"PKG-INFO"} == tracked
    assert members["pyproject.toml"].uid == 0 and not any(member.uname for member in members.values())
    assert path.stat().st_size < 25_000_000


def test_the_package_comes_from_the_wheel(bin_folder, tmp_path):
    code = "import transformers_groma; print(transformers_groma.__file__)"
    location = run(bin_folder / "python", "-c", code, cwd=tmp_path).stdout.strip()
    assert Path(location).is_relative_to(bin_folder.parent)


def test_the_wheel_says_its_version(wheel, bin_folder, tmp_path):
    version = run(bin_folder / "groma", "--version", cwd=tmp_path).stdout.split()[-1]
    assert wheel.name.startswith(f"transformers_groma-{version}-py3-none-any")


# Without extras.


def test_demo(bin_folder, tmp_path):
    result = run(bin_folder / "groma", "demo", "--output", tmp_path / "demo", cwd=tmp_path)
    assert "Traceback" not in result.stderr
    assert len(list((tmp_path / "demo").glob("*.png"))) >= 4


def test_chat(bin_folder, folder):
    output = folder / "answer"
    question = ["What is <region>?", "--box", "30,212,372,585", "--output", output]
    result = run(bin_folder / "groma", "chat", PHOTO, *question, cwd=folder)
    assert result.stdout.strip()
    assert (output / "answer.png").stat().st_size > 1000 and (output / "answer.json").is_file()


def test_propose(bin_folder, folder):
    run(bin_folder / "groma", "propose", PHOTO, "--output", folder / "out", cwd=folder)
    assert list((folder / "out").glob("*.png")) and list((folder / "out").glob("*.json"))


def test_python_examples_of_the_readme(bin_folder, folder):
    code = "\n".join(text for language, text in blocks(REPOSITORY / "README.md") if language == "python")
    assert "from_pretrained" in code
    (folder / "readme.py").write_text(code, encoding="utf-8")
    run(bin_folder / "python", "readme.py", cwd=folder)
    assert (folder / "answer.png").stat().st_size > 1000


def test_models_run_in_plain_torch_where_no_kernels_can_be_had(bin_folder, tmp_path):
    code = (
        "import sys; from transformers_groma import use_kernels; print(*use_kernels(sys.argv[1]).values()); "
        "print('kernels' in sys.modules)"
    )
    for source, warns in (("auto", False), ("hub", True), ("local", True), ("reference", False)):
        result = run(bin_folder / "python", "-c", code, source, cwd=tmp_path)
        assert result.stdout.split() == ["reference", "reference", "False"]
        assert ("Plain torch replaces the compiled kernels" in result.stderr) is warns


def test_commands_that_need_an_extra_name_it(bin_folder, tmp_path):
    """Without its extra a command ends in one line that says what to install."""
    for words, extra in (
        (["train", "detection", "--dataset", "x", "--model", "x", "--output_dir", "x"], "train"),
        (["data", "shapes", "--task", "rec", "--rows", "2", "--seed", "0", "--output", "x"], "data"),
        (["evaluate", "rec", "--dataset", "x", "--model", GROMA_TINY, "--output", "x"], "eval"),
        (["app", "--no-browser"], "app"),
        (["serve"], "serve"),
    ):
        result = subprocess.run(
            [str(word) for word in (bin_folder / "groma", *words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=clean_variables(),
        )
        assert result.returncode == 2, f"{words}: {result.stderr}"
        assert f'pip install "transformers-groma[{extra}]"' in result.stderr, f"{words}: {result.stderr}"
        assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1, f"{words}: {result.stderr}"


def test_a_folder_with_remote_code_needs_no_package(bin_folder, tmp_path):
    """transformers alone loads it, in an environment from which this package is gone."""
    model = tmp_path / "model"
    run(bin_folder / "python", "-m", "transformers_groma.export_remote_code", GROMA_TINY, model, cwd=tmp_path)
    without = tmp_path / "venv"
    shutil.copytree(bin_folder.parent, without, symlinks=True, copy_function=os.link)
    run(without / "bin" / "python", "-m", "pip", "uninstall", "--yes", "transformers-groma", cwd=tmp_path)
    code = f"""
from importlib.util import find_spec
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

assert find_spec("transformers_groma") is None
model = AutoModelForImageTextToText.from_pretrained({str(model)!r}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({str(model)!r}, trust_remote_code=True)
image = Image.open({str(SCENE)!r})
inputs = processor(images=image, text="What is right of <region>?", boxes=[{STAR}], return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=32, return_dict_in_generate=True)
sizes = [(image.height, image.width)]
print(processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=sizes)[0].text)
"""
    result = run(without / "bin" / "python", "-c", code, cwd=tmp_path, HF_HOME=str(tmp_path / "cache"))
    assert result.stdout.strip() == "A small black star."


# With one extra each.


def make_rows(commands: Path, folder: Path, *words: str) -> Path:
    """Four rows of questions about scenes."""
    options = ["--task", "rec", "--rows", "4", "--seed", "0", "--output", folder / "rows", *words]
    run(commands / "groma", "data", "shapes", *options, cwd=folder)
    return folder / "rows"


def test_extra_data(environment, tmp_path):
    rows = make_rows(environment("data"), tmp_path, "--preview", "2")
    assert list(rows.glob("*.parquet")) and list(rows.rglob("*.png"))
    run(environment("data") / "python", "-c", "import openai, ray.data", cwd=tmp_path)


def test_extra_eval(environment, tmp_path):
    rows = make_rows(environment("eval"), tmp_path, "--split", "test", "--evaluation")
    options = ["--model", GROMA_TINY, "--dataset", rows, "--output", tmp_path / "results"]
    run(environment("eval") / "groma", "evaluate", "rec", *options, cwd=tmp_path)
    assert list((tmp_path / "results").rglob("*.json"))


def test_extra_train(environment, tmp_path):
    rows = make_rows(environment("train"), tmp_path)
    options = ["--model_name_or_path", GROMA_TINY, "--train_datasets", rows, "--output_dir", tmp_path / "trained"]
    short = ["--max_steps", "1", "--per_device_train_batch_size", "2"]
    run(environment("train") / "groma", "train", "sft", *options, *short, cwd=tmp_path)
    assert (tmp_path / "trained" / "model.safetensors").is_file()


def test_extra_app(environment, tmp_path):
    with running(environment("app") / "groma", "app", "--no-browser", "--port", "0", cwd=tmp_path) as address:
        status, page = get(address)
    assert status == 200 and "gradio" in page


def test_extra_serve(environment, tmp_path):
    image = f"data:image/png;base64,{base64.b64encode(SCENE.read_bytes()).decode()}"
    question = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": "What is right of "},
        {"type": "region", "box": STAR},
        {"type": "text", "text": "?"},
    ]
    with running(environment("serve") / "groma", "serve", "--port", "0", cwd=tmp_path) as address:
        assert get(f"{address}/health")[0] == 200
        model = json.loads(get(f"{address}/v1/models")[1])["data"][0]["id"]
        body = {"model": model, "messages": [{"role": "user", "content": question}]}
        answer = post(f"{address}/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["content"] == "A small black star."


def test_extra_qlora(environment, tmp_path):
    run(environment("qlora") / "python", "-c", "import bitsandbytes", cwd=tmp_path)


def test_extra_docs(environment, tmp_path):
    run(environment("docs") / "zensical", "--version", cwd=tmp_path)
    run(environment("docs") / "python", "-c", "import mkdocstrings_handlers.python", cwd=tmp_path)


def test_all_extras_of_users_together(environment, tmp_path):
    """Their bounds fit each other, and a version that one of them brings breaks no other."""
    commands = environment("train,data,eval,app,serve")
    run(commands / "groma", "demo", "--output", tmp_path / "demo", cwd=tmp_path)
    code = "import accelerate, datasets, fastapi, gradio, openai, peft, prometheus_client, ray, trl, uvicorn"
    run(commands / "python", "-c", code, cwd=tmp_path)
