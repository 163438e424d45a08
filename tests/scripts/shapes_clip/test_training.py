"""shapes-clip is an ordinary dual encoder: it trains, resumes, loads with the Auto classes and is evaluated."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor, Trainer, pipeline

from scripts.shapes_clip import comparison, evaluate, features
from scripts.shapes_clip.scenes import CLASSES, Layout, make_cluttered_scene
from scripts.shapes_clip.train import train
from transformers_groma.zero_shot.dual_encoder import DualEncoder

GROMA_TINY = Path(__file__).parents[3] / "hub_configs" / "groma-tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("shapes-clip"), steps=2, batch_size=4)


def test_it_loads_as_any_clip_and_is_small(trained):
    model = AutoModel.from_pretrained(trained)
    assert sum(weight.numel() for weight in model.parameters()) * 4 < 2e6
    assert AutoProcessor.from_pretrained(trained).tokenizer.model_max_length == 32
    assert not (trained / "checkpoints").exists()
    image = make_cluttered_scene("test", 0, Layout((0.4, 0.5), (3, 3)), CLASSES[0]).image
    scores = pipeline("zero-shot-image-classification", str(trained))(image, candidate_labels=["red", "blue"])
    assert {one["label"] for one in scores} == {"red", "blue"}


def test_an_interrupted_training_resumes_and_gives_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.shapes_clip.train.SAVE_STEPS", 2)
    whole = AutoModel.from_pretrained(train(tmp_path / "whole", steps=4, batch_size=4))
    steps = 0

    def killed(trainer, *arguments, **options):
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return step(trainer, *arguments, **options)

    step = Trainer.training_step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "training_step", killed)
        train(tmp_path / "resumed", steps=4, batch_size=4)
    assert (tmp_path / "resumed" / "checkpoints" / "checkpoint-2").is_dir()
    resumed = AutoModel.from_pretrained(train(tmp_path / "resumed", steps=4, batch_size=4))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, msg=name)


def test_the_evaluation_prints_tables_and_one_line_of_json_and_keeps_features(trained, tmp_path, monkeypatch, capsys):
    for module in (features, comparison):
        monkeypatch.setattr(module, "CLASSES", CLASSES[:6])
    monkeypatch.setattr(features, "VIEW_COUNT", 4)
    monkeypatch.setattr(evaluate, "VIEW_COUNT", 4)
    monkeypatch.setattr(comparison, "IMAGE_TEMPERATURES", (0.0, 54.6))
    monkeypatch.setattr(comparison, "TEXT_TEMPERATURES", (7.4,))
    arguments = [
        "evaluate",
        str(trained),
        str(tmp_path),
        "--images",
        "4",
        "--seeds",
        "2",
        "--proposer",
        str(GROMA_TINY),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    evaluate.main()
    *lines, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["images"] == {"clutter": 4, "no clutter": 2, "small": 2, "validation": 2}
    assert len(result["accuracy"]["clutter"]) == len(comparison.ROWS) == 16
    assert sum(line.startswith("| ") for line in lines) == 2 + 16 + 1 + 11
    # A second run reads what the first one encoded.
    monkeypatch.setattr(features, "_encode_chunk", None)
    evaluate.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


def test_rows_are_right_where_views_point_at_the_class(trained):
    encoder = DualEncoder.from_pretrained(str(trained), device="cpu")
    texts = comparison.Texts(encoder).of("template", None)
    labels = torch.tensor([7, 250])
    wanted = torch.nn.functional.normalize(texts.pooled[labels], dim=-1)
    opposite = -wanted
    # The whole image points away from the class; of the views one fits, the other is padding.
    found = features.SetFeatures(
        whole=opposite,
        views={features.REGIONS: torch.stack([wanted, opposite], dim=1)},
        is_padding={features.REGIONS: torch.tensor([[False, True], [False, True]])},
    )
    row = comparison.Row((features.REGIONS,), "template", "released")
    assert comparison.correct(found, labels, row, texts, 1.0, 0).all()
    assert not comparison.correct(found, labels, comparison.Row((), "template", "released"), texts, 1.0, 0).any()
    # Without any view an image is seen as a whole.
    nothing = features.SetFeatures(wanted, found.views, {features.REGIONS: torch.ones(2, 2, dtype=torch.bool)})
    assert comparison.correct(nothing, labels, row, texts, 1.0, 0).all()


@pytest.mark.slow
def test_300_steps_teach_colors_and_textures(tmp_path):
    encoder = DualEncoder.from_pretrained(str(train(tmp_path, steps=300)), device="cpu")
    layout = Layout((0.5, 0.6), (6, 12))
    shown = range(0, 300, 2)
    images = [make_cluttered_scene("test", number, layout, CLASSES[number]).image for number in shown]
    texts = encoder.encode_texts([f"a {kind.name}." for kind in CLASSES])
    found = [CLASSES[number] for number in (encoder.encode_images(images) @ texts.T).argmax(dim=1).tolist()]
    right = [
        sum(one[part] == CLASSES[number][part] for one, number in zip(found, shown, strict=True)) for part in range(2)
    ]
    assert min(right) > 0.7 * len(shown), right
