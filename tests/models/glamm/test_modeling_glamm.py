"""GLaMM's model: batches, masks and their losses, parts of other kinds, dtypes, saving, adapters, offloading."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForCausalLM
from transformers.quantizers import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from tests.tiny import (
    LANGUAGE_MODEL,
    glamm_prompt_ids,
    linear_layers,
    tiny_glamm,
    tiny_glamm_config,
    tiny_glamm_inputs,
)
from transformers_groma.models.glamm.configuration_glamm import GlammConfig
from transformers_groma.models.glamm.loss_glamm import mask_losses, resize_padded
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration, segment_mask
from transformers_groma.models.glamm.modeling_glamm_base import VISUAL_PARTS

EXACT = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model() -> GlammForConditionalGeneration:
    return tiny_glamm()


def taught_inputs(config: GlammConfig, counts: tuple[int, ...] = (2, 1)) -> dict:
    """Prompts with answers that have `counts` masks, padded on the right, and labels."""
    inputs = tiny_glamm_inputs(config, len(counts), num_regions=1)
    rows = []
    for count in counts:
        rows.append(glamm_prompt_ids(config, 1) + [11, config.seg_token_id, 12] * count + [2])
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : len(glamm_prompt_ids(config, 1))] = -100
    heights = [(40 + 7 * row, 30 + 11 * row) for row in range(len(counts))]
    torch.manual_seed(5)
    masks = [(torch.rand(count, *size) > 0.6).to(torch.uint8) for count, size in zip(counts, heights, strict=True)]
    return {**inputs, "input_ids": ids, "attention_mask": mask, "labels": labels, "mask_labels": masks}


def row_of(inputs: dict, index: int) -> dict:
    length = int(inputs["attention_mask"][index].sum())
    cut = ("input_ids", "attention_mask", "labels")
    return {
        name: value[index : index + 1, :length] if name in cut else value[index : index + 1]
        for name, value in inputs.items()
    }


class TestLoss:
    def test_the_parts_are_weighted(self, model):
        output = model(**taught_inputs(model.config))
        assert_close(output.loss, output.ce_loss + 2 * output.bce_loss + 0.5 * output.dice_loss)
        assert [len(masks) for masks in output.segment_logits] == [2, 1]

    def test_a_batch_is_its_rows(self, model):
        inputs = taught_inputs(model.config, (2, 0, 3))
        together = model(**inputs)
        alone = [model(**row_of(inputs, index)) for index in range(3)]
        masks = sum(len(own) * row.bce_loss for own, row in zip(inputs["mask_labels"], alone, strict=True)) / 5
        assert_close(together.bce_loss, masks, **EXACT)
        for index in (0, 2):
            assert_close(together.segment_logits[index], alone[index].segment_logits[0], **EXACT)
        assert alone[1].segment_logits is None and alone[1].bce_loss == 0 and alone[1].loss == alone[1].ce_loss

    def test_padding_on_either_side(self, model):
        inputs = taught_inputs(model.config)
        expected = model(**inputs)
        shorter = int((inputs["attention_mask"][1] == 0).sum())
        for name in ("input_ids", "attention_mask", "labels"):
            inputs[name][1] = inputs[name][1].roll(shorter)
        moved = model(**inputs)
        for name in ("loss", "ce_loss", "bce_loss", "dice_loss"):
            assert_close(getattr(moved, name), getattr(expected, name), **EXACT)

    def test_many_masks_go_in_chunks(self):
        """Memory does not grow with the number of masks, and neither losses nor gradients change."""
        torch.manual_seed(0)
        logits = torch.randn(11, 16, 16, requires_grad=True)
        labels = (torch.rand(11, 50, 70) > 0.5).float()
        size, padded = (46, 64), 64
        losses = mask_losses([logits[:4], logits[4:]], [size, size], [labels[:4], labels[4:]], padded)
        (losses[0] + losses[1]).backward()
        given, logits.grad = logits.grad, None
        whole = resize_padded(logits, padded, size, 50, 70)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(whole, labels)
        shares = whole.sigmoid()
        sums = (2 * (shares * labels).sum((1, 2)) / 1000 + 1e-6) / ((shares + labels).sum((1, 2)) / 1000 + 1e-6)
        dice = (1 - sums).mean()
        (bce + dice).backward()
        assert_close(losses[0], bce)
        assert_close(losses[1], dice)
        assert_close(given, logits.grad)

    def test_all_parts_but_the_frozen_learn(self, model):
        own = copy.deepcopy(model).train()
        own.model.grounding_encoder.requires_grad_(False)
        own(**taught_inputs(model.config)).loss.backward()
        learnt = {
            part
            for part in VISUAL_PARTS
            for name, weight in own.named_parameters()
            if part in name.split(".") and weight.grad is not None and weight.grad.abs().sum() > 0
        }
        assert learnt == set(VISUAL_PARTS) - {"grounding_encoder"}

    @pytest.mark.parametrize("change", [lambda m: m[:1], lambda m: [m[0][:1], m[1]], lambda m: [m[0], m[1][0]]])
    def test_masks_that_do_not_fit(self, model, change):
        inputs = taught_inputs(model.config)
        inputs["mask_labels"] = change(inputs["mask_labels"])
        with pytest.raises(ValueError, match=r"one mask \(height, width\) for each `\[SEG\]` of each row, \[2, 1\]"):
            model(**inputs)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
    def test_masks_of_any_dtype(self, model, dtype):
        inputs = taught_inputs(model.config)
        expected = model(**inputs)
        output = model(**{**inputs, "mask_labels": [masks.to(dtype) for masks in inputs["mask_labels"]]})
        assert torch.equal(output.loss, expected.loss)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m * 255, "row 1 has values from 0 to 255"),
            (lambda m: m.float() * 2 - 1, "row 1 has values from -1 to 1"),
            (lambda m: m / torch.zeros(()), "row 1 has values from nan to nan"),
            (lambda m: m.numpy(), r"must be a tensor \(n, height, width\) for each row, got ndarray"),
            (lambda m: m[..., :0], r"got shapes .*\(1, 47, 0\)"),
        ],
    )
    def test_masks_that_are_not_masks(self, model, change, message):
        inputs = taught_inputs(model.config)
        inputs["mask_labels"][1] = change(inputs["mask_labels"][1])
        with pytest.raises(ValueError, match=message):
            model(**inputs)

    def test_a_row_of_text_takes_no_mask_of_another_image(self, model):
        inputs = taught_inputs(model.config)
        expected = model(**row_of(inputs, 1))
        own = row_of(inputs, 1)
        text = torch.full_like(own["input_ids"], 11)
        text[0, 3] = model.config.seg_token_id
        own["input_ids"] = torch.cat([text, own["input_ids"]])
        own["attention_mask"] = torch.ones_like(own["input_ids"])
        own["labels"] = torch.cat([torch.full_like(own["labels"], -100), own["labels"]])
        given = own["mask_labels"]
        for first in (given[0], given[0][:0]):
            own["mask_labels"] = [first, *given]
            if len(first):
                with pytest.raises(ValueError, match=r"\[0, 1\].* A row without an image has no masks"):
                    model(**own)
        output = model(**own)
        assert_close(output.loss, expected.loss, **EXACT)
        assert [len(masks) for masks in output.segment_logits] == [0, 1]
        # Text alone has no image at all.
        names = ("input_ids", "attention_mask", "labels")
        alone = {name: own[name][:1] for name in names} | {"mask_labels": own["mask_labels"][:1]}
        assert model(**alone).bce_loss == 0
        with pytest.raises(ValueError, match="A row without an image has no masks"):
            model(**{**alone, "mask_labels": given})

    def test_masks_without_the_images_for_them(self, model):
        inputs = taught_inputs(model.config)
        del inputs["grounding_pixel_values"], inputs["grounding_sizes"]
        with pytest.raises(ValueError, match="`grounding_pixel_values` and `grounding_sizes`"):
            model(**inputs)

    def test_gradient_checkpointing_changes_nothing(self, model):
        inputs, gradients = taught_inputs(model.config), []
        for is_on in (False, True):
            own = copy.deepcopy(model).train()
            if is_on:
                own.gradient_checkpointing_enable({"use_reentrant": False})
            own(**inputs).loss.backward()
            gradients.append({n: w.grad for n, w in own.named_parameters() if w.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            assert_close(gradients[1][name], gradient, **EXACT)


def test_the_first_token_has_no_state_before_it():
    ids = torch.tensor([[9, 9, 3, 9]])
    assert segment_mask(ids, None, 9).tolist() == [[False, True, False, True]]
    assert segment_mask(ids, torch.tensor([[0, 0, 1, 1]]), 9).tolist() == [[False, False, False, True]]


class TestSegment:
    @pytest.fixture
    def features(self, model):
        inputs = tiny_glamm_inputs(model.config)
        return model.get_image_features(
            inputs["pixel_values"],
            grounding_pixel_values=inputs["grounding_pixel_values"],
            grounding_sizes=inputs["grounding_sizes"],
            return_dict=True,
        )

    def test_prompts_are_in_the_frame_of_the_image(self, model, features):
        """The first image takes the upper half of its square: a box in it is half as high there."""
        box = torch.tensor([0.5, 0.5, 0.4, 0.6])
        masks = model.segment(features, boxes=box.expand(2, 1, 4))
        whole = copy.copy(features)
        whole.grounding = [copy.copy(view) for view in features.grounding]
        for view in whole.grounding:
            view.size = (64, 64)
        scaled = torch.stack([box * torch.tensor([1, 0.5, 1, 0.5]), box * torch.tensor([0.75, 1, 0.75, 1])])[:, None]
        assert_close(masks.logits, model.segment(whole, boxes=scaled).logits, **EXACT)
        assert masks.mask.all() and masks.logits.shape == (2, 1, 1, 32, 32)

    def test_boxes_of_masks_are_in_the_frame_of_the_image(self, model, features):
        logits = torch.full((2, 32, 32), -1.0)
        logits[0, 4:12, 8:16] = 1.0
        logits[1, 4:12, 8:16] = 1.0
        boxes = model.model.mask_boxes(features, logits, torch.tensor([0, 1]))
        assert_close(boxes, torch.tensor([[0.375, 0.5, 0.25, 0.5], [0.5, 0.25, 1 / 3, 0.25]]), atol=2e-2, rtol=0)
        below = torch.full((1, 32, 32), -1.0)
        below[0, 24:30, 8:16] = 1.0  # in the padding of the first image
        assert not model.model.mask_boxes(features, below, torch.tensor([0])).any()

    def test_clicks_become_regions(self, model, features):
        points = torch.tensor([[[[0.5, 0.5]]], [[[0.2, 0.7]]]])
        labels = torch.ones(2, 1, 1, dtype=torch.long)
        boxes = torch.full((2, 1, 4), 0.1)
        found = model.resolve_points(features, boxes, points, labels)
        assert found.boxes.shape == (2, 1, 4) and found.is_decoded.all()
        encoded = model.encode_regions(features, boxes, points, labels)
        assert_close(encoded.region_boxes, found.boxes)

    def test_a_click_on_nothing_is_an_error(self, model, features):
        own = copy.deepcopy(model)
        for head in own.model.mask_decoder.mask_decoder.output_hypernetworks_mlps:
            torch.nn.init.zeros_(head.proj_out.weight)
            torch.nn.init.zeros_(head.proj_out.bias)
        with pytest.raises(ValueError, match="found nothing at the points of region 0 of image 0"):
            own.resolve_points(
                features,
                torch.full((2, 1, 4), 0.1),
                torch.full((2, 1, 1, 2), 0.5),
                torch.ones(2, 1, 1, dtype=torch.long),
            )

    def test_a_model_that_is_converted_after_it_looked(self, model, features):
        states = [torch.randn(1, 32)] * 2
        expected = model.decode_segments(features, states)
        half = copy.deepcopy(model).to(torch.bfloat16)
        for given, truth in zip(half.decode_segments(features, states), expected, strict=True):
            assert given.logits.dtype == torch.bfloat16
            assert_close(given.logits.float(), truth.logits, atol=0.2, rtol=0.1)
        boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4]]] * 2)
        assert half.segment(features, boxes=boxes).logits.dtype == torch.bfloat16

    def test_an_image_index_that_is_none(self, model, features):
        with pytest.raises(ValueError, match="`image_index` must name one of 2 images"):
            model.decode_segments(features, [torch.randn(1, 32)], [2])

    def test_states_of_another_width(self, model, features):
        with pytest.raises(ValueError, match=r"`states` must have shape \(n, 32\) for each row, .*\(1, 31\)"):
            model.decode_segments(features, [torch.randn(0, 32), torch.randn(1, 31)])


class TestOtherParts:
    @pytest.mark.parametrize(
        "text",
        [
            {"model_type": "qwen2", "num_key_value_heads": 2},
            {"model_type": "gemma", "head_dim": 8, "num_key_value_heads": 2},
            {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
            {"model_type": "opt", "word_embed_proj_dim": 16, "ffn_dim": 32},
            {"model_type": "bloom", "n_layer": 2, "n_head": 4},
        ],
        ids=lambda text: text["model_type"],
    )
    def test_language_models(self, text):
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        own = tiny_glamm(
            text_config={"vocab_size": 120, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **sizes, **text}
        )
        inputs = taught_inputs(own.config)
        own(**inputs).loss.backward()
        causal = AutoModelForCausalLM.from_config(own.config.text_config)
        own.load_language_model(causal)
        prompt = {name: value for name, value in inputs.items() if name not in ("labels", "mask_labels")}
        output = own.generate(**prompt, max_new_tokens=3, return_dict_in_generate=True)
        assert len(output.segment_logits) == 2

    def test_siglip_sees_the_image(self):
        vision = {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
        }
        own = tiny_glamm(vision_config=vision)
        assert own(**taught_inputs(own.config)).loss.isfinite()

    def test_sam_hq_grounds_it(self):
        own = tiny_glamm(
            grounding_config={
                **{"model_type": "sam_hq_vision_model", "hidden_size": 16, "num_hidden_layers": 2, "mlp_dim": 32},
                **{"num_attention_heads": 2, "global_attn_indexes": [1], "window_size": 3, "image_size": 64},
                **{"patch_size": 8, "output_channels": 32, "num_pos_feats": 16},
            }
        )
        assert own(**taught_inputs(own.config)).bce_loss > 0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"grounding_config": {"model_type": "vit"}}, "`grounding_config` of model type 'vit' does not fit"),
            ({"grounding_config": {"output_channels": 16}}, r"`hidden_size` of `mask_decoder_config` \(32\)"),
            ({"mask_decoder_config": {"use_skip_maps": True}}, "`use_skip_maps`"),
            ({"seg_token_id": 120}, r"`seg_token_id` \(120\) must be in the vocabulary"),
            ({"seg_token_id": 5, "region_token_id": 5}, "must differ"),
            ({"text_config": {"model_type": "mamba"}}, "'mamba' cannot be"),
        ],
    )
    def test_parts_that_do_not_fit(self, settings, message):
        with pytest.raises(ValueError, match=message):
            tiny_glamm_config(**settings)


class TestDtypes:
    def test_half_precision_leaves_masks_in_float32(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        half = GlammForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
        kinds = {part: {w.dtype for n, w in half.named_parameters() if part in n.split(".")} for part in VISUAL_PARTS}
        assert {part for part, kind in kinds.items() if kind == {torch.float32}} == {
            "vision_tower",
            "grounding_encoder",
            "prompt_projection",
            "mask_decoder",
        }
        output = half(**taught_inputs(model.config))
        assert output.logits.dtype == torch.bfloat16 and output.segment_logits[0].dtype == torch.float32
        half.save_pretrained(tmp_path / "half")
        again = GlammForConditionalGeneration.from_pretrained(tmp_path / "half", dtype="auto")
        for name, weight in half.named_parameters():
            assert again.get_parameter(name).dtype == weight.dtype and torch.equal(again.get_parameter(name), weight)
        everything = copy.deepcopy(half).to(torch.bfloat16)
        inputs = {k: v for k, v in taught_inputs(model.config).items() if k not in ("labels", "mask_labels")}
        assert everything.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2

    def test_autocast(self, model):
        inputs = taught_inputs(model.config)
        expected = model(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**inputs)
        assert output.segment_logits[0].dtype == torch.float32
        assert_close(output.loss, expected.loss, atol=0.05, rtol=0.02)

    def test_saved_weights_come_back(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        again = GlammForConditionalGeneration.from_pretrained(tmp_path)
        inputs = taught_inputs(model.config)
        assert torch.equal(again(**inputs).loss, model(**inputs).loss)
        assert again.state_dict().keys() == model.state_dict().keys()

    def test_quantizers_convert_the_language_model_alone(self, model):
        skipped = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
        assert {name for name in linear_layers(model) if should_convert_module(name, skipped)} == LANGUAGE_MODEL

    @pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
    def test_adapters_stay_where_text_is_learnt(self, model, targets):
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=targets, r=2))
        parts = {
            part
            for part in VISUAL_PARTS
            for name, _ in adapted.named_parameters()
            if "lora" in name and part in name.split(".")
        }
        assert parts <= {"multi_modal_projector", "region_encoder"}
        assert_close(adapted(**taught_inputs(model.config)).loss, model(**taught_inputs(model.config)).loss)

    @pytest.mark.parametrize("place", ["disk", "memory"])
    def test_offloaded_it_answers_the_same(self, model, tmp_path, place):
        inputs = {k: v for k, v in taught_inputs(model.config).items() if k not in ("labels", "mask_labels")}
        expected = model.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        own = copy.deepcopy(model)
        if place == "disk":
            disk_offload(own, tmp_path, execution_device=torch.device("cpu"))
        else:
            cpu_offload(own, execution_device=torch.device("cpu"))
        output = own.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        assert torch.equal(output.sequences, expected.sequences)
        features = own.get_image_features(
            **{k: inputs[k] for k in ("pixel_values", "grounding_pixel_values", "grounding_sizes")}, return_dict=True
        )
        box = torch.tensor([[[0.5, 0.5, 0.4, 0.4]]] * 2)
        point = {"points": torch.full((2, 1, 1, 2), 0.5), "point_labels": torch.ones(2, 1, 1, dtype=torch.long)}
        plain = model.get_image_features(
            **{k: inputs[k] for k in ("pixel_values", "grounding_pixel_values", "grounding_sizes")}, return_dict=True
        )
        for prompts in ({"boxes": box}, point):
            assert_close(own.segment(features, **prompts).logits, model.segment(plain, **prompts).logits, **EXACT)
        states = [torch.randn(1, 32)] * 2
        for given, truth in zip(
            own.decode_segments(features, states), model.decode_segments(plain, states), strict=True
        ):
            assert_close(given.logits, truth.logits, **EXACT)
