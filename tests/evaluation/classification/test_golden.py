"""The released code's accuracies and scores, from its images and views, through the folder of features."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from transformers_groma.evaluation.classification.accuracy import AccuracyCounter, rank_of_truth
from transformers_groma.evaluation.classification.class_names import classes_of
from transformers_groma.evaluation.classification.image_features import FeatureFolder, ViewSet, whole_image
from transformers_groma.evaluation.classification.labelled_images import FolderFiles, LabelledImages
from transformers_groma.evaluation.classification.table_rows import (
    BatchScores,
    TextFiles,
    table_rows,
    texts_of_methods,
)
from transformers_groma.evaluation.classification.view_plans import ViewPlan
from transformers_groma.zero_shot.dual_encoder import DualEncoder

from .samples import CASES, golden_case

METHODS = {"template": "clip", "ensemble": "clip-e", "dclip": "clip-d", "cupl": "cupl"}


@pytest.mark.parametrize("name", ["clip_b2_c4", "clip_b2_c4_soft"])
def test_every_method_gives_the_released_scores(tmp_path, name):
    case, tensors = golden_case(name), load_file(CASES / name / "tensors.safetensors")
    paths = sorted((CASES / name).glob("image_*.png"))
    classes = classes_of(case["classes"])
    labels = np.array(case["labels"])
    images = LabelledImages(
        name, "", classes, [path.name for path in paths], labels, np.arange(len(paths)), FolderFiles(paths), {}
    )
    encoder = DualEncoder.from_pretrained(CASES / name / "model", device="cpu")
    pool = ViewSet("pool", {"kind": "recorded"}, lambda group: list(tensors["crop_boxes_xyxy"]))
    draws = tensors["sample_indices"]
    plan = ViewPlan((("pool",),) * len(draws), draws)
    [batch] = FeatureFolder(tmp_path, images, encoder, [whole_image(), pool], {"case": name}).batches()
    files = TextFiles(case["descriptions"], case["clip_d"], case["clip_e"])
    rows = table_rows(
        encoder,
        texts_of_methods(classes.shown, [*METHODS, "wca"], files),
        {"random": plan},
        scores=("released", "paper"),
        text_temperature=case["text_temperature_multiplier"],
    )
    score = BatchScores(batch, case["image_temperature_multiplier"])
    by_name = {row.name: row for row in rows}
    for row in rows[:-2]:
        released = METHODS[row.name]
        assert row.repeats == 1
        assert torch.allclose(score(row), tensors[f"baseline.{released}.logits"], atol=1e-5)
        assert _percent(score, row, labels) == pytest.approx([case["accuracy_percent"][released]])
    wca, paper = by_name["wca-random-released"], by_name["wca-random-paper"]
    assert wca.repeats == len(draws)
    for repeat in range(len(draws)):
        assert torch.allclose(score(wca, repeat), tensors["wca_logits"][repeat], atol=1e-5)
        assert torch.allclose(score(paper, repeat), tensors["paper_scores"][repeat], atol=1e-5)
    accuracies = _percent(score, wca, labels)
    assert accuracies == pytest.approx(case["wca_accuracy_per_run"])
    assert np.mean(accuracies) == pytest.approx(np.mean(case["wca_accuracy_per_run"]))


def _percent(score, row, labels) -> list[float]:
    counter = AccuracyCounter(len(row.texts[0].labels), row.repeats)
    counter.add([rank_of_truth(score(row, repeat).numpy(), labels) for repeat in range(row.repeats)], labels)
    return (100 * counter.accuracy().top1).tolist()
