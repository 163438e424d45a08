"""What goes up of a kernel, in the layout of `kernels.get_kernel`; builds are made up, they are never loaded here."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from transformers_groma.publishing.kernel_contents import kernel_contents

KERNELS = Path(__file__).parents[2] / "kernels"
VARIANT = "torch-stable-abi211-cpu-x86_64-linux"


def kernel(folder: Path, name: str = "roi-align", ops: str = "ops", metadata: dict | None = None) -> Path:
    """A kernel of this repository with a build in which there is nothing to load."""
    ignored = shutil.ignore_patterns("build", ".build_local", "__pycache__")
    shutil.copytree(KERNELS / name, folder / name, ignore=ignored)
    build = folder / name / "build" / VARIANT
    (build / "__pycache__").mkdir(parents=True)
    (build / "metadata.json").write_text(json.dumps({"name": name, "version": 1, **(metadata or {})}))
    for file in ("__init__.py", "layers.py", "_lib.so", ".lock", "__pycache__/layers.pyc"):
        (build / file).write_text("")
    (build / "_ops.py").write_text(ops)
    return folder / name


@pytest.mark.parametrize(
    ("name", "functions", "layers"),
    [
        ("roi-align", ["roi_align"], ["RoiAlign"]),
        (
            "ms-deform-attn",
            ["ms_deform_attn", "ms_deform_attn_logits"],
            ["MultiScaleDeformableAttention", "MultiScaleDeformableAttentionLogits"],
        ),
    ],
)
def test_builds_benchmarks_and_card(tmp_path, name, functions, layers):
    contents = kernel_contents(kernel(tmp_path, name), f"org/{name}")
    build = {f"build/{VARIANT}/{file}" for file in ("__init__.py", "_lib.so", "_ops.py", "layers.py", "metadata.json")}
    assert set(contents.files) == build | {"README.md", "LICENSE", "benchmarks/benchmark.py"}
    assert (contents.repo_type, contents.branch) == ("kernel", "v1")
    assert contents.replaces == (f"build/{VARIANT}/*",)
    assert "cpu" in contents.left_out and "build.toml" in contents.left_out
    text = contents.files["README.md"].decode()
    card = ModelCard(text)
    assert card.data["library_name"] == "kernels" and card.data["license"] == "apache-2.0"
    assert f'get_kernel("org/{name}", version=1)' in text
    assert [line[3:-1] for line in text.splitlines() if line.startswith("- `") and line.endswith("`")] == [
        *functions,
        *layers,
    ]
    assert f"kernels benchmark org/{name} --version 1" in text


def test_the_version_names_the_branch(tmp_path):
    folder = kernel(tmp_path, metadata={"version": 2})
    toml = (folder / "build.toml").read_text()
    (folder / "build.toml").write_text(toml.replace("version = 1", "version = 2"))
    assert kernel_contents(folder, "org/roi-align").branch == "v2"


def test_builds_for_this_machine_go_up_only_if_asked(tmp_path):
    folder = kernel(tmp_path, ops='"""Loads the compiled operators. Written by build_local.py."""')
    with pytest.raises(ValueError, match="needs a C library as new as this machine's.*--local-builds"):
        kernel_contents(folder, "org/roi-align")
    assert f"build/{VARIANT}/_lib.so" in kernel_contents(folder, "org/roi-align", local_builds=True).files


def test_the_mark_of_local_builds_is_the_one_they_have():
    assert '"""Loads the compiled operators. Written by build_local.py."""' in (KERNELS / "build_local.py").read_text()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"version": 2}, "a build of roi-align version 2, not of roi-align version 1"),
        ({"name": "other"}, "a build of other version 1, not of roi-align"),
    ],
)
def test_builds_of_something_else_are_refused(tmp_path, metadata, words):
    with pytest.raises(ValueError, match=words):
        kernel_contents(kernel(tmp_path, metadata=metadata), "org/roi-align")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (f"build/{VARIANT}/metadata.json", "[]", "is not that of a build"),
        (f"build/{VARIANT}/metadata.json", None, "has no builds .*kernel-builder"),
        ("build.toml", "[general]\nname = 'x'", "cannot be read, or has no `name` and `version`"),
        ("build.toml", "[", "cannot be read"),
        ("torch-ext/roi_align/layers.py", "", "has no `__all__`"),
    ],
)
def test_what_is_missing_is_named(tmp_path, file, content, words):
    folder = kernel(tmp_path)
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(ValueError, match=words):
        kernel_contents(folder, "org/roi-align")
