"""Regions given by points: as model inputs, with and without a mask decoder."""

from dataclasses import replace

import pytest
import torch

from ...tiny import MASK_DECODER, prompt_ids, tiny_inputs, tiny_model

CLICK = torch.tensor([[[[0.3, 0.6], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
LABELS = torch.tensor([[[1, -1], [-1, -1]]])
# The first region is a click, with the one-pixel box that counts it; the second a box.
BOXES = torch.tensor([[[0.3, 0.6, 0.02, 0.02], [0.6, 0.4, 0.5, 0.3]]])


@pytest.fixture(scope="module", params=[None, MASK_DECODER], ids=["boxes only", "mask decoder"])
def model(request):
    return tiny_model(mask_decoder_config=request.param)


def click_inputs(model, **changes) -> dict[str, torch.Tensor]:
    ids = torch.tensor([prompt_ids(model.config, num_boxes=2)])
    pixels = tiny_inputs(model.config, batch_size=1)["pixel_values"]
    inputs = {"input_ids": ids, "pixel_values": pixels, "refer_boxes": BOXES}
    return {**inputs, "refer_points": CLICK, "refer_point_labels": LABELS, **changes}


def resolved(model) -> torch.Tensor:
    features = model.get_image_features(click_inputs(model)["pixel_values"])
    regions = model.resolve_points(features, BOXES, refer_points=CLICK, refer_point_labels=LABELS)
    assert regions.is_decoded.tolist() == [[True, False]]
    assert torch.equal(regions.boxes[:, 1], BOXES[:, 1])
    assert not torch.equal(regions.boxes[:, 0], BOXES[:, 0])
    return regions.boxes


def test_every_way_in_resolves_points_alike(model):
    """`forward`, `generate`, features from pixels and from features: as if the resolved boxes had been given."""
    boxes = resolved(model)
    inputs = click_inputs(model)
    as_boxes = {name: value for name, value in inputs.items() if "point" not in name} | {"refer_boxes": boxes}
    points = {"refer_points": CLICK, "refer_point_labels": LABELS}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model(**as_boxes).logits)
    settings = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    given, wanted = model.generate(**inputs, **settings), model.generate(**as_boxes, **settings)
    assert torch.equal(given.sequences[:, -4:], wanted.sequences[:, -4:])
    assert torch.equal(given.region_boxes, wanted.region_boxes)
    pixels = inputs["pixel_values"]
    wanted = model.get_image_features(pixels, boxes)
    features = model.get_image_features(pixels)
    assert torch.equal(model.resolve_points(features, BOXES, CLICK, LABELS).boxes, boxes)
    for given in (model.get_image_features(pixels, BOXES, **points), model.encode_regions(features, BOXES, **points)):
        assert torch.equal(given.region_boxes, wanted.region_boxes)
        torch.testing.assert_close(given.pooler_output[0], wanted.pooler_output[0], atol=1e-5, rtol=1e-5)
    inputs.pop("pixel_values")
    given = model.generate(**inputs, mm_encoder_outputs={"image": features}, **settings)
    assert torch.equal(given.region_boxes, wanted.region_boxes)


def test_a_value_that_vanishes_between_its_neighbours_is_not_a_mask(monkeypatch):
    """At the image's size nothing of it is left: the box is a proposal's, and no mask is said to be its."""
    model = tiny_model(mask_decoder_config=MASK_DECODER)
    features = model.get_image_features(click_inputs(model)["pixel_values"])
    segment = type(model.model).segment

    def one_value(self, *args, **kwargs):
        masks = segment(self, *args, **kwargs)
        logits = torch.full_like(masks.logits, -1.0)
        logits[..., 3, 5] = 0.1
        return replace(masks, logits=logits)

    monkeypatch.setattr(type(model.model), "segment", one_value)
    regions = model.resolve_points(features, BOXES, refer_points=CLICK, refer_point_labels=LABELS)
    assert (regions.boxes[0, 0] - features.proposal_boxes[0]).abs().sum(dim=-1).min() < 1e-6
    assert not (regions.logits > 0).any()


def test_an_assistant_sees_the_same_regions(model):
    inputs = click_inputs(model)
    alone = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False, assistant_model=model), alone)


def test_the_box_of_a_region_with_points_may_be_anything(model):
    """Also zeros, which are padding elsewhere: an assistant sees the region, too."""
    settings = {"max_new_tokens": 4, "do_sample": False, "assistant_model": model, "return_dict_in_generate": True}
    wanted = model.generate(**click_inputs(model), **settings)
    empty = BOXES * torch.tensor([[[0.0], [1.0]]])
    given = model.generate(**click_inputs(model, refer_boxes=empty), **settings)
    assert torch.equal(given.sequences, wanted.sequences)
    assert torch.equal(given.region_boxes, wanted.region_boxes)


def test_points_of_a_later_turn_are_refused(model):
    inputs = tiny_inputs(model.config, batch_size=1)
    output = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True, use_cache=True)
    turn = torch.tensor([[5, model.config.refer_box_token_id, model.config.image_token_id]])
    with pytest.raises(ValueError, match="resolve_points"):
        model.generate(
            turn,
            past_key_values=output.past_key_values,
            refer_boxes=BOXES[:, :1],
            refer_points=CLICK[:, :1],
            refer_point_labels=LABELS[:, :1],
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refer_points": None}, "`refer_point_labels` come without `refer_points`"),
        ({"refer_boxes": None}, "`refer_points` need `refer_boxes`"),
        ({"refer_points": CLICK * 40}, "fractions of the image"),
        ({"refer_points": CLICK.long()}, "got torch.int64"),
        ({"refer_points": CLICK[0]}, "number of images, regions, points, 2"),
        ({"refer_points": CLICK[:, :1], "refer_point_labels": LABELS[:, :1]}, "equally many rows"),
        ({"refer_point_labels": LABELS[:, :, :1]}, "one for each point"),
        ({"refer_point_labels": LABELS + 4}, "must be 1, 0, or -1"),
        ({"refer_point_labels": LABELS.flip(-1)}, "must come last"),
        ({"refer_point_labels": LABELS.clamp(max=0)}, "at least one point with label 1"),
        ({"refer_ambiguity": torch.zeros(1, 5, dtype=torch.long)}, "`refer_ambiguity` must be integers of shape"),
        ({"refer_ambiguity": torch.zeros(1, 2)}, "`refer_ambiguity` must be integers of shape .1, 2."),
        ({"refer_ambiguity": torch.tensor([[7, -1]])}, "-1, 0, 1 or 2"),
    ],
)
def test_bad_points(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**click_inputs(model, **changes), max_new_tokens=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None,), "`refer_boxes` are missing"),
        ((None, CLICK, LABELS), "`refer_points` need `refer_boxes`"),
        ((BOXES, None, LABELS), "`refer_point_labels` come without"),
        ((BOXES, None, None, torch.zeros(1, 2, dtype=torch.long)), "`refer_ambiguity` come without"),
    ],
)
def test_what_resolving_points_needs(model, given, message):
    features = model.get_image_features(click_inputs(model)["pixel_values"])
    with pytest.raises(ValueError, match=message):
        model.resolve_points(features, *given)
