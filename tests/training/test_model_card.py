"""The model card describes the training, and nothing of the machine."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from PIL import Image
from transformers import TrainerState

from transformers_groma import GromaForRegionProposal
from transformers_groma.training.conversation_stage import ConversationArguments, card_details
from transformers_groma.training.model_card import data_details, write_model_card

from ..tiny import MASK_DECODER, tiny_detector, tiny_detector_config
from .rows import conversations, training_arguments, training_model, training_processor

HISTORY = [
    {"step": 1, "loss": 6.0, "grad_norm": 1.0},
    {"step": 1, "eval_loss": 5.5, "eval_runtime": 1.5, "eval_steps_per_second": 3.0},
    {"step": 2, "loss": 5.25},
    {"step": 2, "eval_loss": 5.125, "eval_accuracy": 0.5},
    {"step": 2, "train_loss": 5.625, "total_flos": 1e9},
]


def finished_trainer(folder, card_details, **settings) -> SimpleNamespace:
    """What the card looks at."""
    arguments = training_arguments(folder, **settings)
    state = TrainerState(global_step=2, log_history=HISTORY)
    return SimpleNamespace(args=arguments, state=state, card_details=card_details)


def table(text: str, title: str) -> dict[str, str]:
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.strip().splitlines()[2:]]
    return {row[0]: row[1] if len(row) > 1 else "" for row in rows}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "machine" / "data").mkdir(parents=True)
    return tmp_path / "machine" / "data"


def test_card_of_local_folders(tmp_path, data):
    model = tmp_path / "machine" / "groma-base"
    detector = tmp_path / "machine" / "detector-1"
    model.mkdir()
    detector.mkdir()
    arguments = ConversationArguments(
        train_datasets=[f"{data}@train:0.5", "org/grit:0.1"], trainable_parts=["projector"], detector=str(detector)
    )
    details = card_details(str(model), arguments, conversations(10), LoRA="r 8")
    output = tmp_path / "machine" / "output" / "my-groma"
    write_model_card(output, finished_trainer(output, details))
    text = (output / "README.md").read_text()
    assert str(tmp_path) not in text
    assert "machine" not in text
    assert "# my-groma\n" in text
    assert "Training started from `groma-base`." in text
    assert 'model="my-groma"' in text
    assert table(text, "Data") == {
        "`data@train:0.5`": "",
        "`org/grit:0.1`": "",
        "`source boxes`": "8",
        "`source chat`": "2",
    }
    recipe = table(text, "Recipe")
    assert recipe["trained parts"] == "projector"
    assert recipe["steps so far"] == "2"
    assert recipe["LoRA"] == "r 8"
    assert recipe["detector"] == "detector-1"
    assert recipe["max tokens"] == "2048"
    assert recipe["learning rate"] == "0.001"
    assert recipe["lr scheduler type"] == "linear"
    assert recipe["optim"] == "adamw_torch_fused"
    assert table(text, "Metrics") == {
        "eval_accuracy": "0.5",
        "eval_loss": "5.125",
        "loss": "5.25",
        "train_loss": "5.625",
    }
    metadata = ModelCard.load(output / "README.md").data
    assert metadata.base_model is None
    assert metadata.datasets == ["org/grit"]


def test_metadata_of_hub_names(tmp_path):
    arguments = ConversationArguments(train_datasets=["org/vg", "org/vg@extra"], trainable_parts=["projector"])
    details = card_details("org/groma-base", arguments, conversations(5))
    write_model_card(tmp_path, finished_trainer(tmp_path, details, hub_model_id="me/mine"))
    text = (tmp_path / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["groma", "visual-grounding", "generated_from_trainer"],
        "base_model": "org/groma-base",
        "datasets": ["org/vg"],
    }
    # What the Hub's reader makes of it is the same.
    assert ModelCard.load(tmp_path / "README.md").data.to_dict() == header
    assert "# mine\n" in text
    assert 'model="me/mine"' in text
    assert "Training started from `org/groma-base`." in text


def test_what_the_caller_of_push_to_hub_says_is_in_the_card(tmp_path):
    write_model_card(tmp_path, finished_trainer(tmp_path, {}), "glamm", "Mine", ["medical"], "mit")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.tags[-1]) == ("mit", "medical") and "# Mine\n" in card.text


def use(text: str) -> str:
    """The Python code of the section about use."""
    return text.partition("\n## Use\n")[2].partition("```python\n")[2].partition("```")[0]


def test_the_card_of_a_detector_shows_how_to_propose_regions(tmp_path, monkeypatch):
    """Its code runs, from the card to boxes in pixels."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = GromaForRegionProposal(tiny_detector_config())
    model.save_pretrained("out")
    training_processor().image_processor.save_pretrained("out")
    Image.new("RGB", (90, 60), "white").save("photo.jpg")
    write_model_card(tmp_path, finished_trainer(tmp_path / "out", {}), "detector")
    text = (tmp_path / "README.md").read_text()
    metadata = ModelCard(text).data
    assert metadata.pipeline_tag == "object-detection"
    assert metadata.tags == ["groma", "region-proposal", "generated_from_trainer"]
    assert "image-grounding" not in text
    assert "groma train alignment --detector out" in text
    namespace: dict = {}
    exec(use(text), namespace)
    boxes = namespace["boxes"]
    assert boxes.shape[1] == 4 and 0 < len(boxes) <= 6
    sides = namespace["regions"][:, 2:] * torch.tensor([90.0, 60.0])
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], sides, atol=1e-4, rtol=1e-4)


def test_the_card_of_a_detector_with_masks_shows_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_detector(mask_decoder_config=MASK_DECODER).save_pretrained("out")
    training_processor().image_processor.save_pretrained("out")
    Image.new("RGB", (90, 60), "white").save("photo.jpg")
    write_model_card(tmp_path, finished_trainer(tmp_path / "out", {"has_masks": True}), "detector")
    namespace: dict = {}
    exec(use((tmp_path / "README.md").read_text()), namespace)
    assert namespace["masks"].logits.shape == (1, 5, 1, 28, 28)


def test_the_card_of_a_groma_with_masks_shows_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = training_model(masks=True)
    model.save_pretrained("out")
    training_processor().save_pretrained("out")
    Image.new("RGB", (90, 60), "white").save("photo.jpg")
    write_model_card(tmp_path, finished_trainer(tmp_path / "out", {"has_masks": True}))
    text = (tmp_path / "README.md").read_text()
    assert "Its mask decoder draws" in text
    namespace: dict = {}
    exec(use(text), namespace)
    assert isinstance(namespace["masks"], list)
    write_model_card(tmp_path, finished_trainer(tmp_path / "out", {}))
    assert "mask" not in (tmp_path / "README.md").read_text()


def test_a_trainer_that_tells_nothing(tmp_path):
    trainer = finished_trainer(tmp_path, {})
    trainer.state.log_history = []
    write_model_card(tmp_path, trainer)
    text = (tmp_path / "README.md").read_text()
    assert "Training started from" not in text
    assert "## Data\n\nUnknown.\n" in text
    assert "## Metrics\n\nNone were measured yet.\n" in text
    ModelCard.load(tmp_path / "README.md")


def test_output_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model_card(tmp_path, finished_trainer(".", {}))
    assert f"# {tmp_path.name}\n" in (tmp_path / "README.md").read_text()


def test_datasets_may_have_weights(data):
    """`groma train glamm` draws by weights, which may be above 1; a local folder is named without its path."""
    (data / "rec").mkdir()
    rows = Dataset.from_dict({"source": ["a", "a", "b"]})
    details = data_details([f"{data / 'rec'}:4", "org/gcg@train:0.5"], rows)
    assert details["datasets"] == [("rec:4", ""), ("org/gcg@train:0.5", ""), ("source a", 2), ("source b", 1)]
    assert details["hub_datasets"] == ["org/gcg"]
