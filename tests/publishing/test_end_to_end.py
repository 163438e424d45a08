"""The way of a model on the loopback Hub: push, load, fine-tune by its name, push again, load both; slow."""

import json
import shutil

import pytest
from PIL import Image

from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from ..hub_server import Account, LoopbackHub
from ..not_installed import NOT_INSTALLED
from .somebody import REPOSITORY, WHOLE_KERNEL, Somebody, traces

pytestmark = pytest.mark.slow

# What a model is: the class, all of its weights, and an answer.
LOAD = """
import hashlib, json, sys

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

name, photo, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = AutoModelForImageTextToText.from_pretrained(name, **options)
processor = AutoProcessor.from_pretrained(name, **options)
digest = hashlib.sha256()
for key, weight in sorted(model.state_dict().items()):
    digest.update(key.encode() + weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
inputs = processor(images=Image.open(photo), text="What is <region>?", boxes=[[20.0, 30.0, 200.0, 180.0]],
                   return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist()
print(json.dumps({"module": type(model).__module__, "weights": digest.hexdigest(), "answer": answer}))
"""
WITH_PACKAGE = "import transformers_groma\n" + LOAD
# The package's processes load what they train with; two steps of everything that a small model learns.
SHORT = (
    *("--max_steps", 2, "--per_device_train_batch_size", 2, "--learning_rate", "1e-3", "--report_to", "none"),
    *("--save_strategy", "no", "--disable_tqdm", True, "--use_cpu", True, "--bf16", False),
    *("--dataloader_pin_memory", False, "--use_peft", False),
)
TRAININGS = {
    "groma-tiny": ["sft", "--train_datasets", "org/shapes"],
    "glamm-tiny": ["glamm", "--segmentation_datasets", "org/shapes"],
}


class Journey:
    """A model that goes to the Hub, and what comes back."""

    def __init__(self, name: str, hub: LoopbackHub, somebody: Somebody) -> None:
        self.name, self.hub, self.somebody = f"org/{name}", hub, somebody
        self.photo = somebody.work / "photo.png"
        Image.effect_noise((320, 240), 90).convert("RGB").save(self.photo)
        self.loaded: dict[str, dict] = {}

    def load(self, code: str = WITH_PACKAGE, name: str | None = None, *, environment: dict | None = None, **options):
        """Load it in a process of its own, with these arguments of `from_pretrained`; the same once only."""
        key = json.dumps([code, name, environment, options])
        if key not in self.loaded:
            text = self.somebody.run(code, name or self.name, self.photo, json.dumps(options), **(environment or {}))
            self.loaded[key] = json.loads(text.splitlines()[-1])
        return self.loaded[key]


@pytest.fixture(scope="module", params=TRAININGS)
def journey(request, tmp_path_factory):
    """After the first push, a training from the Hub, and the second push."""
    name = request.param
    with LoopbackHub(user="your-name", organizations=("org",)) as hub:
        somebody = Somebody(tmp_path_factory.mktemp("machine"), hub)
        # A copy in the user's home, with what lies about in such folders.
        shutil.copytree(REPOSITORY / "hub_configs" / name, somebody.work / name)
        (somebody.work / name / ".env").write_text("secret")
        (somebody.work / name / "optimizer.pt").write_bytes(b"state")
        wording = "glamm" if name == "glamm-tiny" else "groma"
        write_shapes(ShapesOptions("grounding", seed=0, wording=wording), 4, somebody.work / "shapes")
        somebody.groma(
            ["push", name, f"org/{name}", "--remote-code", "--tag", "v1", "--message", "First"],
            ["push", "shapes", "org/shapes", "--license", "mit"],
            ["train", *TRAININGS[name], "--model_name_or_path", f"org/{name}", "--output_dir", "tuned", *SHORT],
            ["push", "tuned", f"org/{name}", "--remote-code", "--message", "Fine-tuned"],
        )
        yield Journey(name, hub, somebody)


def test_both_revisions_load_with_auto_classes(journey):
    old, new = journey.load(revision="v1"), journey.load()
    here = journey.load(name=str(REPOSITORY / "hub_configs" / journey.name.partition("/")[2]))
    assert old == here
    assert new["weights"] != old["weights"] and new["module"].startswith("transformers_groma.")
    commit = journey.hub.repos["model", journey.name].at("v1").sha
    assert journey.load(revision=commit) == old


def test_remote_code_loads_without_the_package(journey):
    for revision in ("v1", "main"):
        expected = journey.load(revision=revision)
        remote = journey.load(NOT_INSTALLED + LOAD, revision=revision, trust_remote_code=True)
        assert remote["module"].startswith("transformers_modules.")
        assert (remote["weights"], remote["answer"]) == (expected["weights"], expected["answer"])


def test_offline_what_was_loaded_loads_again(journey):
    online = {revision: journey.load(revision=revision) for revision in ("v1", "main")}
    requests = len(journey.hub.requests)
    for revision, expected in online.items():
        assert journey.load(revision=revision, environment={"HF_HUB_OFFLINE": "1"}) == expected
    assert len(journey.hub.requests) == requests


def test_commands_answer_by_the_name_on_the_hub(journey):
    text = journey.somebody.groma(["ask", journey.photo, "What is this?", "--model", journey.name])
    assert text.strip()


def test_one_commit_a_push_and_nothing_else_goes_up(journey):
    repo = journey.hub.repos["model", journey.name]
    titles, commit = [], repo.at("main")
    while commit is not None:
        titles.append(commit.title)
        commit = commit.parent
    assert titles == ["Fine-tuned", "First", "initial commit"]
    for revision in ("v1", "main"):
        files = repo.at(revision).files
        assert {"README.md", "config.json", "model.safetensors", "processor_config.json"} <= set(files)
        strange = [name for name in files if name.startswith(".") or name.endswith((".pt", ".bin", ".log"))]
        assert strange == [".gitattributes"]
    assert "org/shapes" in repo.at("main").files["README.md"].decode()


def test_no_byte_names_the_machine(journey):
    for (kind, name), repo in journey.hub.repos.items():
        for commit in repo.commits.values():
            assert traces(commit.files, journey.somebody) == [], (kind, name)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("missing", "there is no model 'org/none' on the Hub, or it is private"),
        ("private", "there is no model 'org/groma-tiny' on the Hub, or it is private"),
        ("gated", "org/groma-tiny is gated, and the account of your token has no access"),
        ("no revision", "org/groma-tiny has no revision 'v9': it has main, v1, and the full hashes"),
    ],
)
def test_what_may_not_be_read_is_a_sentence(tmp_path, state, words):
    with LoopbackHub(user="your-name", organizations=("org",)) as hub:
        hub.add_repo(
            "org/groma-tiny",
            REPOSITORY / "hub_configs" / "groma-tiny",
            private=state == "private",
            gated="auto" if state == "gated" else False,
            tag="v1",
        )
        hub.accounts["hf_stranger"] = Account("stranger")
        stranger = Somebody(tmp_path, hub, "hf_stranger")
        name = "org/none" if state == "missing" else "org/groma-tiny"
        revision = ["--revision", "v9"] if state == "no revision" else []
        photo = REPOSITORY / "tests" / "fixtures" / "photos" / "cat_and_dog.jpg"
        text = stranger.groma(["ask", photo, "What?", "--model", name, *revision], fails=True)
    (line,) = [line for line in text.splitlines() if line.startswith("groma ask: error:")]
    assert "Traceback" not in text and words in line, text


def test_a_real_kernel_comes_back(tmp_path):
    """Compiled here, pushed, found by its version, and used."""
    pytest.importorskip("kernels")
    if shutil.which("g++") is None:
        pytest.skip("g++ not found: no kernel can be built here")
    build = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\nimport build_local\n"
        "print(build_local.build(Path('roi-align'), 'cpu'))"
    )
    use = """
import torch
from kernels import get_kernel

kernel = get_kernel("org/roi-align", version=1, trust_remote_code=True)
crops = kernel.roi_align([torch.ones(1, 2, 8, 8)], torch.tensor([[0, 1.0, 1.0, 5.0, 5.0]]), [1.0], 2)
print([crop.tolist() for crop in crops])
"""
    with LoopbackHub(user="your-name", organizations=("org",)) as hub:
        somebody = Somebody(tmp_path, hub)
        ignored = shutil.ignore_patterns("build", ".build_local", "__pycache__")
        shutil.copytree(REPOSITORY / "kernels" / "roi-align", somebody.work / "roi-align", ignore=ignored)
        somebody.run(build, REPOSITORY / "kernels")
        refused = somebody.groma(["push", "roi-align", "org/roi-align"], fails=True)
        assert "--local-builds" in refused and not hub.repos
        somebody.groma(["push", "roi-align", "org/roi-align", "--local-builds"])
        repo = hub.repos["kernel", "org/roi-align"]
        answers = [somebody.run(use)]
        somebody.run(WHOLE_KERNEL, "org/roi-align")
        answers.append(somebody.run(use, HF_HUB_OFFLINE="1"))
        ones = [[[[1.0, 1.0], [1.0, 1.0]]] * 2]
        assert [json.loads(text.splitlines()[-1]) for text in answers] == [[ones]] * 2
        assert [traces(one.files, somebody) for one in repo.commits.values()] == [[]] * len(repo.commits)
