"""Models by their Hub name: revisions, the cache, and one sentence for each way in which it can fail."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from transformers_groma import GromaForConditionalGeneration, ImageGroundingPipeline
from transformers_groma.hub_errors import HubError
from transformers_groma.hub_models import find_model
from transformers_groma.loading import load_model
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.serving.engine import Engine

from .hub_client import use_hub
from .hub_repository import Account
from .hub_server import LoopbackHub

TINY = Path(__file__).parents[1] / "hub_configs" / "groma-tiny"
GLAMM = TINY.with_name("glamm-tiny")
REPO = "org/groma"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Models in every state that a Hub knows."""
    empty = tmp_path_factory.mktemp("empty")
    (empty / "README.md").write_text("# Nothing\n")
    adapter = tmp_path_factory.mktemp("adapter")
    model = AutoModelForImageTextToText.from_pretrained(TINY)
    model.config._name_or_path = REPO
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": REPO}))
    AutoProcessor.from_pretrained(TINY).save_pretrained(adapter)
    second = tmp_path_factory.mktemp("second")
    changed = GromaForConditionalGeneration.from_pretrained(TINY)
    with torch.no_grad():
        changed.lm_head.weight.zero_()
    changed.save_pretrained(second)
    AutoProcessor.from_pretrained(TINY).save_pretrained(second)
    with LoopbackHub(user="me") as hub:
        hub.accounts["hf_other"] = Account("other")
        hub.add_repo(REPO, TINY, tag="v1")
        hub.add_repo(REPO, second)
        hub.add_repo("org/glamm", GLAMM)
        hub.add_repo("org/adapter", adapter)
        hub.add_repo("org/private", TINY, private=True)
        hub.add_repo("org/gated", TINY, gated="manual")
        hub.add_repo("org/empty", empty)
        half = tmp_path_factory.mktemp("half")
        for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY / name, half / name)
        hub.add_repo("org/half", half)
        hub.add_repo("org/scenes", empty, "dataset")
        hub.add_repo("org/app", empty, "space")
        yield hub


@pytest.fixture(autouse=True)
def client(hub, monkeypatch, tmp_path):
    use_hub(monkeypatch, hub.url, tmp_path, token=None)
    monkeypatch.chdir(tmp_path)


def is_zeroed(model) -> bool:
    return not model.lm_head.weight.any()


@pytest.mark.parametrize("revision", [None, "main", "v1", "sha"])
def test_each_revision_is_loaded_with_its_own_weights(hub, revision):
    wanted = hub.repos["model", REPO].at("v1").sha if revision == "sha" else revision
    model, processor = load_model(REPO, "cpu", LoadingOptions(revision=wanted))
    assert is_zeroed(model) == (revision in (None, "main"))
    assert type(processor).__name__ == "GromaProcessor"


def test_all_ways_to_load_take_a_revision():
    assert not is_zeroed(ImageGroundingPipeline.from_pretrained(REPO, revision="v1", device="cpu").model)
    engine = Engine.from_pretrained(REPO, device="cpu", options=LoadingOptions(revision="v1"))
    assert not is_zeroed(engine.model)
    asyncio.run(engine.aclose(0))


def test_a_glamm(hub):
    assert load_model("org/glamm", "cpu")[0].config.model_type == "glamm"


def test_an_adapter_is_loaded_with_its_model():
    assert find_model("org/adapter") == REPO
    model, _ = load_model("org/adapter", "cpu", LoadingOptions(revision="main"))
    assert any("lora_A" in name for name, _ in model.named_parameters()) and is_zeroed(model)


def test_what_was_loaded_once_loads_without_a_connection(hub, monkeypatch, tmp_path):
    load_model(REPO, "cpu", LoadingOptions(revision="v1"))
    load_model("org/adapter", "cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    count = len(hub.requests)
    assert not is_zeroed(load_model(REPO, "cpu", LoadingOptions(revision="v1"))[0])
    assert find_model("org/adapter") == REPO
    assert len(hub.requests) == count
    with pytest.raises(HubError, match=r"org/glamm is not in the cache .* run `hf download org/glamm` where"):
        load_model("org/glamm", "cpu")
    with pytest.raises(HubError, match="org/glamm at revision 'v2' .* run `hf download org/glamm --revision v2`"):
        find_model("org/glamm", "v2")


FAILURES = {
    "missing": (
        "org/nothing",
        None,
        "there is no model 'org/nothing' on the Hub, or it is private: check the spelling at",
    ),
    "private": ("org/private", None, "'org/private' on the Hub, or it is private: .* log in with `hf auth login`"),
    "gated": ("org/gated", None, "org/gated is gated: accept its conditions at .*/org/gated, and log in with"),
    "revision": (REPO, "v9", "org/groma has no revision 'v9': it has main, v1, and the full hashes of its commits"),
    "short hash": (REPO, "abc1234", "org/groma has no revision 'abc1234'"),
    "a dataset": ("org/scenes", None, r"org/scenes is a dataset \(.*/datasets/org/scenes\), not a model"),
    "a space": ("org/app", None, r"org/app is a space \(.*/spaces/org/app\), not a model"),
    "no model": ("org/empty", None, "org/empty holds no model of transformers, as it has neither config.json nor"),
    "no weights": (
        "org/half",
        None,
        "org/half has no pytorch_model.bin or model.safetensors, so it is not a complete model: look at",
    ),
    "not a name": ("org/a b", None, "'org/a b' is neither a folder here nor a name on the Hub"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("how", ["load_model", "pipeline", "engine"])
def test_what_fails_says_in_one_sentence_what_to_do(name, how):
    model, revision, words = FAILURES[name]
    load = {
        "load_model": lambda: load_model(model, "cpu", LoadingOptions(revision=revision)),
        "pipeline": lambda: ImageGroundingPipeline.from_pretrained(model, revision=revision, device="cpu"),
        "engine": lambda: Engine.from_pretrained(model, device="cpu", options=LoadingOptions(revision=revision)),
    }[how]
    with pytest.raises(OSError, match=words) as error:
        load()
    assert isinstance(error.value, HubError) and "\n" not in str(error.value)


def test_accounts_that_are_logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(HubError, match="org/gated is gated, and the account of your token has no access: ask for it"):
        find_model("org/gated")
    with pytest.raises(HubError, match=r"the account of your token may see it \(`hf auth whoami`\)"):
        find_model("org/private")
    hub.repos["model", "org/gated"].admitted.add("other")
    assert find_model("org/gated") is None
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(HubError, match="the Hub does not know your token, log in with `hf auth login`"):
        find_model(REPO)


def test_a_slip_near_a_local_folder(tmp_path):
    (tmp_path / "models" / "groma-photos").mkdir(parents=True)
    with pytest.raises(HubError, match="did you mean the folder 'models/groma-photos'?"):
        find_model("models/groma-foto")
    with pytest.raises(HubError, match=r"'\./models/groma-photo' is not a folder; did you mean 'models/groma-photos'"):
        find_model("./models/groma-photo")


def test_no_connection_and_nothing_in_the_cache(hub, monkeypatch, tmp_path):
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "new", token=None)
    with pytest.raises(HubError, match=r"http://127.0.0.1:9 cannot be reached, and org/groma is not complete in the"):
        load_model(REPO, "cpu")


def test_a_revision_is_not_of_a_folder():
    with pytest.raises(ValueError, match="`revision='v1'` is of models on the Hub, and .* is a folder: leave it out"):
        load_model(TINY, "cpu", LoadingOptions(revision="v1"))
    with pytest.raises(ValueError, match="`revision` must be a branch, tag or commit, got ''"):
        LoadingOptions(revision="")
