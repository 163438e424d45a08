"""Fingerprints differ between models and between datasets, and depend on nothing else."""

import copy

import pytest
import torch
from tokenizers import normalizers

from transformers_groma.evaluation.fingerprints import dataset_fingerprint, model_sha256

from ..training.rows import training_model, training_processor
from .samples import dataset, rec_dataset, rec_row


@pytest.fixture(scope="module")
def model():
    return training_model(), training_processor()


def test_fingerprints_tell_content_and_nothing_else(model, tmp_path):
    rows = rec_dataset(3)
    rows.to_parquet(tmp_path / "rows.parquet")
    read = type(rows).from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert dataset_fingerprint(read) == dataset_fingerprint(rows)
    changed = dataset([rec_row(0), rec_row(1), rec_row(2, target_boxes_xyxy=[[8.0, 8.0, 40.0, 41.0]])])
    image = dataset([rec_row(0), rec_row(1), rec_row(2, image=rec_row(9)["image"])])
    assert len({dataset_fingerprint(each) for each in (rows, changed, image)}) == 3

    same, other = training_model(), training_model()
    other.config.nms_threshold = 0.9  # a setting of its own
    with torch.no_grad():
        same.lm_head.weight[0, 0] += 1
    assert model_sha256(other, model[1]) == model_sha256(*model) != model_sha256(same, model[1])


def test_everything_that_makes_answers_is_in_the_fingerprint(model):
    """Also what is neither a weight nor in the vocabulary."""

    def changed_generation(model, processor):
        model.generation_config.repetition_penalty = 1.5

    def changed_config(model, processor):
        model.config.max_regions += 1

    def changed_template(model, processor):
        processor.chat_template += " "

    def changed_image_processor(model, processor):
        processor.image_processor.image_mean = [0.0, 0.0, 0.0]

    def changed_normalizer(model, processor):
        processor.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def changed_special_token(model, processor):
        processor.tokenizer.eos_token = "<unk>"

    def added_token(model, processor):
        processor.tokenizer.add_tokens(["new"])

    found = {model_sha256(*model)}
    changes = (
        changed_generation,
        changed_config,
        changed_template,
        changed_image_processor,
        changed_normalizer,
        changed_special_token,
        added_token,
    )
    for change in changes:
        other, processor = training_model(), copy.deepcopy(model[1])
        # Padding and truncation are those of the last call.
        processor.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
        assert model_sha256(other, processor) == model_sha256(*model)
        change(other, processor)
        found.add(model_sha256(other, processor))
    assert len(found) == len(changes) + 1
