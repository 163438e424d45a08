"""Masks: of SA-1B's annotations, of a SAM that gets boxes, of a Groma."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

from processing.grand import images, masks, models
from processing.grand.job import step_parser
from transformers_groma.masks import mask_to_rle, rle_to_mask

from .conftest import HEIGHT, WIDTH
from .test_asking import graph_row, rows
from .test_job import report

BOXES = [[0.0, 0.0, 18.0, 50.0], [20.0, 0.0, 38.0, 50.0]]


@pytest.fixture
def graphs(photos, tmp_path) -> list[str]:
    """The scene graph of image 0, with a dog and a ball."""
    from processing.grand.scene_graph import FEATURES
    from processing.grand.work_folder import shard_path, write_shard
    from transformers_groma.data.write_report import WriteReport

    arguments = [str(photos), str(tmp_path / "work")]
    assert images.main(arguments) == 0
    path = shard_path(tmp_path / "work", "scene_graph", 0, 1)
    write_shard(path, [graph_row("0", ["dog", "ball"])], FEATURES, WriteReport(), {})
    return arguments


@pytest.fixture
def filling(monkeypatch) -> list[list]:
    """A model whose masks fill the boxes; what it is asked for."""
    asked: list[list] = []

    def segment(image, boxes):
        asked.append(boxes)
        found = np.zeros((len(boxes), image.height, image.width), bool)
        for mask, (x1, y1, x2, y2) in zip(found, boxes, strict=True):
            mask[int(y1) : int(y2), int(x1) : int(x2)] = True
        return found

    monkeypatch.setattr(masks, "_segmenter", lambda args: segment)
    return asked


def box_mask(x1, y1, x2, y2):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_boxes_are_prompts(graphs, filling):
    assert masks.main([*graphs, "--model", "org/sam"]) == 0
    assert filling == [BOXES]
    first, second = rows(graphs, "masks")["0"]["masks"]
    assert first["id"] == 0 and first["source"] == "sam" and first["bbox"] == BOXES[0]
    assert np.array_equal(rle_to_mask(second), box_mask(20, 0, 38, 50))


def test_annotations_come_first_and_bring_their_boxes(graphs, filling, tmp_path):
    # The first box overlaps the annotation with an IoU of 45 / 50; the second overlaps none.
    annotation = {"segmentation": mask_to_rle(box_mask(0, 0, 18, 45)), "bbox": [0, 0, 17, 44]}
    folder = tmp_path / "sa1b"
    folder.mkdir()
    (folder / "0.json").write_text(json.dumps({"image": {}, "annotations": [annotation]}))
    assert masks.main([*graphs, "--model", "org/sam", "--annotations", str(folder)]) == 0
    assert filling == [BOXES[1:]]
    first, second = rows(graphs, "masks")["0"]["masks"]
    assert (first["source"], first["bbox"]) == ("SAM", [0.0, 0.0, 18.0, 45.0])
    assert (second["source"], second["bbox"]) == ("sam", BOXES[1])


def test_annotations_alone_leave_objects_without_a_mask(graphs, tmp_path):
    folder = tmp_path / "sa1b"
    folder.mkdir()
    annotations = [{"segmentation": mask_to_rle(box_mask(20, 0, 38, 50))}, {"segmentation": "?"}, 7]
    (folder / "0.json").write_text(json.dumps({"annotations": annotations}))
    assert masks.main([*graphs, "--annotations", str(folder)]) == 0
    assert [each["id"] for each in rows(graphs, "masks")["0"]["masks"]] == [1]
    assert sum(sum(each["parts"].values()) for each in report(graphs, "masks")) == 2


def test_a_file_of_another_kind_leaves_the_image_out(graphs, tmp_path, capsys):
    (tmp_path / "0.json").write_text("[]")
    assert masks.main([*graphs, "--annotations", str(tmp_path)]) == 1
    assert "annotation file without a list `annotations` (1)" in capsys.readouterr().err


def test_a_mask_elsewhere_is_left_out_and_counted(graphs, monkeypatch, capsys):
    everywhere = np.ones((2, HEIGHT, WIDTH), bool)
    monkeypatch.setattr(masks, "_segmenter", lambda args: lambda image, boxes: everywhere)
    assert masks.main([*graphs, "--model", "org/sam"]) == 0
    assert rows(graphs, "masks")["0"]["masks"] == []
    assert "mask of the model: mask does not fit its box" in capsys.readouterr().err


def test_without_anything_there_are_no_masks(graphs, capsys):
    assert masks.main(graphs) == 2
    assert "needs --model, --annotations or both" in capsys.readouterr().err


def test_a_sam_gets_the_boxes(tmp_path):
    """A very small SAM with random weights: masks have the size of the image, and many boxes are as one."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16,
        "image_size": 64, "patch_size": 8, "window_size": 2, "global_attn_indexes": [0], "num_pos_feats": 4,
    }  # fmt: skip
    prompt = {"hidden_size": 8, "image_size": 64, "patch_size": 8, "mask_input_channels": 4, "num_point_embeddings": 4}
    decoder = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16, "iou_head_hidden_dim": 8,
    }  # fmt: skip
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    square = {"height": 64, "width": 64}
    processor = SamProcessor(SamImageProcessor(size={"longest_edge": 64}, pad_size=square))
    model.save_pretrained(tmp_path / "sam")
    processor.save_pretrained(tmp_path / "sam")

    args = step_parser(masks.STEP, None).parse_args(["photos", "work", "--model", str(tmp_path / "sam")])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 80, 3), np.uint8))
    boxes = [[4.0, 4.0, 40.0, 30.0], [30.0, 2.0, 70.0, 38.0]]
    segment = masks._segmenter(args)
    both = segment(image, boxes)
    assert both.shape == (2, 40, 80) and both.dtype == bool
    for mask, box in zip(both, boxes, strict=True):
        assert np.array_equal(segment(image, [box])[0], mask)
    assert models.load_mask_model(args)[0].training is False


@pytest.mark.slow
def test_a_groma_gets_the_boxes(tmp_path):
    from transformers_groma.shapes.scenes import make_scene

    scene = make_scene(seed=0, split="test", index=1)
    tiny = str(Path(__file__).parents[3] / "hub_configs" / "groma-tiny")
    arguments = ["photos", "work", "--task", "image-grounding", "--model", tiny]
    args = step_parser(masks.STEP, None).parse_args(arguments)
    found = masks._segmenter(args)(scene.draw(), [list(map(float, each.box_xyxy)) for each in scene.objects])
    assert found.shape == (len(scene.objects), 224, 224) and found.any(axis=(1, 2)).all()
