"""With `push_to_hub` each stage ends in one commit: model and card together. Against a Hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transformers_groma import GromaForRegionProposal
from transformers_groma.model_files import KNOWN_FILES

from ..hub_server import LoopbackHub
from .rows import command_line, save_training_model, training_processor, write_conversations
from .test_detection import parquet

REPOSITORY = Path(__file__).parents[2]
RUN = """
import json, sys
from transformers_groma.cli import main

for arguments in json.load(open(sys.argv[1])):
    assert main(["train", *arguments]) == 0
"""
# The weights of each stage.
STAGES = {"detection": "model.safetensors", "alignment": "model.safetensors", "sft": "adapter_model.safetensors"}


def stage_command(stage: str, folder: Path) -> list[str]:
    """One step of a stage that pushes."""
    settings = {"max_steps": 1, "push_to_hub": True, "hub_model_id": f"your-name/{stage}"}
    if stage == "detection":
        settings |= {"augmentation": "none", "eval_datasets": folder / "boxes"}
        # So that the trainer's state names the folder of a checkpoint.
        settings |= {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
        settings |= {"load_best_model_at_end": True, "hub_strategy": "end"}
    if stage == "sft":
        settings |= {"use_peft": True}
    model, data = ("detector", "boxes") if stage == "detection" else ("model", "conversations")
    return [stage, *command_line(folder / model, folder / data, folder / "output" / stage, **settings)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> LoopbackHub:
    """After all stages."""
    folder = tmp_path_factory.mktemp("push")
    model = save_training_model(folder / "model")
    GromaForRegionProposal.from_pretrained(model).save_pretrained(folder / "detector")
    training_processor().image_processor.save_pretrained(folder / "detector")
    write_conversations(folder / "conversations", 4)
    parquet(folder / "boxes", 4)
    parquet(folder / "boxes", 2, "validation", seed=1)
    for stage in STAGES:
        (folder / "output" / stage / "logs").mkdir(parents=True)
        for name in (".env", "notes.txt", "logs/key.pem"):
            (folder / "output" / stage / name).write_text("secret")
    (folder / "commands.json").write_text(json.dumps([stage_command(stage, folder) for stage in STAGES]))
    with LoopbackHub(user="your-name") as hub:
        done = subprocess.run(
            [sys.executable, "-c", RUN, "commands.json"],
            cwd=folder,
            env=os.environ
            | hub.environment(folder / "cache")
            | {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-5000:]}"
    return hub


@pytest.mark.parametrize("stage", STAGES)
def test_one_commit_holds_model_and_card(hub, stage):
    commits = [request for request in hub.requests if f"/your-name/{stage}/commit/" in request]
    assert len(commits) == 1, commits
    files = hub.files(f"your-name/{stage}")
    assert {"README.md", STAGES[stage]} <= set(files)
    card = files["README.md"].decode()
    assert f"# {stage}\n" in card and f'"your-name/{stage}"' in card
    assert "| steps so far | 1 |" in card
    if stage == "detection":
        assert "| eval_loss |" in card and "propose_regions" in card
    else:
        assert 'pipeline("image-grounding"' in card


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_but_the_model_goes_up(hub, stage):
    """Not the pickle of the arguments, nor anything else in the output folder."""
    unexpected = set(hub.files(f"your-name/{stage}")) - {*KNOWN_FILES, ".gitattributes"}
    assert not unexpected


def test_no_file_names_a_folder_of_this_machine(hub, tmp_path_factory):
    """An adapter names the model that it belongs to without its path."""
    here = str(tmp_path_factory.getbasetemp()).encode()
    naming = {
        (stage, name)
        for stage in STAGES
        for name, content in hub.files(f"your-name/{stage}").items()
        if here in content
    }
    assert not naming
    settings = json.loads(hub.files("your-name/sft")["adapter_config.json"])
    assert settings["base_model_name_or_path"] == "model"
