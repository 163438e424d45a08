"""Box formats, checks of user boxes, IoU and NMS."""

import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transformers_groma import boxes as B
from transformers_groma.exact_boxes import BOX_INPUTS, boxes_to_bits, exact_boxes


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


def chain(length: int) -> torch.Tensor:
    """Boxes in a row, each of which overlaps its neighbours alone, with IoU 2/3: only every second one stays."""
    x = torch.arange(length, dtype=torch.float32) * 0.2
    return torch.stack([x, torch.zeros_like(x), x + 1, torch.ones_like(x)], dim=-1)


@pytest.mark.parametrize("length", [1, 2, B.NMS_BLOCK - 1, B.NMS_BLOCK, B.NMS_BLOCK + 1, 3 * B.NMS_BLOCK + 5])
def test_nms_of_a_chain_of_suppressions(length):
    valid = torch.ones(1, length, dtype=torch.bool)
    expected = torch.arange(length) % 2 == 0
    assert torch.equal(B.nms_mask(chain(length)[None], valid, 0.6)[0], expected)
    # The chain starts again behind a box that is not valid, or that is never dropped.
    if length > 2:
        valid[0, 1] = False
        assert torch.equal(B.nms_mask(chain(length)[None], valid, 0.6)[0, 2:], expected[:-2])
        protected = torch.zeros(1, length, dtype=torch.bool)
        protected[0, 1] = True
        kept = B.nms_mask(chain(length)[None], torch.ones_like(valid), 0.6, protected)[0]
        assert torch.equal(kept[1:], expected[:-1])


@pytest.mark.parametrize("seed", range(3))
def test_nms_across_blocks_is_the_sequential_algorithm(seed, monkeypatch):
    monkeypatch.setattr(B, "NMS_BLOCK", 16)
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 70, 2, generator=generator) * 3
    boxes = torch.cat([corner, corner + 1 + torch.rand(2, 70, 2, generator=generator)], dim=-1)
    valid = torch.rand(2, 70, generator=generator) > 0.2
    protected = torch.rand(2, 70, generator=generator) > 0.8
    kept = B.nms_mask(boxes, valid, 0.4, protected)
    for image in range(2):
        expected: list[int] = []
        for index in range(70):
            overlaps = [B.box_iou(boxes[image, [index]], boxes[image, [other]]).item() for other in expected]
            if valid[image, index] and (protected[image, index] or max(overlaps, default=0.0) <= 0.4):
                expected.append(index)
        assert kept[image].nonzero()[:, 0].tolist() == expected


class CountedWork(TorchDispatchMode):
    """Counts the elements that all operators write."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.elements += sum(leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
        return output


def test_the_work_of_nms_grows_with_the_square_of_the_boxes():
    def work(length: int) -> int:
        arguments = (
            chain(length)[None],
            torch.ones(1, length, dtype=torch.bool),
            torch.zeros(1, length, dtype=torch.bool),
        )
        with CountedWork() as counted:
            B._nms_mask._init_fn(*arguments, 0.6)
        return counted.elements

    once, twice, four_times = (work(n * B.NMS_BLOCK) for n in (4, 8, 16))
    assert twice < 4.5 * once and four_times < 4.5 * twice


def test_boxes_that_nms_drops_are_compared_with_no_others():
    """A detector finds each object many times: the work then grows with the boxes, not with their square."""

    def work(length: int) -> int:
        generator = torch.Generator().manual_seed(0)
        boxes = chain(20)[torch.randint(20, (length,), generator=generator)]
        nothing = torch.zeros(1, length, dtype=torch.bool)
        with CountedWork() as counted:
            kept = B._nms_mask._init_fn(boxes[None], ~nothing, nothing, 0.8)
        assert int(kept.sum()) == 20
        return counted.elements

    once, four_times = (work(n * B.NMS_BLOCK) for n in (8, 32))
    assert four_times < 4.5 * once


def test_nms_of_three_thousand_boxes_takes_no_time():
    start = time.process_time()
    kept = B.nms(chain(3000), torch.linspace(1, 0, 3000), 0.6)
    assert kept.tolist() == list(range(0, 3000, 2))
    assert time.process_time() - start < 5  # some 0.3 s; it was minutes


def test_nms_thresholds_and_limits():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1], [4, 4, 5, 5], [6, 6, 7, 7]])
    scores = torch.tensor([0.9, 0.8, 0.0, -1.0])
    assert B.nms(boxes, scores, 0.5).tolist() == [0, 1, 2, 3]  # an IoU of exactly the threshold stays
    assert B.nms(boxes, scores, 0.49).tolist() == [0, 2, 3]
    assert B.nms(boxes, scores, 0.5, score_threshold=0.8).tolist() == [0]
    assert B.nms(boxes, scores, 0.5, score_threshold=0.79).tolist() == [0, 1]
    assert B.nms(boxes, scores, 0.5, max_boxes=2).tolist() == [0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nms_leaves_out_what_is_not_finite(bad):
    boxes = torch.tensor([[0.0, 0, 2, 2], [4, 4, 5, 5], [6, 6, 7, 7]])
    for scores, expected in (([0.5, bad, 0.9], [2, 0]), ([0.5, 0.9, 0.7], [1, 2, 0])):
        assert B.nms(boxes, torch.tensor(scores), 0.5).tolist() == expected
    for place in range(4):
        spoiled = boxes.clone()
        spoiled[1, place] = bad
        assert B.nms(spoiled, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist() == [2, 0]


# ------------------------------------------------------------------------------------------- both sides of every limit


@pytest.mark.parametrize("side", range(4))
def test_a_box_may_stick_out_by_a_pixel_on_every_side(side):
    sign = -1 if side < 2 else 1

    def box(overhang: float) -> list[list[float]]:
        corners = [0.0, 0.0, 20.0, 10.0]
        corners[side] += sign * overhang
        return [corners]

    for overhang in (0.5, 1.0):
        assert B.prepare_user_boxes(box(overhang), height=10, width=20).tolist() == [[0, 0, 20, 10]]
    with pytest.raises(ValueError, match="outside of the 20x10 .* by 1.125 pixels"):
        B.prepare_user_boxes(box(1.125), height=10, width=20)


def test_one_wrong_box_among_right_ones_is_named():
    right = [1.0, 1.0, 2.0, 2.0]
    for wrong, message in (
        ([1.0, 1.0, 25.0, 2.0], r"`boxes\[1\]` = \[1.0, 1.0, 25.0, 2.0\] is outside"),
        ([5.0, 1.0, 2.0, 2.0], r"`boxes\[1\]` = .* is inverted"),
        ([1.0, 1.0, 1.0, 2.0], r"`boxes\[1\]` = .* has no area"),
        ([1.0, 1.0, float("nan"), 2.0], "must be finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            B.prepare_user_boxes([right, wrong, right], 10, 10)
    with pytest.raises(ValueError, match="look like pixels"):
        B.prepare_user_boxes([[0.1, 0.1, 0.2, 0.2], [1, 1, 9, 9]], 10, 10, normalized=True)


def test_fractions_without_normalized_are_named():
    """Fractions are no larger than 1; nobody points at the first pixel of an image."""
    for box, box_format in (([0.1, 0.2, 0.5, 0.6], "xyxy"), ([0, 0, 1, 1], "xyxy"), ([0.4, 0.4, 0.5, 0.5], "cxcywh")):
        with pytest.raises(
            ValueError, match=r"`boxes\[1\]` = .* within the first pixel of the 20x10 .*`normalized=True`"
        ):
            B.prepare_user_boxes([[3, 3, 2, 2] if box_format != "xyxy" else [1, 1, 9, 9], box], 10, 20, box_format)
        assert len(B.prepare_user_boxes([box], 10, 20, box_format, normalized=True)) == 1
    for side in range(4):  # one corner that lies in another pixel is enough
        box = [0.25, 0.25, 1.0, 1.0]
        box[side] = 1.5 if side >= 2 else -0.5
        assert len(B.prepare_user_boxes([box], 10, 20)) == 1
    assert B.prepare_user_boxes([[0, 0, 1, 1]], 1, 1).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError, match="first pixel"):
        B.prepare_user_boxes([[0, 0, 1, 1]], 1, 2)


@pytest.mark.parametrize("axis", [0, 1])
def test_boxes_must_have_an_area_along_both_axes(axis):
    def box(size: float) -> list[list[float]]:
        corners = [2.0, 3.0, 7.0, 8.0]
        corners[axis + 2] = corners[axis] + size
        return [[1, 1, 2, 2], corners]

    assert B.prepare_user_boxes(box(0.5), 10, 10).shape == (2, 4)
    with pytest.raises(ValueError, match=r"`boxes\[1\]` = .* has no area inside the 10x10"):
        B.prepare_user_boxes(box(0), 10, 10)
    with pytest.raises(ValueError, match=r"`boxes\[1\]` = .* is inverted"):
        B.prepare_user_boxes(box(-0.5), 10, 10)


def test_normalized_boxes_may_be_no_larger_than_twice_the_image():
    # 2.0 can be a size in cxcywh or a plain mistake, which the check of the image's border names; 2.1 looks like
    # pixels.
    with pytest.raises(ValueError, match="outside"):
        B.prepare_user_boxes([[0, 0, 2.0, 1]], 100, 100, normalized=True)
    with pytest.raises(ValueError, match="look like pixels"):
        B.prepare_user_boxes([[0, 0, 2.1, 1]], 100, 100, normalized=True)
    with pytest.raises(ValueError, match="look like pixels"):
        B.prepare_user_boxes([[-2.1, 0, 1, 1]], 100, 100, normalized=True)


@pytest.mark.parametrize("empty", [[], torch.zeros(0, 4), [[]]])
def test_no_boxes(empty):
    boxes = B.prepare_user_boxes(empty, 10, 10)
    assert boxes.shape == (0, 4) and boxes.dtype == torch.float32


def test_area_and_iou_along_each_axis():
    boxes = torch.tensor([[1.0, 2, 4, 7], [1, 2, 0, 7], [1, 2, 4, 1]])
    assert B.box_area(boxes).tolist() == [15, 0, 0]  # inverted boxes have no area
    box = torch.tensor([[0.0, 0, 4, 10]])
    beside = torch.tensor(
        [[3.0, 0, 7, 10], [0, 8, 4, 18], [4, 0, 8, 10], [0, 10, 4, 20], [9, 0, 10, 10], [0, 19, 4, 20]]
    )
    expected = torch.tensor([[10 / 70, 8 / 72, 0, 0, 0, 0]])
    torch.testing.assert_close(B.box_iou(box, beside), expected)
    torch.testing.assert_close(B.box_iou(beside, box), expected.T)
    assert B.box_iou(box.double(), beside.double()).dtype == torch.float64


# ------------------------------------------------------------------------------------------------- boxes of the model


def test_unpacked_boxes_are_the_used_ones_inside_the_image():
    boxes = torch.tensor(
        [[[0.5, 0.5, 0.5, 0.5], [0.1, 0.9, 0.4, 0.4], [0.9, 0.1, 0.4, 0.4]], [[0.5, 0.5, 0.2, 0.4]] * 3]
    )
    mask = torch.tensor([[True, True, False], [False, False, True]])
    first, second = B.unpack_region_boxes(boxes, mask, [(100, 200), (50, 10)])
    torch.testing.assert_close(first, torch.tensor([[50.0, 25, 150, 75], [0, 70, 60, 100]]))
    torch.testing.assert_close(second, torch.tensor([[4.0, 15, 6, 35]]))
    _, fractions = B.unpack_region_boxes(boxes, ~mask)
    torch.testing.assert_close(fractions, torch.tensor([[0.4, 0.3, 0.6, 0.7]] * 2))
    torch.testing.assert_close(B.unpack_region_boxes(boxes, ~mask)[0], torch.tensor([[0.7, 0, 1, 0.3]]))


def test_unpacked_boxes_are_float32_and_need_no_gradient():
    boxes = torch.full((1, 1, 4), 0.3, dtype=torch.float64, requires_grad=True)
    unpacked = B.unpack_region_boxes(boxes, torch.ones(1, 1, dtype=torch.bool), [(1000, 1000)])[0]
    assert unpacked.dtype == torch.float32 and not unpacked.requires_grad


@pytest.mark.parametrize("target_sizes", [[], [(10, 10)] * 3])
def test_unpacking_needs_a_size_for_each_image(target_sizes):
    with pytest.raises(ValueError, match=f"got {len(target_sizes)} for 2"):
        B.unpack_region_boxes(torch.zeros(2, 1, 4), torch.ones(2, 1, dtype=torch.bool), target_sizes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_slots_that_are_not_finite_are_not_boxes(bad, place):
    boxes = torch.full((2, 3, 4), 0.5)
    boxes[0, 1, place] = bad
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert B.finite_slots(boxes, mask).tolist() == [[True, False, False], [True, True, True]]
    assert B.finite_slots(boxes, mask.long()).dtype == torch.bool
    first, second = B.unpack_region_boxes(boxes, mask)
    assert first.tolist() == [[0.25, 0.25, 0.75, 0.75]] and len(second) == 3


def test_rounded_slots_are_not_unpacked():
    boxes = torch.tensor([[0.5, 0.5, 0.25, 1.0], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert len(B.unpack_region_boxes(B.boxes_to_bits(boxes[None]), mask)[0]) == 2
    with pytest.raises(ValueError, match="`region_boxes` is torch.float16"):
        B.unpack_region_boxes(boxes[None].half(), mask)


def test_boxes_of_the_model_in_pixels():
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4]], [[0.0, 1.0, 0.5, 0.5]]])
    found = B.boxes_in_pixels(boxes, torch.tensor([[100], [10]]), torch.tensor([[200], [20]]))
    torch.testing.assert_close(found, torch.tensor([[[80.0, 30, 120, 70]], [[0, 7.5, 5, 10]]]))
    torch.testing.assert_close(B.boxes_in_pixels(boxes[1, 0], 1, 1), torch.tensor([0, 0.75, 0.25, 1]))


def test_exact_boxes_are_found_here_too():
    assert (B.exact_boxes, B.boxes_to_bits, B.BOX_INPUTS) == (exact_boxes, boxes_to_bits, BOX_INPUTS)
