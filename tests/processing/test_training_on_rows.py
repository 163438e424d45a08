"""Rows of the scripts go through the data path of GLaMM's training, up to a loss."""

import numpy as np
import pytest
import torch

from transformers_groma.data.mixtures import load_parts
from transformers_groma.masks import polygons_to_mask
from transformers_groma.training.glamm_collator import GlammCollator
from transformers_groma.training.glamm_data import load_typed_parts

from ..training.glamm_rows import glamm_model, glamm_processor
from . import test_glamm_gcg as gcg
from . import test_grand_dataset as grand
from . import test_label_maps as label_maps
from . import test_part_segmentation as parts
from . import test_refcoco as refcoco


@pytest.fixture(scope="module")
def model():
    return glamm_model()


def batch_of(folder, kind: str = "segmentation") -> tuple[list, dict]:
    """The rows of a folder as training loads them, and the batch of them."""
    (part,), _ = load_typed_parts({kind: [str(folder / "rows")]})
    rows = list(part.dataset)
    return rows, GlammCollator(glamm_processor())(rows)


def check_loss(model, batch: dict) -> None:
    with torch.no_grad():
        output = model(**batch)
    assert torch.isfinite(output.loss) and output.ce_loss > 0
    if "mask_labels" in batch:
        assert output.bce_loss > 0 and output.dice_loss > 0
    else:
        assert output.bce_loss is None


def texts_of(batch: dict) -> list[str]:
    tokenizer = glamm_processor().tokenizer
    return [tokenizer.decode(ids[ids != tokenizer.pad_token_id]) for ids in batch["input_ids"]]


def polygons(shapes, height: int, width: int) -> np.ndarray:
    return polygons_to_mask(list(shapes), height, width)


def test_grounded_captions_of_grand(tmp_path, model):
    assert grand.run(tmp_path, "grounded-caption") == 0
    _, batch = batch_of(tmp_path)
    (target,) = batch["mask_labels"]
    expected = [[grand.DOG], [grand.CHAIR, grand.LEFT_CHAIR]]
    for mask, shapes in zip(target.numpy(), expected, strict=True):
        assert (mask == polygons(shapes, grand.HEIGHT, grand.WIDTH)).all(), "one mask of all chairs, 0 and 1 alone"
    (text,) = texts_of(batch)
    assert text.count("[SEG]") == 2 and text.count("<p>") == 2 and "Dog" in text
    check_loss(model, batch)


@pytest.mark.parametrize(("task", "kind", "marks"), [("region-caption", "region", 4), ("caption", "caption", 0)])
def test_regions_and_captions_of_grand(tmp_path, model, task, kind, marks):
    assert grand.run(tmp_path, task) == 0
    rows, batch = batch_of(tmp_path, kind)
    assert "mask_labels" not in batch and "grounding_pixel_values" not in batch
    assert texts_of(batch)[0].count("<bbox>") == marks and len(rows) >= 1
    check_loss(model, batch)


def test_objects_without_masks_stop_training_by_a_sentence(tmp_path):
    assert grand.run(tmp_path, "dense-caption", "--keep-boxes") == 0
    with pytest.raises(ValueError, match="of which 1 have no mask"):
        batch_of(tmp_path)


def test_expressions(tmp_path, model):
    refs = [
        {**refcoco.ref(5, "train", "both animals"), "ann_id": [5, 6]},
        {**refcoco.ref(5, "train", "a horse"), "ann_id": [-1]},
        refcoco.ref(5, "train", "a dog"),
    ]
    files = refcoco.segmented_files(tmp_path, refs, "grefs(unc).json")
    assert refcoco.run(tmp_path, *refcoco.SEGMENTATION, annotations=files) == 0
    (row,), batch = batch_of(tmp_path)
    (text,) = texts_of(batch)
    assert text.count("[SEG]") == 2 and "<p>" not in text, "what is not there has no mask"
    both, dog = (polygons(shapes, 30, 40) for shapes in ([refcoco.DOG, refcoco.CAT], [refcoco.DOG]))
    found = batch["mask_labels"][0].numpy()
    assert any((mask == both).all() for mask in found) and any((mask == dog).all() for mask in found)
    assert row["image"].size == (40, 30)
    check_loss(model, batch)


def test_classes_and_parts(tmp_path, model):
    pixels = label_maps.labels(1, 2, 3)
    label_maps.write_labels(tmp_path / "ade", pixels)
    assert label_maps.run(tmp_path / "ade", label_maps.ade20k) == 0
    _, batch = batch_of(tmp_path / "ade")
    found = batch["mask_labels"][0].numpy()
    assert sorted(found.reshape(3, -1).sum(1)) == sorted((pixels == number).sum() for number in (1, 2, 3))
    assert (found.sum(0) == 1).all(), "each pixel is of one class"
    check_loss(model, batch)
    assert parts.run(tmp_path / "paco", parts.content({0: 2, 1: 2, 2: 5})) == 0
    _, batch = batch_of(tmp_path / "paco")
    assert len(batch["mask_labels"][0]) == 2
    check_loss(model, batch)


def test_grounded_conversations(tmp_path, model):
    assert gcg.run(tmp_path, gcg.of_flickr(), more=("--wording", "glamm")) == 0
    _, batch = batch_of(tmp_path)
    (text,) = texts_of(batch)
    assert "<p> A dog's </p> [SEG]" in text.replace("</p>[SEG]", "</p> [SEG]") and text.count("[SEG]") == 3
    check_loss(model, batch)
    (part,) = load_parts([str(tmp_path / "rows")], "conversation", 0, "train")
    assert "masks" in part.dataset.features
