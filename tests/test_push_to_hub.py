"""`push_to_hub` of models and processors of both families, as users of transformers call it."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageTextToText, AutoProcessor

from transformers_groma import GromaForRegionProposal

from .hub_client import use_hub
from .hub_server import LoopbackHub

HUB_CONFIGS = Path(__file__).parents[1] / "hub_configs"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(user="me") as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        yield hub


@pytest.mark.parametrize("family", ["groma", "glamm"])
def test_model_and_processor_load_from_where_they_were_pushed(hub, tmp_path, family):
    folder = shutil.copytree(HUB_CONFIGS / f"{family}-tiny", tmp_path / "somewhere" / "model")
    model, processor = (each.from_pretrained(folder) for each in (AutoModelForImageTextToText, AutoProcessor))
    model.push_to_hub("me/mine", tags=["medical"], private=True, commit_message="Weights")
    processor.push_to_hub("me/mine")
    repo = hub.repos["model", "me/mine"]
    assert repo.private and [commit.title for commit in repo.commits.values()][1] == "Weights"
    for name, content in repo.at("main").files.items():
        assert str(tmp_path).encode() not in content, name
    loaded = AutoModelForImageTextToText.from_pretrained("me/mine")
    assert type(loaded) is type(model)
    expected = model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.state_dict().items())
    again = AutoProcessor.from_pretrained("me/mine")
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert again.chat_template == processor.chat_template
    assert ModelCard(repo.at("main").files["README.md"].decode()).data.tags == [family, "visual-grounding", "medical"]


def test_a_card_on_the_hub_is_kept_and_tagged(hub):
    model = GromaForRegionProposal.from_pretrained(HUB_CONFIGS / "groma-tiny")
    model.push_to_hub("me/mine", revision="main")
    repo = hub.repos["model", "me/mine"]
    files = {**repo.at("main").files, "README.md": b"---\nlicense: mit\n---\n# My words\n"}
    repo.commit(files, "A card", parent=repo.at("main"))
    model.push_to_hub("me/mine", tags=["medical"])
    card = ModelCard(hub.files("me/mine")["README.md"].decode())
    assert "# My words" in card.text and card.data.license == "mit"
    assert card.data.tags == ["groma", "region-proposal", "medical"]


def test_tags_of_one_model_are_not_those_of_another():
    first, second = (GromaForRegionProposal.from_pretrained(HUB_CONFIGS / "groma-tiny") for _ in range(2))
    first.add_model_tags("medical")
    assert first.model_tags == ["groma", "region-proposal", "medical"]
    assert second.model_tags == ["groma", "region-proposal"]
