"""A dataset, a metric, a kernel and a Space on the loopback Hub: pushed by one process, loaded by another."""

import json
from pathlib import Path

import pytest

from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from ..hub_server import LoopbackHub
from .somebody import REPOSITORY, WHOLE_KERNEL, Somebody, traces

LOAD = """
import json

import evaluate
from datasets import load_dataset
from kernels import get_kernel

rows = load_dataset("org/shapes")
metric = evaluate.load("org/rec_accuracy")
kernel = get_kernel("org/doubling", version=1, trust_remote_code=True)
print(json.dumps({
    "rows": {split: len(rows[split]) for split in rows},
    "size": rows["train"][0]["image"].size,
    "image_id": rows["train"][0]["image_id"],
    "accuracy": metric.compute(predictions=[[[0, 0, 10, 9]], []], references=[[0, 0, 10, 10]] * 2)["acc@0.5"],
    "doubled": kernel.doubled(21),
}))
"""


def plain_kernel(folder: Path) -> Path:
    """A kernel without anything to compile."""
    package, build = folder / "torch-ext" / "doubling", folder / "build" / "torch-cpu"
    for one in (package, build):
        one.mkdir(parents=True)
        (one / "__init__.py").write_text("def doubled(x):\n    return 2 * x\n\n\n__all__ = ['doubled']\n")
        (one / "layers.py").write_text("__all__ = []\n")
    (folder / "build.toml").write_text('[general]\nname = "doubling"\nversion = 1\nlicense = "MIT"\n')
    (folder / "CARD.md").write_text("---\nlicense: {{ license }}\n---\n# {{ repo_id }}\n")
    metadata = {"name": "doubling", "id": "doubling_0", "version": 1, "license": "MIT", "python-depends": []}
    (build / "metadata.json").write_text(json.dumps({**metadata, "backend": {"type": "cpu"}}))
    return folder


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The Hub after all pushes, and who pushed."""
    with LoopbackHub(user="your-name", organizations=("org",)) as hub:
        somebody = Somebody(tmp_path_factory.mktemp("machine"), hub)
        work = somebody.work
        # The dataset first has more shards, of which none may stay.
        write_shapes(ShapesOptions("rec", seed=0), 4, work / "before", num_shards=4)
        write_shapes(ShapesOptions("rec", seed=0), 4, work / "shapes", num_shards=2)
        write_shapes(ShapesOptions("rec", seed=0, split="test"), 1, work / "shapes")
        (work / "shapes" / ".env").write_text("secret")
        plain_kernel(work / "doubling")
        hub.add_repo("org/groma-tiny", REPOSITORY / "hub_configs" / "groma-tiny")
        somebody.groma(
            ["push", "before", "org/shapes", "--license", "cc-by-4.0"],
            ["push", "shapes", "org/shapes", "--license", "cc-by-4.0", "--tag", "v2"],
            ["push", REPOSITORY / "metrics" / "rec_accuracy", "org/rec_accuracy"],
            ["push", "doubling", "org/doubling"],
            ["push", "org/groma-tiny", "org/demo", "--type", "space"],
        )
        yield hub, somebody


LOADED = {
    "rows": {"train": 4, "test": 1},
    "size": [224, 224],
    "image_id": "shapes-train-0-0",
    "accuracy": 0.5,
    "doubled": 42,
}


@pytest.mark.slow  # a process that imports datasets, evaluate and kernels
def test_everything_loads_by_its_name(pushed):
    _, somebody = pushed
    assert json.loads(somebody.run(LOAD).splitlines()[-1]) == LOADED


@pytest.mark.slow
def test_offline_everything_loads_from_the_cache(pushed):
    hub, somebody = pushed
    somebody.run(LOAD)
    somebody.run(WHOLE_KERNEL, "org/doubling")
    requests = len(hub.requests)
    assert json.loads(somebody.run(LOAD, HF_HUB_OFFLINE="1").splitlines()[-1]) == LOADED
    # evaluate asks the Hub nonetheless.
    assert not [request for request in hub.requests[requests:] if "rec_accuracy" not in request]


def test_a_second_push_replaces_the_shards(pushed):
    hub, _ = pushed
    files = hub.files("org/shapes", "dataset")
    shards = {"train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"}
    assert set(files) == {"README.md", ".gitattributes"} | shards
    assert files == hub.files("org/shapes", "dataset", "v2")


def test_a_kernel_is_in_the_branch_of_its_version(pushed):
    hub, _ = pushed
    build = {f"build/torch-cpu/{name}" for name in ("__init__.py", "layers.py", "metadata.json")}
    for revision in ("main", "v1"):
        assert set(hub.files("org/doubling", "kernel", revision)) == build | {"README.md", ".gitattributes"}


def test_spaces_have_their_sdk(pushed):
    hub, _ = pushed
    assert hub.repos["space", "org/demo"].sdk == "gradio"
    assert hub.repos["space", "org/rec_accuracy"].sdk == "static"
    assert 'MODEL = "org/groma-tiny"' in hub.files("org/demo", "space")["app.py"].decode()


def test_no_byte_names_the_machine(pushed):
    hub, somebody = pushed
    assert len(hub.repos) == 5
    for (kind, name), repo in hub.repos.items():
        for commit in repo.commits.values():
            assert traces(commit.files, somebody) == [], (kind, name)
