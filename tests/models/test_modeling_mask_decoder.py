"""The shared mask decoder: SAM's own numbers, prompts that do not disturb each other, no prompts at all."""

import pytest
import torch
from transformers import SamConfig, SamModel

from transformers_groma.boxes import box_xyxy_to_cxcywh
from transformers_groma.models.configuration_mask_decoder import MaskDecoderConfig
from transformers_groma.models.modeling_mask_decoder import MaskEmbedding, MaskPrompts, PromptedMaskDecoder

SIZE = 8
SETTINGS = {"hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 48, "iou_head_hidden_dim": 16}


def build(**settings) -> PromptedMaskDecoder:
    torch.manual_seed(0)
    return PromptedMaskDecoder(MaskDecoderConfig(**{**SETTINGS, **settings}), SIZE).eval()


def embedding(images: int = 2, skips: bool = True) -> MaskEmbedding:
    torch.manual_seed(1)
    maps = (torch.randn(images, 4, 4 * SIZE, 4 * SIZE), torch.randn(images, 8, 2 * SIZE, 2 * SIZE))
    return MaskEmbedding(torch.randn(images, 32, SIZE, SIZE), maps if skips else None)


def prompts(**changes) -> MaskPrompts:
    """A box, a click, three points of which one is negative, a box with a point, and a vector for all."""
    points = torch.rand(4, 3, 2)
    labels = torch.tensor([[-1, -1, -1], [1, -1, -1], [1, 0, 1], [1, -1, -1]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.0] * 4, [0.0] * 4, [0.3, 0.4, 0.2, 0.2]])
    values = {"image_index": torch.tensor([1, 0, 1, 0]), "boxes": boxes, "points": points, "point_labels": labels}
    return MaskPrompts(**{**values, **changes})


@pytest.fixture(scope="module")
def sam() -> SamModel:
    torch.manual_seed(3)
    config = SamConfig(
        vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "output_channels": 32,
                       "image_size": 128, "patch_size": 16, "num_pos_feats": 16, "mlp_dim": 16},
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 16},
        mask_decoder_config=SETTINGS | {"attention_downsample_rate": 2},
    )  # fmt: skip
    return SamModel(config).eval()


@pytest.fixture(scope="module")
def like_sam(sam) -> PromptedMaskDecoder:
    """Our class with SAM's weights."""
    ours = build(use_skip_maps=False)
    ours.prompt_encoder.load_state_dict(sam.prompt_encoder.state_dict())
    ours.mask_decoder.load_state_dict(sam.mask_decoder.state_dict())
    return ours


@torch.no_grad()
@pytest.mark.parametrize("multimask", [False, True])
def test_boxes_and_points_give_sams_masks(sam, like_sam, multimask):
    """SamModel counts pixels from the middle of the first one, we count fractions of the image."""
    image = embedding(1, skips=False)
    box = torch.tensor([[[10.0, 20.0, 70.0, 90.0], [0.0, 5.0, 40.0, 127.0]]])
    wanted = sam(image_embeddings=image.image, input_boxes=box, multimask_output=multimask)
    boxes = box_xyxy_to_cxcywh((box[0] + 0.5) / 128)
    given = like_sam(image, MaskPrompts(torch.zeros(2, dtype=torch.long), boxes=boxes), multimask)
    torch.testing.assert_close(given.logits, wanted.pred_masks[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given.quality, wanted.iou_scores[0], atol=1e-5, rtol=1e-5)

    points, labels = torch.tensor([[[[12.0, 100.0], [64.0, 3.0]]]]), torch.tensor([[[1, 0]]])
    wanted = sam(image_embeddings=image.image, input_points=points, input_labels=labels, multimask_output=multimask)
    ours = MaskPrompts(torch.zeros(1, dtype=torch.long), points=(points[0] + 0.5) / 128, point_labels=labels[0])
    given = like_sam(image, ours, multimask)
    torch.testing.assert_close(given.logits, wanted.pred_masks[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_mask_as_a_prompt_gives_sams_masks(sam, like_sam):
    image, mask = embedding(1, skips=False), torch.randn(1, 1, 32, 32)
    points, labels = torch.tensor([[[[12.0, 100.0]]]]), torch.tensor([[[1]]])
    wanted = sam(
        image_embeddings=image.image,
        input_points=points,
        input_labels=labels,
        input_masks=mask,
        multimask_output=False,
    )
    ours = MaskPrompts(
        torch.zeros(1, dtype=torch.long), points=(points[0] + 0.5) / 128, point_labels=labels[0], masks=mask[0]
    )
    torch.testing.assert_close(like_sam(image, ours).logits, wanted.pred_masks[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("multimask", [False, True])
def test_every_prompt_by_itself_has_the_mask_it_has_among_others(skips, multimask):
    decoder, image, together = build(use_skip_maps=skips), embedding(skips=skips), prompts()
    logits, quality = decoder(image, together, multimask)
    assert logits.shape == (4, 3 if multimask else 1, 32, 32)
    for row in range(4):
        alone = decoder(image, together.rows(torch.tensor([row])), multimask)
        torch.testing.assert_close(alone.logits[0], logits[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.quality[0], quality[row], atol=1e-5, rtol=1e-5)
    more_padding = together._replace(
        points=torch.cat([together.points, torch.rand(4, 2, 2)], dim=1),
        point_labels=torch.cat([together.point_labels, -torch.ones(4, 2, dtype=torch.long)], dim=1),
    )
    torch.testing.assert_close(decoder(image, more_padding, multimask).logits, logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_more_prompts_than_are_decoded_at_once():
    decoder, image = build(), embedding()
    boxes = torch.rand(40, 4) * 0.4 + 0.2
    many = MaskPrompts(torch.arange(40) % 2, boxes=boxes)
    logits = decoder(image, many).logits
    for row in (0, 15, 16, 39):
        alone = decoder(image, many.rows(torch.tensor([row]))).logits
        torch.testing.assert_close(alone[0], logits[row], atol=1e-5, rtol=1e-5)


def test_no_prompts_have_no_masks():
    none = MaskPrompts(torch.zeros(0, dtype=torch.long), boxes=torch.zeros(0, 4))
    for multimask, outputs in ((False, 1), (True, 3)):
        predictions = build()(embedding(), none, multimask)
        assert predictions.logits.shape == (0, outputs, 32, 32)
        assert predictions.quality.shape == (0, outputs)


@torch.no_grad()
def test_masks_of_some_prompts_leave_the_others_alone():
    decoder, image, without = build(), embedding(), prompts()
    some = torch.tensor([True, False, False, True])
    given = decoder(image, prompts(points=without.points, masks=torch.randn(4, 32, 32), has_mask=some)).logits
    plain = decoder(image, without).logits
    torch.testing.assert_close(given[~some], plain[~some], atol=1e-5, rtol=1e-5)
    assert (given[some] - plain[some]).abs().amax(dim=(1, 2, 3)).min() > 1e-6


@torch.no_grad()
def test_vectors_and_masks_alone_are_prompts():
    decoder, image, index = build(), embedding(), torch.tensor([0, 1])
    vectors = torch.randn(2, 2, 32)
    masks = decoder(image, MaskPrompts(index, vectors=vectors)).logits
    assert not torch.equal(masks[0], decoder(image, MaskPrompts(index, vectors=vectors + 1)).logits[0])
    assert decoder(image, MaskPrompts(index, masks=torch.randn(2, 32, 32))).logits.isfinite().all()


def test_all_weights_but_those_of_unused_outputs_learn():
    decoder = build().train()
    both = [decoder(embedding(), prompts(masks=torch.randn(4, 32, 32)), multimask) for multimask in (False, True)]
    sum(part.logits.square().mean() + part.quality.sum() for part in both).backward()
    still = {name for name, weight in decoder.named_parameters() if weight.grad is None or not weight.grad.any()}
    # There is a mask with every prompt; `not_a_point` pads the prompts without a box.
    assert still <= {"prompt_encoder.no_mask_embed.weight"} | {name for name in still if name.endswith("k_proj.bias")}
    assert "prompt_encoder.shared_embedding.positional_embedding" not in dict(decoder.named_parameters())
    assert "prompt_encoder.shared_embedding.positional_embedding" in decoder.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 20}, "multiple of 8"),
        ({"hidden_size": 40, "num_attention_heads": 3}, "`num_attention_heads`"),
        ({"mask_input_channels": 6}, "`mask_input_channels`"),
        ({"num_multimask_outputs": -1}, "`num_multimask_outputs`"),
        ({"hidden_size": 0}, "`hidden_size` of a mask decoder must be at least 1"),
        ({"num_attention_heads": 0}, "`num_attention_heads` of a mask decoder must be at least 1"),
        ({"attention_downsample_rate": 0}, "`attention_downsample_rate` of a mask decoder must be at least 1"),
        ({"mlp_dim": 0}, "`mlp_dim`"),
        ({"mask_input_channels": 0}, "`mask_input_channels`"),
    ],
)
def test_sizes_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskDecoderConfig(**{**SETTINGS, **settings})


@pytest.mark.parametrize("skips", [True, False])
def test_the_activation_counts(skips):
    """Also with skip maps: the library's own layers of SAM 2 have a fixed one."""
    relu, gelu = build(use_skip_maps=skips), build(use_skip_maps=skips, hidden_act="gelu")
    gelu.load_state_dict(relu.state_dict())
    maps = embedding(skips=skips)
    assert not torch.allclose(relu(maps, prompts()).logits, gelu(maps, prompts()).logits)
    with pytest.raises(KeyError, match="softish"):
        build(use_skip_maps=skips, hidden_act="softish")


def test_one_mask_a_prompt():
    decoder = build(num_multimask_outputs=0)
    assert decoder(embedding(), prompts()).logits.shape[1] == 1
    with pytest.raises(ValueError, match="`num_multimask_outputs`"):
        decoder(embedding(), prompts(), multimask=True)


def test_a_prompt_without_anything_and_maps_that_do_not_fit():
    index = torch.tensor([0])
    with pytest.raises(ValueError, match="one has nothing"):
        build()(embedding(), MaskPrompts(index, boxes=torch.zeros(1, 4)))
    with pytest.raises(ValueError, match="without skip maps"):
        build()(embedding(skips=False), prompts())
    with pytest.raises(ValueError, match="with skip maps"):
        build(use_skip_maps=False)(embedding(), prompts())
