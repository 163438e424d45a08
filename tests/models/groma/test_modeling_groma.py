"""The models: batches, slots, training. Random weights, seconds."""

import copy

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import (
    MAX_REGIONS,
    prompt_ids,
    tiny_inputs,
    tiny_model,
)
from transformers_groma import GromaForConditionalGeneration

EXACT = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model() -> GromaForConditionalGeneration:
    # Some proposals are not good enough, so that images have different numbers of regions.
    return tiny_model(box_score_threshold=0.5)


def boxes_for(batch_size: int, num_boxes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return 0.2 + 0.3 * torch.rand(batch_size, num_boxes, 4, generator=generator)


class TestForward:
    def test_images_have_different_numbers_of_regions(self, model):
        output = model(**tiny_inputs(model.config, batch_size=6))
        assert len(set(output.num_regions.tolist())) > 1
        assert (output.num_regions < MAX_REGIONS).any()

    def test_outputs_say_which_slots_are_used(self, model):
        inputs = tiny_inputs(model.config)
        features = model.get_image_features(inputs["pixel_values"], return_dict=True)
        for output in (model.model(**inputs), model(**inputs)):
            assert torch.equal(output.region_mask, features.region_mask)
            assert torch.equal(output.num_regions, features.region_mask.sum(dim=1))
        step = model(input_ids=torch.full((2, 1), 9), past_key_values=output.past_key_values)
        assert torch.equal(step.region_mask, features.region_mask)
        assert model(input_ids=torch.tensor([[1, 7, 8]])).region_mask is None

    def test_batch_equals_single_calls(self, model):
        inputs = tiny_inputs(model.config, batch_size=6)
        batch = model(**inputs)
        for index in range(6):
            single = model(**{name: value[index : index + 1] for name, value in inputs.items()})
            assert_close(batch.logits[index], single.logits[0], **EXACT)
            assert_close(batch.region_boxes[index], single.region_boxes[0], **EXACT)

    def test_batch_with_different_numbers_of_boxes_equals_single_calls(self, model):
        rows = [prompt_ids(model.config, num_boxes=n) for n in (2, 0, 1)]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        pixels = tiny_inputs(model.config, batch_size=3)["pixel_values"]
        boxes = boxes_for(3, 2)
        boxes[1] = 0
        boxes[2, 1] = 0
        batch = model(input_ids=ids, attention_mask=mask, pixel_values=pixels, refer_boxes=boxes)
        for index, row in enumerate(rows):
            num_boxes = int((boxes[index] != 0).any(dim=-1).sum())
            single = model(
                input_ids=torch.tensor([row]),
                pixel_values=pixels[index : index + 1],
                refer_boxes=boxes[index : index + 1, :num_boxes] if num_boxes else None,
            )
            assert_close(batch.logits[index, : len(row)], single.logits[0], **EXACT)

    def test_fixed_slots_equal_a_prompt_of_exactly_n_regions(self, model):
        inputs = tiny_inputs(model.config, batch_size=1)
        fixed = model(**inputs)
        num_regions = int(fixed.num_regions[0])
        assert num_regions < MAX_REGIONS
        exact = copy.deepcopy(model)
        exact.config.max_regions = exact.model.config.max_regions = num_regions
        ids = torch.tensor([prompt_ids(exact.config)])
        output = exact(input_ids=ids, pixel_values=inputs["pixel_values"])
        question = slice(-3, None)
        assert_close(output.logits[:, question], fixed.logits[:, question], **EXACT)
        start = 1 + model.config.num_image_tokens + 2 * num_regions
        assert_close(output.logits[:, :start], fixed.logits[:, :start], **EXACT)

    def test_user_boxes_take_the_first_slots_and_their_feature_is_that_of_the_slot(self, model):
        config = model.config
        boxes = boxes_for(1, 2)
        inputs = {
            "input_ids": torch.tensor([prompt_ids(config, num_boxes=2)]),
            "pixel_values": tiny_inputs(config, 1)["pixel_values"],
            "refer_boxes": boxes,
        }
        output = model(**inputs)
        assert_close(output.region_boxes[0, :2], boxes[0])
        features = output.image_hidden_states[0]
        assert len(features) == config.num_image_tokens + MAX_REGIONS + 2
        assert torch.equal(features[-2:], features[config.num_image_tokens : config.num_image_tokens + 2])
        # The same prompt with the proxy tokens written out.
        resolved = inputs["input_ids"].clone()
        resolved[resolved == config.refer_box_token_id] = torch.tensor([0, 1]) + config.first_proxy_token_id
        assert torch.equal(model(**{**inputs, "input_ids": resolved}).logits, output.logits)

    def test_text_only(self, model):
        ids = torch.tensor([[1, 7, 8, 9]])
        output = model(input_ids=ids)
        assert output.num_regions is None
        hidden = model.model.language_model(input_ids=ids).last_hidden_state
        assert_close(output.logits, model.lm_head(hidden))

    def test_text_only_sample_in_a_batch_with_images(self, model):
        inputs = tiny_inputs(model.config, batch_size=2)
        text = torch.tensor([[1, 7, 8, 9]])
        padding = inputs["input_ids"].shape[1] - text.shape[1]
        ids = torch.cat(
            [inputs["input_ids"][:1], torch.nn.functional.pad(text, (0, padding)), inputs["input_ids"][1:]]
        )
        mask = torch.ones_like(ids)
        mask[1, 4:] = 0
        output = model(input_ids=ids, attention_mask=mask, pixel_values=inputs["pixel_values"])
        assert_close(output.logits[[0, 2]], model(**inputs).logits, **EXACT)
        assert_close(output.logits[1, :4], model(input_ids=text).logits[0], **EXACT)

    def test_precomputed_features_equal_pixels(self, model):
        inputs = tiny_inputs(model.config, batch_size=2)
        expected = model(**inputs)
        features = model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
        output = model(mm_encoder_outputs={"image": features}, **inputs)
        assert_close(output.logits, expected.logits)
        assert torch.equal(output.region_boxes, expected.region_boxes)

    def test_embeddings_equal_ids(self, model):
        inputs = tiny_inputs(model.config, batch_size=1)
        inputs["input_ids"] = torch.tensor([prompt_ids(model.config, num_boxes=1)])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["refer_boxes"] = boxes_for(1, 1)
        expected = model(**inputs).logits
        embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert_close(model(inputs_embeds=embeddings, **inputs).logits, expected)

    def test_nothing_of_the_caller_is_changed(self, model):
        inputs = tiny_inputs(model.config, batch_size=2)
        inputs["input_ids"] = torch.tensor([prompt_ids(model.config, num_boxes=1)] * 2)
        inputs["input_ids"][:, -3] = model.config.ground_box_token_id
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["labels"] = inputs["input_ids"].clone()
        inputs["refer_boxes"], inputs["ground_boxes"] = boxes_for(2, 1), boxes_for(2, 1) + 0.1
        copies = {name: value.clone() for name, value in inputs.items()}
        model(**inputs)
        for name, value in inputs.items():
            assert torch.equal(value, copies[name]), name

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixel_values": torch.zeros(2, 3, 64, 64)}, "56, 56"),
            ({"pixel_values": torch.zeros(2, 3, 56, 56, dtype=torch.uint8)}, "must be floats.*torch.uint8"),
            ({"pixel_values": torch.zeros(3, 3, 56, 56)}, "at most one image"),
            ({"pixel_values": torch.zeros(1, 3, 56, 56)}, "at most one image"),
            ({"refer_boxes": torch.full((2, 1, 4), 0.3)}, "user box"),
            ({"refer_boxes": torch.full((1, 1, 4), 0.3)}, "each of the 2 images"),
            ({"refer_boxes": torch.full((2, 4), 0.3)}, r"shape \(number of images, n, 4\)"),
            ({"refer_boxes": torch.full((2, 1, 4), 30.0)}, "normalized cxcywh"),
            ({"ground_boxes": torch.full((2, 1, 4), -0.1)}, "ground_boxes.*normalized cxcywh"),
            ({"pixel_values": None, "refer_boxes": torch.full((2, 1, 4), 0.3)}, "pixel_values"),
            ({"inputs_embeds": torch.zeros(2, 4, 32)}, "exactly one"),
            ({"attention_mask": torch.ones(2, 1, 20, 20)}, "attention_mask"),
        ],
    )
    def test_inputs_that_do_not_fit(self, model, change, message):
        inputs = {**tiny_inputs(model.config, batch_size=2), **change}
        with pytest.raises(ValueError, match=message):
            model(**inputs)

    @pytest.mark.parametrize("used", range(MAX_REGIONS + 1))
    def test_exactly_the_slots_without_a_region_are_switched_off(self, model, used):
        config = model.config
        ids = torch.tensor([[0, 0, *prompt_ids(config)], prompt_ids(config, num_boxes=1), [1, 7, 8] + [0] * 19])
        region_mask = torch.zeros(2, MAX_REGIONS, dtype=torch.bool)
        region_mask[0, :used] = True
        region_mask[1, : MAX_REGIONS - used] = True
        attention_mask = torch.ones_like(ids)
        attention_mask[0, :2] = attention_mask[2, 3:] = 0
        before = attention_mask.clone()
        masked = model.model.mask_unused_regions(attention_mask, ids == config.image_token_id, region_mask)
        expected = before.clone()
        for row, start in ((0, 3 + config.num_image_tokens), (1, 1 + config.num_image_tokens)):
            for slot in range(MAX_REGIONS):
                if not region_mask[row, slot]:
                    expected[row, start + 2 * slot : start + 2 * slot + 2] = 0
        assert masked.tolist() == expected.tolist()
        assert torch.equal(attention_mask, before)

    def test_padding_on_the_left_gets_no_negative_positions(self, model):
        """Language models with learned positions would look up the last one."""
        inputs = tiny_inputs(model.config, batch_size=1)
        padded = {name: torch.nn.functional.pad(inputs[name], (3, 0)) for name in ("input_ids", "attention_mask")}
        seen = []
        hook = model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
        )
        expected = model(**inputs).logits
        logits = model(**padded, pixel_values=inputs["pixel_values"]).logits
        hook.remove()
        assert seen[1].min() == 0
        assert torch.equal(seen[1][:, 3:], seen[0])
        assert_close(logits[:, 3:], expected, **EXACT)

    def test_boxes_may_stick_out_by_what_half_precision_rounds(self, model):
        inputs = tiny_inputs(model.config, batch_size=1)
        for value in (-0.01, 1.01):
            boxes = torch.full((1, 1, 4), value)
            model.propose_regions(inputs["pixel_values"], boxes)
        for value in (-0.011, 1.011, float("nan"), float("inf")):
            boxes = torch.full((1, 1, 4), 0.5)
            boxes[0, 0, 1] = value
            with pytest.raises(ValueError, match="`refer_boxes` must be normalized cxcywh"):
                model.propose_regions(inputs["pixel_values"], boxes)
            for name in ("refer_boxes", "ground_boxes"):
                with pytest.raises(ValueError, match=f"`{name}` must be normalized cxcywh"):
                    model.get_image_features(inputs["pixel_values"], **{name: boxes})
            with pytest.raises(ValueError, match="`proposal_boxes` must be normalized cxcywh"):
                model(**inputs, proposal_boxes=boxes, proposal_scores=torch.ones(1, 1))

    def test_precomputed_proposals_that_are_not_finite_are_no_regions(self, model):
        inputs = tiny_inputs(model.config, batch_size=1)
        boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]])
        scores = torch.tensor([[0.9, float("nan"), 0.8]])
        output = model(**inputs, proposal_boxes=boxes, proposal_scores=scores)
        assert output.num_regions.tolist() == [2]
        assert_close(output.region_boxes[0, :2], boxes[0, [0, 2]])
        assert output.logits.isfinite().all()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_pixels_that_are_not_finite_spoil_their_own_image_alone(self, model, bad):
        inputs = tiny_inputs(model.config, batch_size=3)
        expected, expected_logits = model.propose_regions(inputs["pixel_values"]), model(**inputs).logits
        inputs["pixel_values"][1, 0, 5, 5] = bad
        proposals = model.propose_regions(inputs["pixel_values"])
        assert not proposals.mask[1].any() and not proposals.boxes[1].any() and not proposals.scores[1].any()
        for name in ("boxes", "scores", "mask"):
            assert torch.equal(proposals[name][[0, 2]], expected[name][[0, 2]])
        output = model(**inputs)
        assert output.num_regions[1] == 0 and output.region_boxes.isfinite().all()
        assert_close(output.logits[[0, 2]], expected_logits[[0, 2]], **EXACT)
        generated = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        assert torch.equal(generated.region_mask[[0, 2]], expected.mask[[0, 2]]) and not generated.region_mask[1].any()

    @pytest.mark.parametrize("part", ["class_embed_coco", "class_embed_sa1b", "bbox_embed"])
    def test_weights_that_are_not_finite_find_no_region(self, part):
        model = tiny_model()
        with torch.no_grad():
            for parameter in getattr(model.model.region_proposer, part)[1].parameters():
                parameter.fill_(float("nan"))
        inputs = tiny_inputs(model.config)
        output = model(**inputs)
        assert output.num_regions.tolist() == [0, 0] and not output.region_boxes.any()
        assert output.logits.isfinite().all()


class TestTraining:
    def test_what_is_kept_of_an_image_holds_no_graph(self):
        """A cache would keep the activations of the vision encoder alive as long as a conversation lasts."""
        model = tiny_model().train()
        features = model.get_image_features(tiny_inputs(model.config)["pixel_values"], return_dict=True)
        assert all(tokens.requires_grad for tokens in features.pooler_output)
        kept = [*features.region_feature_maps, features.proposal_boxes, features.proposal_scores]
        kept += [features.region_boxes, features.region_scores]
        assert not any(value.requires_grad for value in kept)

    def test_slots_of_another_prompt_are_permuted_in_training_only(self):
        model = tiny_model()
        pixels, boxes = tiny_inputs(model.config, batch_size=4)["pixel_values"], boxes_for(4, 1)
        with torch.no_grad():
            features = model.get_image_features(pixels, return_dict=True)
            plain = model.encode_regions(features, boxes)
            assert not plain.refer_slots.any()
            trained = model.train()
            torch.manual_seed(0)
            shuffled = trained.encode_regions(features, boxes)
        assert not torch.equal(shuffled.region_boxes, plain.region_boxes)
        assert_close(shuffled.region_boxes.sum(dim=1), plain.region_boxes.sum(dim=1))
        assert_close(shuffled.region_boxes[torch.arange(4), shuffled.refer_slots[:, 0]], boxes[:, 0])

    def test_labels_that_are_shifted_already(self, model):
        """As trainers that split sequences pass them."""
        inputs = tiny_inputs(model.config)
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[:, -2:] = 7
        shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        expected = model(labels=labels, **inputs).loss
        assert_close(model(labels=labels, shift_labels=shifted, **inputs).loss, expected)
        assert_close(model(labels=labels * 0, shift_labels=shifted, **inputs).loss, expected)
        # Marks of ground-truth boxes are resolved in them, too.
        marks = labels.masked_fill(labels == 7, model.config.ground_box_token_id)
        shifted_marks = shifted.masked_fill(shifted == 7, model.config.ground_box_token_id)
        inputs["ground_boxes"] = boxes_for(2, 2)
        expected = model(labels=marks, **inputs).loss
        assert_close(model(labels=marks, shift_labels=shifted_marks, **inputs).loss, expected)

    def test_ground_boxes_become_proxy_targets(self, model):
        """The loss with `<ground_box>` is the loss with the proxy of the slot written out."""
        config = model.config
        ids = torch.tensor([[*prompt_ids(config), config.ground_box_token_id, 2]])
        labels = torch.full_like(ids, -100)
        labels[:, -2:] = ids[:, -2:]
        inputs = {"pixel_values": tiny_inputs(config, 1)["pixel_values"], "ground_boxes": boxes_for(1, 1)}
        loss = model(input_ids=ids, labels=labels, **inputs).loss
        slots = model.get_image_features(return_dict=True, **inputs).ground_slots
        written = ids.clone()
        written[:, -2] = config.first_proxy_token_id + slots[0, 0]
        labels[:, -2] = written[:, -2]
        assert_close(model(input_ids=written, labels=labels, **inputs).loss, loss)

    def test_slots_are_permuted_in_training_only(self, model):
        trained = copy.deepcopy(model).train()
        pixels = tiny_inputs(model.config, batch_size=4)["pixel_values"]
        torch.manual_seed(0)
        with torch.no_grad():
            shuffled = trained.get_image_features(pixels, boxes_for(4, 1), return_dict=True)
            plain = model.get_image_features(pixels, boxes_for(4, 1), return_dict=True)
        assert not torch.equal(shuffled.region_boxes, plain.region_boxes)
        assert torch.equal(shuffled.region_mask, plain.region_mask)
        assert_close(shuffled.region_boxes.sum(dim=1), plain.region_boxes.sum(dim=1))
        rows = torch.arange(4)
        assert_close(shuffled.region_boxes[rows, shuffled.refer_slots[:, 0]], boxes_for(4, 1)[:, 0])

    def test_slots_of_precomputed_proposals_are_permuted_in_the_same_way(self):
        model = tiny_model()
        trained = copy.deepcopy(model).train()
        inputs = tiny_inputs(model.config, batch_size=2)
        plain = model.propose_regions(inputs["pixel_values"])
        outputs = []
        for proposals in ({}, {"proposal_boxes": plain.boxes, "proposal_scores": plain.scores}):
            torch.manual_seed(0)
            with torch.no_grad():
                outputs.append(trained(**inputs, **proposals))
        assert torch.equal(outputs[0].region_boxes, outputs[1].region_boxes)
        assert not torch.equal(outputs[1].region_boxes, plain.boxes)
        evaluated = model(**inputs, proposal_boxes=plain.boxes, proposal_scores=plain.scores)
        assert torch.equal(evaluated.region_boxes, plain.boxes)
        with pytest.raises(ValueError, match="both or none"):
            model(**inputs, proposal_boxes=plain.boxes)
        with pytest.raises(ValueError, match="both or none"):
            model(**inputs, proposal_scores=plain.scores)

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gradients_reach_what_trains_and_nothing_else(self, checkpointing):
        model = tiny_model().train()
        model.model.vision_tower.requires_grad_(False)
        model.model.region_proposer.requires_grad_(False)
        if checkpointing:
            model.gradient_checkpointing_enable()
        inputs = tiny_inputs(model.config)
        model(labels=inputs["input_ids"], **inputs).loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
            if parameter.requires_grad:
                assert torch.isfinite(parameter.grad).all(), name

    def test_gradient_checkpointing_changes_no_loss(self):
        losses = []
        for checkpointing in (False, True):
            model = tiny_model().train()
            if checkpointing:
                model.gradient_checkpointing_enable()
            torch.manual_seed(0)
            inputs = tiny_inputs(model.config)
            losses.append(model(labels=inputs["input_ids"], **inputs).loss.item())
        assert losses[0] == pytest.approx(losses[1])

    def test_resize_token_embeddings(self):
        model = tiny_model()
        inputs = tiny_inputs(model.config)
        before = model(**inputs).logits
        model.resize_token_embeddings(140)
        assert model.config.text_config.vocab_size == 140
        after = model(**inputs).logits
        assert after.shape[-1] == 140
        assert_close(after[..., :120], before)

    def test_lora_on_the_language_model(self, tmp_path):
        from peft import LoraConfig, PeftModel, get_peft_model

        model = tiny_model()
        inputs = tiny_inputs(model.config)
        before = model(**inputs).logits
        settings = LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False)
        adapted = get_peft_model(model, settings).eval()
        trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        assert trainable
        assert all("language_model" in name and "lora" in name for name in trainable)
        adapted(labels=inputs["input_ids"], **inputs).loss.backward()
        changed = adapted(**inputs).logits
        assert not torch.allclose(changed, before)
        generated = adapted.generate(**inputs, max_new_tokens=3, do_sample=False)
        adapted.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
        assert_close(again(**inputs).logits, changed)
        assert torch.equal(again.generate(**inputs, max_new_tokens=3, do_sample=False), generated)
