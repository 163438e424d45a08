"""Box formats, checks of user boxes, IoU and NMS."""

import pytest
import torch

from transformers_groma import boxes as B


@pytest.fixture
def xyxy() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 7, 2, generator=generator), torch.rand(2, 7, 2, generator=generator)
    return torch.cat([corner, corner + size], dim=-1) * 100


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (B.box_xyxy_to_cxcywh, B.box_cxcywh_to_xyxy),
        (B.box_xyxy_to_xywh, B.box_xywh_to_xyxy),
        (lambda boxes: B.normalize_boxes(boxes, 80, 60), lambda boxes: B.scale_boxes(boxes, 80, 60)),
    ],
)
def test_round_trips(xyxy, there, back):
    torch.testing.assert_close(back(there(xyxy)), xyxy)


@pytest.mark.parametrize("box_format", B.BOX_FORMATS)
def test_named_formats_agree(xyxy, box_format):
    there = {"xyxy": lambda boxes: boxes, "xywh": B.box_xyxy_to_xywh, "cxcywh": B.box_xyxy_to_cxcywh}[box_format]
    torch.testing.assert_close(B.box_to_xyxy(there(xyxy), box_format), xyxy)


def test_unknown_format():
    with pytest.raises(ValueError, match=r"'yxyx'"):
        B.box_to_xyxy(torch.zeros(1, 4), "yxyx")


def test_user_boxes_are_converted_and_clipped():
    boxes = B.prepare_user_boxes([[0.5, 0.5, 1.0, 1.0]], height=50, width=200, box_format="cxcywh", normalized=True)
    assert boxes.tolist() == [[0.0, 0.0, 200.0, 50.0]]
    assert B.prepare_user_boxes([[-1, -0.5, 20.9, 10]], height=20, width=20).tolist() == [[0, 0, 20, 10]]
    assert B.prepare_user_boxes([], 10, 10).shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[5, 5, 5, 9]], "no area"),
        ([[9, 5, 5, 9]], "inverted"),
        ([[5, float("nan"), 9, 9]], "finite"),
        ([[5, 5, 9, float("inf")]], "finite"),
        ([[5, 5, 15, 9]], "outside"),
        ([[-3, 5, 9, 9]], "outside"),
        ([5, 5, 9, 9], "shape"),
        ([[5, 5, 9]], "shape"),
        ([["a", 1, 2, 3]], "numbers"),
        ([[20.5, 2, 20.9, 9]], "no area|outside"),
    ],
)
def test_bad_user_boxes(boxes, message):
    with pytest.raises(ValueError, match=message) as error:
        B.prepare_user_boxes(boxes, height=10, width=10, name="boxes")
    assert "`boxes" in str(error.value)


def test_pixels_given_as_normalized():
    with pytest.raises(ValueError, match="normalized=False"):
        B.prepare_user_boxes([[10, 10, 50, 50]], 100, 100, normalized=True)


def test_iou():
    one = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    others = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 6.0, 6.0], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(B.box_iou(one, others), torch.tensor([[1.0, 1 / 7, 0.0, 0.0]]))
    assert B.box_iou(others[3:], others[3:]).item() == 0  # two boxes without area
    batched = B.box_iou(one.expand(3, 1, 4), others.expand(3, 4, 4))
    assert batched.shape == (3, 1, 4)
    assert B.box_iou(one.half(), others.half()).dtype == torch.float32


def sequential_nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> list[int]:
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if all(B.box_iou(boxes[index][None], boxes[other][None]).item() <= iou_threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("seed", range(20))
def test_nms_is_exactly_the_sequential_algorithm(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=generator) * 4
    boxes = torch.cat([corner, corner + 1 + torch.rand(60, 2, generator=generator)], dim=-1)
    scores = torch.rand(60, generator=generator).round(decimals=1)  # many ties
    for threshold in (0.0, 0.3, 0.6):
        assert B.nms(boxes, scores, threshold).tolist() == sequential_nms(boxes, scores, threshold)


def test_nms_mask_treats_images_alone_and_spares_protected_boxes():
    boxes = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]]]).expand(2, 3, 4)
    valid = torch.tensor([[True, True, True], [False, True, True]])
    protected = torch.tensor([[True, True, False], [False, False, False]])
    kept = B.nms_mask(boxes, valid, 0.5, protected=protected)
    assert kept.tolist() == [[True, True, False], [False, True, False]]


def test_nms_of_nothing():
    assert B.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_nms_in_a_compiled_graph():
    boxes = torch.rand(2, 9, 4)
    valid = torch.ones(2, 9, dtype=torch.bool)
    compiled = torch.compile(lambda b, v: B.nms_mask(b, v, 0.5).sum(dim=1), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(boxes, valid), B.nms_mask(boxes, valid, 0.5).sum(dim=1))
