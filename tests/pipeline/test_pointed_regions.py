"""Clicks and scribbles find their regions; boxes and masks stay as given."""

import numpy as np
import pytest
import torch

from transformers_groma.image_inputs import ImageSize
from transformers_groma.perceived_images import perceive
from transformers_groma.pointed_regions import PointedRegion, find_regions, readable_box, refer_boxes_of
from transformers_groma.region_inputs import read_region

from .samples import BOX, with_mask_decoder

CLICK = {"point": [50, 60]}
POINTS = {"points": [[50, 60], [120.5, 80], [180, 20]], "labels": [1, 1, 0]}
SCRIBBLE = {"scribble": [[10, 20], [60, 70], [90, 95]]}
DISC = {"mask": np.hypot(*np.mgrid[-50:50, -50:50]) < 30}


def found(pipe, photos, *regions) -> list[list[PointedRegion]]:
    """The regions of each photo."""
    images = perceive(pipe.model, pipe.processor, photos)
    prompts = [
        [read_region(region, image.size) for region in of_image]
        for image, of_image in zip(images, regions, strict=True)
    ]
    return find_regions(pipe.model, [image.features for image in images], [image.size for image in images], prompts)


def test_boxes_and_masks_stay_and_nothing_is_decoded(masking_pipe, photos, segments):
    calls = segments(masking_pipe)
    ((box, mask), none) = found(masking_pipe, photos[1:], [[0, 0, 90, 480], np.ones((480, 200), bool)], [])
    assert box == ([0.0, 0.0, 90.0, 480.0], None, 1.0) and none == []
    assert mask.box == [0.0, 0.0, 200.0, 480.0] and mask.mask.all()
    assert calls == []


def test_a_click_has_the_box_and_the_mask_that_the_model_finds(masking_pipe, photos):
    ((click, box, scribble),) = found(masking_pipe, photos[:1], [CLICK, BOX, SCRIBBLE])
    assert box.box == BOX and box.mask is None
    for region in (click, scribble):
        assert region.mask.shape == (240, 320) and region.mask.any() and 0 < region.quality < 1
        rows, columns = np.nonzero(region.mask)
        around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # The box is that of the mask in the model's square of 56 pixels.
        assert np.abs(np.array(around) - region.box).max() <= 320 / 56
    inputs = masking_pipe.processor(images=photos[0], text="<region>", regions=[CLICK], return_tensors="pt")
    asked = {name: value for name, value in inputs.items() if name.startswith("refer_")}
    features = masking_pipe.model.get_image_features(inputs["pixel_values"], **asked, return_dict=True)
    torch.testing.assert_close(features.region_boxes[0, 0], refer_boxes_of([[click]], [ImageSize(240, 320)])[0, 0])


def test_together_they_are_what_they_are_alone(masking_pipe, photos):
    asked = [[CLICK, BOX, POINTS], [], [SCRIBBLE, DISC]]
    together = found(masking_pipe, photos, *asked)
    assert [len(regions) for regions in together] == [3, 0, 2]
    for image, regions in enumerate(asked):
        for place, region in enumerate(regions):
            ((alone,),) = found(masking_pipe, photos[image : image + 1], [region])
            batched = together[image][place]
            assert np.allclose(alone.box, batched.box, atol=1e-3)
            assert alone.quality == pytest.approx(batched.quality, abs=1e-5)
            if alone.mask is None:
                assert batched.mask is None and region is BOX
            else:
                assert (alone.mask == batched.mask).mean() > 0.999


def test_ambiguity_chooses_by_size(masking_pipe, photos):
    clicks = [{**CLICK, "ambiguity": which} for which in ("part", "object", "group")]
    ((part, whole, group),) = found(masking_pipe, photos[:1], clicks)
    # Ranked in the model's square of 56 pixels, where sizes are a little different.
    sizes = [region.mask.mean() for region in (part, whole, group)]
    assert len(set(sizes)) == 3 and np.all(np.diff(sizes) > -0.02)


def test_a_decoder_with_one_mask_cannot_choose(tiny_dir, photos):
    pipe = with_mask_decoder(tiny_dir, num_multimask_outputs=0)
    assert found(pipe, photos[:1], [CLICK])[0][0].mask is not None
    with pytest.raises(ValueError, match="`ambiguity` 'part' chooses one of several masks.* Leave it out"):
        found(pipe, photos[:1], [{**CLICK, "ambiguity": "part"}])


def test_without_a_decoder_a_click_means_the_smallest_proposal_around_it(pipe, photos):
    ((box,),) = found(pipe, photos[:1], [[0, 0, 9, 9]])
    answer = pipe.ask(photos[0], "Hi")
    areas = (answer.regions.xyxy[:, 2:] - answer.regions.xyxy[:, :2]).prod(dim=1)
    for region in answer.regions:
        x, y = ((region.box[:2] + region.box[2:]) / 2).tolist()
        ((click,),) = found(pipe, photos[:1], [{"point": [x, y]}])
        x1, y1, x2, y2 = answer.regions.xyxy.unbind(dim=1)
        around = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
        smallest = answer.regions.xyxy[around][areas[around].argmin()]
        assert click.mask is None and np.allclose(click.box, smallest.tolist(), atol=1e-2)
    assert box.box == [0.0, 0.0, 9.0, 9.0]


def test_an_empty_mask_leaves_the_proposal_without_a_mask(masking_pipe, photos, monkeypatch):
    decoder = masking_pipe.model.model.mask_decoder
    original = decoder.forward

    def empty(*args, **kwargs):
        predictions = original(*args, **kwargs)
        return predictions._replace(logits=predictions.logits * 0 - 5)

    monkeypatch.setattr(decoder, "forward", empty)
    ((click,),) = found(masking_pipe, photos[:1], [CLICK])
    assert click.mask is None
    x1, y1, x2, y2 = click.box
    assert 0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 240


def test_a_box_within_the_first_pixel_is_not_taken_for_fractions(pipe, photos):
    size = ImageSize(240, 320)
    assert readable_box([0, 0, 1, 1], size) == [0.0, 0.0, 2.0, 2.0]
    assert readable_box([0, 0, 1, 1], ImageSize(1, 320)) == [0.0, 0.0, 2.0, 1.0]
    assert readable_box([0, 0, 1.5, 1], size) == [0, 0, 1.5, 1]
    corner = np.zeros((240, 320), bool)
    corner[0, 0] = True
    for region in (corner, {"mask": corner}):
        assert pipe.describe(photos[0], region, max_new_tokens=2).user_region_ids == (0,)


def test_regions_as_the_model_takes_them():
    sizes = [ImageSize(100, 200), ImageSize(10, 10)]
    boxes = refer_boxes_of(
        [[PointedRegion([50.0, 0.0, 150.0, 50.0]), PointedRegion([0.0, 0.0, 200.0, 100.0])], []], sizes
    )
    assert boxes.tolist() == [[[0.5, 0.25, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]], [[0.0] * 4] * 2]
