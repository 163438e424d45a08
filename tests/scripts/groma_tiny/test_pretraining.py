"""Pretraining of groma-tiny: rows and targets are true, and resuming changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from scripts.groma_tiny import pretrain_language_model as language
from scripts.groma_tiny import pretrain_vision_encoder as vision
from scripts.groma_tiny import pretraining
from scripts.groma_tiny.pretraining import Pretraining, Schedule
from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.shapes.scenes import ATTRIBUTE_WORDS, make_scene
from transformers_groma.shapes.wording import words

HUB_CONFIGS = Path(__file__).parents[3] / "hub_configs"
TINY = HUB_CONFIGS / "groma-tiny"


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def make_row() -> language.RowMaker:
    return language.RowMaker(GromaProcessor.from_pretrained(TINY))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """An untrained model, its language model of one layer."""
    folder = tmp_path_factory.mktemp("base")
    config = AutoConfig.from_pretrained(TINY)
    config.text_config.num_hidden_layers = 1
    torch.manual_seed(0)
    GromaForConditionalGeneration(config).save_pretrained(folder)
    GromaProcessor.from_pretrained(TINY).save_pretrained(folder)
    return folder


def test_learning_rate():
    schedule = Schedule(learning_rate=2.0, steps=100, warmup_steps=10, decay_steps=40)
    assert schedule.rate(0) == pytest.approx(0.2) and schedule.rate(9) == 2.0
    assert schedule.rate(10) == schedule.rate(60) == 2.0
    assert schedule.rate(80) == pytest.approx(1.0)
    assert 0 < schedule.rate(99) < 0.01


def test_matrices_of_layers_are_for_muon(tmp_path):
    module = torch.nn.ModuleDict(
        {"layers": torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3)), "head": torch.nn.Linear(3, 2)}
    )
    muon, adamw = Pretraining(module, "layers", Schedule(1e-3, 4, 1, 2), tmp_path).optimizers
    assert [list(weight.shape) for weight in muon.param_groups[0]["params"]] == [[3, 3]]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 5


@pytest.mark.parametrize("part", ["language_model", "vision_tower"])
def test_a_killed_training_resumes_and_ends_the_same(part, base, tmp_path, monkeypatch):
    module, pretrain = {
        "language_model": (language, language.pretrain_language_model),
        "vision_tower": (vision, vision.pretrain_vision_encoder),
    }[part]
    monkeypatch.setattr(module, "SCHEDULE", Schedule(learning_rate=1e-3, steps=4, warmup_steps=1, decay_steps=2))
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    monkeypatch.setattr(language, "DRILL_BATCH_SIZE", 2)
    monkeypatch.setattr(pretraining, "SAVE_STEPS", 2)
    pretrain(base, tmp_path / "whole")

    with monkeypatch.context() as context:
        rate = Schedule.rate

        def killed_at_3(schedule: Schedule, step: int) -> float:
            if step == 3:
                raise Killed
            return rate(schedule, step)

        context.setattr(Schedule, "rate", killed_at_3)
        with pytest.raises(Killed):
            pretrain(base, tmp_path / "killed")
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    pretrain(base, tmp_path / "killed")
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()

    before, whole, killed = (
        GromaForConditionalGeneration.from_pretrained(folder).state_dict()
        for folder in (base, tmp_path / "whole", tmp_path / "killed")
    )
    changed = {name for name in before if not torch.equal(before[name], whole[name])}
    assert changed, "something was learned"
    parts = (part, "lm_head") if part == "language_model" else (part,)
    assert all(any(name_of_part in name for name_of_part in parts) for name in changed), "and nothing else"
    for name, weight in whole.items():
        torch.testing.assert_close(killed[name], weight, rtol=0, atol=1e-7)


# ------------------------------------------------------------------------------------------------------ language model


@pytest.mark.parametrize("step", [0, 500, 1000, 1800])
def test_drills_point_at_the_one_region_that_fits(make_row, step):
    tokenizer = make_row.tokenizer
    for seed in range(20):
        row = make_row.drill(np.random.default_rng([seed, step]), step)
        assert len(row.input_ids) == len(row.labels)
        assert row.input_ids.count(make_row.placeholder_id) == len(row.bags)
        proxies = [index for index, label in enumerate(row.labels) if label != IGNORED_LABEL]
        text = tokenizer.decode(row.input_ids)
        bags = [set(tokenizer.decode(bag).split()) for bag in row.bags]
        first = tokenizer.convert_ids_to_tokens(row.input_ids[row.input_ids.index(make_row.placeholder_id) - 1])
        for index in proxies:
            assert row.labels[index] == row.input_ids[index]
            named = tokenizer.convert_ids_to_tokens(row.labels[index])
            said = tokenizer.decode(row.input_ids[:index]).replace("<p>", "").rsplit("</p> <roi>", 1)[0]
            # Back to the proxy before, or to the end of the region list.
            said = said.rsplit(">", 1)[-1]
            wanted = set(said.split()) - {"object"}
            fitting = [number for number, bag in enumerate(bags) if wanted <= bag]
            assert [int(named[2:-1]) - int(first[2:-1])] == fitting, text


def test_conversations_learn_answers_alone(make_row):
    tokenizer = make_row.tokenizer
    for seed in range(10):
        row = make_row.conversation(np.random.default_rng(seed), 1800)
        text = tokenizer.decode(row.input_ids)
        learned = tokenizer.decode([label for label in row.labels if label != IGNORED_LABEL])
        answers = [part.split("</s>")[0] for part in text.split("ASSISTANT:")[1:]]
        assert "".join(learned.split()) == "".join("".join(f"{answer}</s>" for answer in answers).split())
        assert row.input_ids.count(make_row.placeholder_id) == len(row.bags)


def test_region_tokens_are_sums_of_words(make_row):
    table = torch.nn.Embedding(len(make_row.tokenizer), 8)
    rows = [make_row.drill(np.random.default_rng(seed), 1000) for seed in range(3)]
    embeddings, mask, labels = language.prompt_embeddings(table, rows, make_row.placeholder_id)
    assert embeddings.shape[:2] == mask.shape == labels.shape
    for number, row in enumerate(rows):
        places = [index for index, token in enumerate(row.input_ids) if token == make_row.placeholder_id]
        for place, bag in zip(places, row.bags, strict=True):
            torch.testing.assert_close(embeddings[number, place], table.weight[bag].sum(dim=0))
        assert mask[number].sum() == len(row.input_ids)
        assert (labels[number, len(row.labels) :] == IGNORED_LABEL).all()


# ------------------------------------------------------------------------------------------------------ vision encoder


def test_patches_show_what_the_scene_holds():
    grid = 16
    for index in range(5):
        scene = make_scene(3, "train", index)
        labels, boxes = vision.patch_targets(scene, grid)
        assert labels.shape == boxes.shape == (grid * grid, 4)
        sizes = labels[:, 0]
        assert (sizes > 0).any() and (sizes == 0).any() and (sizes == IGNORED_LABEL).any()
        for item in scene.objects:
            # The patch in which an object covers most is its own, unless none is covered by half.
            shares = item.mask.reshape(grid, 14, grid, 14).mean(axis=(1, 3)).ravel()
            best = int(shares.argmax())
            if shares[best] > 0.5:
                said = [
                    list(values)[label - 1] for values, label in zip(ATTRIBUTE_WORDS.values(), labels[best].tolist())
                ]
                assert " ".join(said).replace("solid ", "") == words(item.attributes).replace("solid ", "")
                torch.testing.assert_close(boxes[best] * scene.image_size, torch.tensor(item.box_xyxy).float())
