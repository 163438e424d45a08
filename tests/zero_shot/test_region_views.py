"""Views where a Groma proposes regions, or where the caller points."""

import pytest
import torch
from PIL import Image

from transformers_groma import (
    GlammConfig,
    GlammForConditionalGeneration,
    GromaForConditionalGeneration,
    GromaForRegionProposal,
    GromaImageProcessor,
    GromaProcessor,
    Regions,
)
from transformers_groma.boxes import box_iou
from transformers_groma.regions import regions_of_slots
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.zero_shot.region_squares import MAX_IOU, squares_of_boxes
from transformers_groma.zero_shot.region_views import RegionViews, views_of_boxes

SCENES = [make_scene(index, "test", 3, 448) for index in range(3)]


@pytest.fixture(scope="module")
def proposer(tiny_dir) -> RegionViews:
    return RegionViews.from_pretrained(tiny_dir, device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Three scenes, one of them cut to a wide image."""
    first, second, third = (scene.draw() for scene in SCENES)
    return [first, second.crop((0, 100, 448, 300)), third]


@pytest.fixture(scope="module")
def squares(proposer, images) -> list[torch.Tensor]:
    return proposer(images)


def test_only_the_detector_is_loaded(proposer):
    assert type(proposer.model) is GromaForRegionProposal and not proposer.model.training
    assert isinstance(proposer.image_processor, GromaImageProcessor)


def test_each_object_of_a_scene_is_in_a_view(squares):
    for index in (0, 2):
        wanted = squares_of_boxes(SCENES[index].boxes_xyxy, (448, 448))
        assert box_iou(wanted.double(), squares[index].double()).amax(dim=1).min() > 0.6


def test_views_are_squares_of_the_proposals_best_first(proposer, images, squares):
    for image, regions, views in zip(images, proposer.regions(images), squares, strict=True):
        assert 1 < len(views) <= len(regions)
        assert views.dtype == torch.int64 and (views[:, 2:] - views[:, :2]).diff(dim=1).eq(0).all()
        assert (views >= 0).all() and (views[:, 2:] <= torch.tensor(image.size)).all()
        made = squares_of_boxes(regions.xyxy, (image.height, image.width)).tolist()
        places = [made.index(view) for view in views.tolist()]
        assert places == sorted(places)  # the model gives regions best first
        alike = box_iou(views.double(), views.double()).fill_diagonal_(0)
        assert alike.max() <= MAX_IOU


def test_views_of_an_image_do_not_depend_on_its_batch(proposer, images, squares):
    for image, views in zip(images, squares, strict=True):
        (alone,) = proposer([image])
        assert alone.shape == views.shape and (alone - views).abs().max() <= 1  # convolutions round otherwise


def test_a_whole_model_proposes_the_same(tiny_dir, images, squares):
    model = GromaForConditionalGeneration.from_pretrained(tiny_dir).train()
    whole = RegionViews(model, GromaProcessor.from_pretrained(tiny_dir), region_count=3)
    assert not model.training
    assert whole(images[:1])[0].tolist() == squares[0][:3].tolist()


def test_more_context_makes_larger_views(proposer, images):
    wide = RegionViews(proposer.model, proposer.image_processor, context=2.0)
    sides = [(views[:, 2] - views[:, 0]).double().mean() for views in (proposer(images[:1])[0], wide(images[:1])[0])]
    assert sides[1] > 1.3 * sides[0]


def test_a_model_that_is_sure_of_nothing_gives_its_best_view(proposer, images, squares, monkeypatch):
    monkeypatch.setattr(proposer.model.config, "box_score_threshold", 1.0)
    assert [views.tolist() for views in proposer(images[:1])] == [squares[0][:1].tolist()]


def test_where_nothing_is_found_there_is_no_view(proposer, images, monkeypatch):
    """A box that is not finite is not a region; a caller's own detector may find nothing."""
    propose = proposer.model.propose_regions

    def with_broken_boxes(pixel_values):
        found = propose(pixel_values)
        found.boxes[0] = float("nan")
        return found

    monkeypatch.setattr(proposer.model, "propose_regions", with_broken_boxes)
    first, second = proposer([images[0], images[2]])
    assert first.shape == (0, 4) and len(second) > 1
    assert proposer([]) == []


def test_regions_are_those_of_the_verb(proposer, images):
    pixel_values = proposer.image_processor(images=images[:1], return_tensors="pt")["pixel_values"]
    found = proposer.model.propose_regions(pixel_values)
    (wanted,) = regions_of_slots(found.boxes, found.scores, found.mask, [(448, 448)])
    assert torch.equal(proposer.regions(images[:1])[0].xyxy, wanted.xyxy)


@pytest.fixture(scope="module")
def glamm():
    class OnlyTheConfig(GlammForConditionalGeneration):
        def __init__(self):  # its parts would take a second and are not looked at
            torch.nn.Module.__init__(self)
            self.config = GlammConfig()

    return OnlyTheConfig()


def test_a_model_that_proposes_nothing_is_refused(glamm, proposer):
    with pytest.raises(ValueError, match=r"of type 'glamm' proposes no regions\. Pass a Groma or its detector"):
        RegionViews(glamm, proposer.image_processor)
    with pytest.raises(ValueError, match="A Linear proposes no regions"):
        RegionViews(torch.nn.Linear(1, 1), proposer.image_processor)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"region_count": 0}, "`region_count` must be a positive integer, got 0"),
        ({"region_count": True}, "`region_count` must be a positive integer, got True"),
        ({"batch_size": 1.5}, "`batch_size` must be a positive integer, got 1.5"),
        ({"context": 0.5}, "`context` must be a number of at least 1, got 0.5"),
    ],
)
def test_numbers_out_of_range_are_refused(proposer, kwargs, message):
    with pytest.raises(ValueError, match=message):
        RegionViews(proposer.model, proposer.image_processor, **kwargs)


def test_views_of_given_boxes_keep_their_order_and_number():
    boxes = [[40, 40, 60, 50], [40, 40, 60, 50], [0, 0, 20, 10]]
    expected = [[35, 30, 65, 60], [35, 30, 65, 60], [0, 0, 30, 30]]
    for given in (boxes, torch.tensor(boxes), Regions(boxes)):
        assert views_of_boxes(given, (100, 200), context=1.5).tolist() == expected


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([190, 40, 220, 60], r"`boxes\[0\]` = .* is outside of the 200x100"),
        ([0.1, 0.1, 0.5, 0.5], "lies within the first pixel"),
        ([60, 40, 40, 60], "is inverted"),
        ([40, 40, 40, 60], "has no area"),
        ([float("nan"), 40, 40, 60], "must be finite"),
    ],
)
def test_given_boxes_outside_of_the_image_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        views_of_boxes([box], (100, 200))
