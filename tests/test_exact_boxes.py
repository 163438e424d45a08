"""Boxes that survive casts: which forms are accepted and which are refused."""

import pytest
import torch

from transformers_groma.exact_boxes import BOX_INPUTS, boxes_to_bits, exact_boxes

BOXES = torch.tensor([[0.123456789, 0.5, 1e-4, 1.0], [0.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize("boxes", [BOXES, BOXES.double(), boxes_to_bits(BOXES), boxes_to_bits(BOXES.double())])
def test_exact_forms_are_read_without_a_rounding(boxes):
    exact = exact_boxes(boxes)
    assert exact.dtype == torch.float32
    assert torch.equal(exact, BOXES)


def test_bits_are_integers_of_the_same_shape_and_stay_bits():
    bits = boxes_to_bits(BOXES)
    assert bits.dtype == torch.int32 and bits.shape == BOXES.shape
    assert torch.equal(boxes_to_bits(bits), bits)
    strided = BOXES.expand(3, 2, 4).transpose(0, 1)
    assert torch.equal(exact_boxes(boxes_to_bits(strided)), strided)


@pytest.mark.parametrize(("dtype", "steps"), [(torch.bfloat16, 256), (torch.float16, 2048), (torch.float8_e4m3fn, 16)])
@pytest.mark.parametrize("read", [exact_boxes, lambda boxes, name: boxes_to_bits(boxes)])
def test_rounded_boxes_are_refused(dtype, steps, read):
    name = "refer_boxes" if read is exact_boxes else "boxes"
    with pytest.raises(ValueError, match=rf"`{name}` is {dtype}, which rounds boxes to steps of 1/{steps} of"):
        read(BOXES.to(dtype), name)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.bool])
def test_other_integers_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"`boxes` must be normalized boxes in float32, got {dtype}"):
        exact_boxes(torch.ones(1, 4, dtype=dtype))


def test_what_casts_by_name():
    assert set(BOX_INPUTS) >= {"refer_boxes", "ground_boxes", "proposal_boxes", "proposal_scores", "boxes"}
