"""Masks of regions from features that are there already; models without a mask decoder stay as they were."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage
from transformers import AutoModel

from transformers_groma import GromaConfig, GromaForConditionalGeneration, GromaForRegionProposal
from transformers_groma.models.groma.configuration_groma import GromaMaskDecoderConfig
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures
from transformers_groma.models.modeling_pointing import boxes_of_masks, mask_ranks, proposal_of_points, without_specks
from transformers_groma.point_labels import BEST, GROUP, OBJECT, PART

from ...tiny import MASK_DECODER, tiny_detector, tiny_inputs, tiny_model

BOXES = torch.tensor(
    [[[0.5, 0.5, 0.2, 0.4], [0.0] * 4, [0.3, 0.6, 0.4, 0.2]], [[0.2, 0.2, 0.3, 0.3], [0.0] * 4, [0.0] * 4]]
)


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    return tiny_model(mask_decoder_config=MASK_DECODER)


@pytest.fixture(scope="module")
def features(model) -> GromaImageFeatures:
    return model.get_image_features(tiny_inputs(model.config)["pixel_values"])


def test_slots_have_the_masks_of_their_boxes(model, features):
    slots = torch.tensor([[2, -1, 0], [5, -1, -1]])
    masks = model.segment(features, slots=slots)
    assert masks.logits.shape == (2, 3, 1, 28, 28)
    assert masks.quality.shape == (2, 3, 1)
    assert masks.mask.tolist() == [[True, False, True], [True, False, False]]
    boxes = features.region_boxes.gather(1, slots.clamp(min=0)[..., None].expand(-1, -1, 4)) * masks.mask[..., None]
    # The region encoder gives a box the token that its slot has.
    again = model.segment(features, boxes=boxes)
    torch.testing.assert_close(again.logits, masks.logits, atol=1e-5, rtol=1e-5)
    assert (masks.logits[~masks.mask] < 0).all()


def test_the_token_of_a_region_counts(model, features):
    slots = torch.tensor([[2], [5]])
    other = GromaImageFeatures(**{**features, "pooler_output": [row + 1 for row in features.pooler_output]})
    assert not torch.equal(model.segment(features, slots=slots).logits, model.segment(other, slots=slots).logits)


def test_images_and_regions_by_themselves_have_the_masks_they_have_in_a_batch(model, features):
    points = torch.rand(2, 3, 2, 2)
    labels = torch.tensor([[[-1, -1], [1, -1], [1, 0]], [[1, 1], [1, -1], [-1, -1]]])
    together = model.segment(features, boxes=BOXES, points=points, point_labels=labels)
    assert together.mask.tolist() == [[True] * 3, [True, True, False]]
    for index, single in enumerate(features.split()):
        rows = slice(index, index + 1)
        alone = model.segment(single, boxes=BOXES[rows], points=points[rows], point_labels=labels[rows])
        torch.testing.assert_close(alone.logits, together.logits[rows], atol=1e-4, rtol=1e-4)
    stacked = GromaImageFeatures.stack(features.split())
    again = model.segment(stacked, boxes=BOXES, points=points, point_labels=labels)
    torch.testing.assert_close(again.logits, together.logits, atol=1e-4, rtol=1e-4)


def test_the_image_is_not_looked_at_again(model, monkeypatch):
    inputs = tiny_inputs(model.config, batch_size=1)
    looks = []
    encode = model.model.vision_tower.forward
    monkeypatch.setattr(
        model.model.vision_tower, "forward", lambda *args, **kwargs: looks.append(1) or encode(*args, **kwargs)
    )
    features = model.get_image_features(inputs.pop("pixel_values"))
    model.generate(**inputs, mm_encoder_outputs={"image": features}, max_new_tokens=2)
    embedding = model.mask_embedding(features)
    first = model.segment(features, slots=torch.tensor([[0, 1]]))
    again = model.segment(features, slots=torch.tensor([[0, 1]]), embedding=embedding)
    assert torch.equal(first.logits, again.logits)
    assert len(looks) == 1


def test_a_mask_of_before_is_corrected(model, features):
    points = torch.rand(2, 1, 1, 2)
    first = model.segment(features, points=points)
    again = model.segment(features, points=points, masks=first.logits[:, :, 0])
    assert not torch.equal(first.logits, again.logits)
    larger = torch.nn.functional.interpolate(first.logits[:, :, 0], size=(56, 56))
    assert model.segment(features, points=points, masks=larger).logits.shape == first.logits.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [28, 20])
def test_masks_of_any_dtype_are_corrected(dtype, size):
    model = tiny_model(mask_decoder_config=MASK_DECODER).to(dtype)
    features = model.get_image_features(tiny_inputs(model.config)["pixel_values"])
    masks = torch.randn(2, 3, size, size)
    corrected = model.segment(features, boxes=BOXES, masks=masks)
    assert corrected.logits.dtype == dtype
    assert torch.equal(corrected.logits, model.segment(features, boxes=BOXES, masks=masks.double()).logits)


def test_the_embedding_of_other_images(model, features):
    one = model.mask_embedding(features.split()[0])
    points = torch.full((2, 1, 1, 2), 0.4)
    for call in (
        lambda: model.segment(features, points=points, embedding=one),
        lambda: model.resolve_points(features, BOXES[:, :1], points, embedding=one),
    ):
        with pytest.raises(ValueError, match="`embedding` is of 1 images and `features` of 2"):
            call()


def test_several_masks_for_a_click(model, features):
    masks = model.segment(features, points=torch.rand(2, 2, 1, 2), multimask=True)
    assert masks.logits.shape == (2, 2, 3, 28, 28)


def test_a_detector_has_masks_too():
    detector = tiny_detector(mask_decoder_config=MASK_DECODER)
    pixels = torch.randn(2, 3, 56, 56)
    features = detector.get_image_features(pixels)
    proposals = detector.propose_regions(pixels)
    assert torch.equal(features.region_boxes, proposals.boxes)
    assert detector.segment(features, slots=torch.tensor([[0], [1]])).logits.shape == (2, 1, 1, 28, 28)


def test_features_of_a_detector_are_split_and_stacked():
    detector = tiny_detector(mask_decoder_config=MASK_DECODER)
    features = detector.get_image_features(torch.randn(2, 3, 56, 56))
    stacked = GromaImageFeatures.stack(features.split()[::-1])
    torch.testing.assert_close(
        detector.segment(stacked, boxes=BOXES.flip(0)).logits.flip(0), detector.segment(features, boxes=BOXES).logits
    )


@pytest.mark.parametrize(
    ("regions", "message"),
    [({"boxes": BOXES}, "`region_feature_maps`"), ({"slots": torch.tensor([[0], [1]])}, "`pooler_output`")],
)
def test_features_of_a_detector_lack_what_a_whole_model_reads(model, regions, message):
    features = tiny_detector(mask_decoder_config=MASK_DECODER).get_image_features(torch.randn(2, 3, 56, 56))
    with pytest.raises(ValueError, match=message):
        model.segment(features, **regions)


def test_a_detector_out_of_a_whole_model_keeps_its_decoder(model, features, tmp_path):
    """Box prompts without a region token: all that the detector lacks is the projection of tokens."""
    model.save_pretrained(tmp_path)
    detector = GromaForRegionProposal.from_pretrained(tmp_path)
    assert detector.mask_decoder.region_projection is None
    given = detector.segment(features, points=torch.full((2, 1, 1, 2), 0.4))
    assert torch.equal(given.logits, model.segment(features, points=torch.full((2, 1, 1, 2), 0.4)).logits)


def test_a_model_without_a_decoder_does_not_name_one(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert "mask_decoder_config" not in json.loads((tmp_path / "config.json").read_text())
    assert GromaConfig.from_pretrained(tmp_path).mask_decoder_config is None
    assert not any("mask_decoder" in name for name in model.state_dict())
    features = model.get_image_features(tiny_inputs(model.config)["pixel_values"])
    assert features.mask_feature_maps is None and features.pixel_values is None
    with pytest.raises(ValueError, match="no mask decoder"):
        model.segment(features, boxes=BOXES)


def test_a_decoder_changes_nothing_else(model):
    """The same weights with and without a decoder: equal tokens, regions and logits."""
    plain = tiny_model()
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items() if "mask_decoder" not in name})
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        assert torch.equal(plain(**inputs).logits, model(**inputs).logits)


def test_saved_and_loaded(model, features, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = GromaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in loaded.model.mask_decoder.parameters()} == {torch.float32}
    assert loaded.config.mask_decoder_config.hidden_size == MASK_DECODER["hidden_size"]
    same = loaded.segment(features, points=torch.full((2, 1, 1, 2), 0.4))
    assert torch.equal(same.logits, model.segment(features, points=torch.full((2, 1, 1, 2), 0.4)).logits)


@pytest.mark.parametrize("auto_class", [GromaForConditionalGeneration, GromaForRegionProposal, AutoModel])
def test_settings_of_a_fresh_decoder_come_as_those_of_other_parts(auto_class, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = auto_class.from_pretrained(tmp_path, mask_decoder_config=MASK_DECODER)
    assert model.config.mask_decoder_config.mlp_dim == MASK_DECODER["mlp_dim"]
    features = model.get_image_features(torch.randn(2, 3, 56, 56))
    assert model.segment(features, boxes=BOXES).logits.isfinite().all()


@pytest.mark.parametrize("layer", [5, -6])
def test_layers_that_the_vision_encoder_has_not(layer):
    settings = {**MASK_DECODER, "vision_feature_layers": [-1, layer]}
    with pytest.raises(ValueError, match="`vision_feature_layers` of `mask_decoder_config` are .*0 to 4"):
        tiny_detector(mask_decoder_config=settings)
    tiny_detector(mask_decoder_config={**settings, "vision_feature_layers": [4, -5]})


def test_a_fresh_decoder_on_trained_weights(tmp_path):
    """SAM's frequencies of standard deviation 1, torch's own initial weights, the rest as saved; the seed decides."""
    tiny_model().save_pretrained(tmp_path)
    config = GromaConfig.from_pretrained(tmp_path)
    config.mask_decoder_config = GromaMaskDecoderConfig(**MASK_DECODER)

    def load() -> dict[str, torch.Tensor]:
        torch.manual_seed(7)
        return GromaForConditionalGeneration.from_pretrained(tmp_path, config=config).state_dict()

    weights, again = load(), load()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    prefix = "model.mask_decoder."
    frequencies = weights[prefix + "decoder.prompt_encoder.shared_embedding.positional_embedding"]
    assert 0.7 < frequencies.std() < 1.3
    assert 0.5 < weights[prefix + "decoder.mask_decoder.mask_tokens.weight"].std() < 1.5
    assert weights[prefix + "neck.refinement.0.weight"].abs().max() <= (1 / (32 * 9)) ** 0.5
    assert not weights[prefix + "neck.refinement.0.bias"].any()


def test_an_image_that_does_not_fit_the_embedding():
    with pytest.raises(ValueError, match="multiple of 8 pixels"):
        tiny_model(mask_decoder_config=MASK_DECODER, vision_config={"image_size": 84})


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "needs regions"),
        ({"slots": torch.tensor([[0]]), "boxes": BOXES}, "not both"),
        ({"slots": torch.tensor([[0]])}, "number of images"),
        ({"slots": torch.tensor([[0.0], [1.0]])}, "must be integers"),
        ({"slots": torch.tensor([[0], [6]])}, "name region 6"),
        ({"boxes": BOXES * 50}, "normalized cxcywh"),
        ({"boxes": BOXES.half()}, "float16"),
        ({"points": torch.rand(2, 1, 1, 2).half()}, "float16"),
        ({"boxes": BOXES, "points": torch.rand(2, 1, 1, 2)}, "equally many rows"),
        ({"point_labels": torch.ones(2, 1, 1, dtype=torch.long)}, "without `points`"),
        ({"points": torch.rand(2, 1, 1, 2) + 1.5}, "fractions of the image"),
        ({"boxes": BOXES, "masks": torch.zeros(2, 3, 28, 28, dtype=torch.bool)}, "must be logits"),
        ({"boxes": BOXES, "masks": torch.zeros(2, 2, 28, 28)}, "one for each region"),
        ({"boxes": BOXES, "masks": torch.full((2, 3, 28, 28), float("-inf"))}, "must be finite"),
    ],
)
def test_bad_prompts(model, features, prompts, message):
    with pytest.raises(ValueError, match=message):
        model.segment(features, **prompts)


def test_boxes_of_masks_are_edges_of_pixels():
    logits = torch.full((3, 8, 8), -5.0)
    logits[0, 2:5, 1:7] = 5.0
    logits[1] = 5.0
    assert boxes_of_masks(logits, 8).tolist() == [[0.5, 0.4375, 0.75, 0.375], [0.5, 0.5, 1.0, 1.0], [0.0] * 4]


def test_ambiguity_chooses_by_size():
    """Three masks of 3, 1 and 2 pixels; the second has the best quality."""
    logits = torch.full((1, 3, 1, 3), -1.0)
    for index, size in enumerate((3, 1, 2)):
        logits[0, index, 0, :size] = 1.0
    quality = torch.tensor([[0.5, 0.9, 0.4]])
    chosen = {word: int(mask_ranks(logits, quality, torch.tensor([word]))) for word in (BEST, PART, OBJECT, GROUP)}
    assert chosen == {BEST: 1, PART: 1, OBJECT: 2, GROUP: 0}
    assert int(mask_ranks(logits[:, :1], quality[:, :1], torch.tensor([GROUP]))) == 0


def test_the_proposal_that_a_click_means():
    """Nested boxes: the smallest around the point, unless a negative point lies in it; the nearest of those beside."""
    boxes = torch.tensor([[0.5, 0.5, 0.8, 0.8], [0.3, 0.3, 0.2, 0.2], [0.3, 0.3, 0.3, 0.3]])

    def chosen(points, labels, ambiguity=BEST) -> int:
        box = proposal_of_points(boxes, torch.tensor(points), torch.tensor(labels), ambiguity)
        return int((boxes == box).all(dim=1).nonzero()[0])

    inside = [0.3, 0.3]
    assert chosen([inside], [1]) == 1
    assert [chosen([inside], [1], word) for word in (PART, OBJECT, GROUP)] == [1, 2, 0]
    assert chosen([inside, [0.7, 0.7]], [1, 1]) == 0
    assert chosen([inside, [0.0, 0.0]], [1, -1]) == 1
    assert chosen([[0.22, 0.22], [0.18, 0.18]], [1, 0]) == 1
    assert chosen([[0.05, 0.3]], [1]) == 0  # beside all; the large one begins at 0.1
    assert chosen([[0.8, 0.8], [0.3, 0.3]], [1, 0]) == 0  # the only one that holds it


def test_no_region_that_a_click_could_mean():
    model = tiny_model()
    features = model.get_image_features(tiny_inputs(model.config, batch_size=1)["pixel_values"])
    features.proposal_scores.fill_(float("nan"))
    with pytest.raises(ValueError, match="found no region in image 0"):
        model.resolve_points(features, BOXES[:1, :1], refer_points=torch.rand(1, 1, 1, 2))


def test_ambiguity_needs_several_masks(features):
    model = tiny_model(mask_decoder_config={**MASK_DECODER, "num_multimask_outputs": 0})
    inputs = tiny_inputs(model.config, batch_size=1)
    features = model.get_image_features(inputs["pixel_values"])
    click = {"refer_points": torch.rand(1, 1, 1, 2)}
    assert model.resolve_points(features, BOXES[:1, :1], **click).logits.shape == (1, 1, 28, 28)
    with pytest.raises(ValueError, match="`num_multimask_outputs` is 0"):
        model.resolve_points(features, BOXES[:1, :1], **click, refer_ambiguity=torch.tensor([[2]]))


def test_user_boxes_do_not_change_what_a_click_means(model):
    """Features that were made for boxes of the user: clicks are resolved against the proposals of the image."""
    inputs = tiny_inputs(model.config, batch_size=1)
    plain = model.get_image_features(inputs["pixel_values"])
    pointed = model.encode_regions(plain, BOXES[:1, :1])
    click = {"refer_points": torch.rand(1, 1, 1, 2)}
    given = [model.resolve_points(seen, BOXES[:1, :1], **click).boxes for seen in (plain, pointed)]
    assert torch.equal(*given)


def test_specks_are_taken_out_of_masks():
    """Two pieces of 100 and 60 pixels, a diagonal that touches at corners, a speck; scipy finds the same pieces."""
    torch.manual_seed(0)
    logits = torch.full((3, 24, 24), -1.0)
    logits[0, 2:12, 2:12] = 3.0
    logits[0, 14:20, 2:12] = 1.0
    logits[0, 22, 22] = 5.0
    logits[1, range(20), range(20)] = 1.0
    cleaned = without_specks(logits)
    assert cleaned[0, 22, 22] == -5.0
    changed = cleaned != logits
    assert changed.sum() == 1
    noise = torch.randn(4, 30, 30) - 0.3
    for mask, kept in zip(noise > 0, without_specks(noise, share=0.2) > 0, strict=True):
        pieces, _ = ndimage.label(mask.numpy(), np.ones((3, 3)))
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        assert np.array_equal(kept.numpy(), np.isin(pieces, np.flatnonzero(sizes >= 0.2 * sizes.max())))


def test_a_piece_that_winds_through_the_mask_takes_few_turns(monkeypatch):
    """Its ends are thousands of pixels apart."""
    winding = torch.full((1, 112, 112), -1.0)
    for row in range(0, 112, 4):
        winding[0, row] = 1.0
        winding[0, row : row + 4, -1 if row % 8 == 0 else 0] = 1.0
    turns = []
    pool = torch.nn.functional.max_pool2d
    monkeypatch.setattr(
        torch.nn.functional, "max_pool2d", lambda *args, **kwargs: turns.append(1) or pool(*args, **kwargs)
    )
    assert torch.equal(without_specks(winding, share=0.6), winding)
    assert len(turns) < 25
    assert without_specks(winding[:0]).shape == (0, 112, 112)
