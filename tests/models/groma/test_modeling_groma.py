"""The models: batches, slots, training, other encoders and language models. Random weights, seconds."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForObjectDetection

from tests.golden import golden_pixels
from tests.tiny import (
    MAX_REGIONS,
    PROPOSER,
    VISION,
    prompt_ids,
    spread_proposals,
    tiny_config,
    tiny_detector_config,
    tiny_inputs,
    tiny_model,
)
from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal, GromaModel
from transformers_groma.models.groma.loss_groma_proposer import region_proposal_loss
from transformers_groma.models.groma.modeling_groma_cached_prompt import CachedPrompt, remember_generated
from transformers_groma.models.groma.modeling_groma_checks import check_no_image, check_same_regions, check_turn
from transformers_groma.models.groma.modeling_groma_outputs import GromaImageFeatures

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


class TestChecks:
    """Both sides of what is refused."""

    def test_placeholders_of_an_image_that_is_not_there(self, model):
        """Fewer than an image has may be said by a user or a model, alone or within a longer text."""
        most = model.config.num_image_tokens + MAX_REGIONS
        for others in (0, 1, 5):
            mask = torch.tensor([[False] * (others + most), [True] * (most - 1) + [False] * (others + 1)])
            check_no_image(mask, model.config)
            mask[0, others:] = True
            with pytest.raises(ValueError, match=rf"\[{most}, {most - 1}\] placeholders"):
                check_no_image(mask, model.config)
        check_no_image(torch.ones(1, most - 1, dtype=torch.bool), model.config)

    @pytest.mark.parametrize(
        ("placeholders", "marks", "counts", "fits"),
        [
            ([0, 1, 0], [1, 0, 0], None, False),  # only a user writes both
            ([0, 1, 1], [0, 0, 0], None, True),
            ([0, 0, 0], [1, 1, 0], None, True),
            ([1], [1], None, True),
            ([0, 1, 0], [1, 0, 0], [1], True),
            ([0, 1, 0], [1, 0, 0], [2], False),
            ([0, 1, 0], [1, 0, 0], [0], False),
            ([0, 1, 1], [1, 0, 0], [1], False),
            ([0, 1, 1], [1, 0, 0], [2], False),
            ([0, 1, 0], [1, 0, 1], [1], False),
            ([0, 0, 0], [0, 0, 0], [0], True),
            ([1], [1], [0], False),
        ],
    )
    def test_marks_of_a_later_turn(self, model, placeholders, marks, counts, fits):
        given = (torch.tensor([placeholders]).bool(), torch.tensor([marks]).bool(), counts and torch.tensor(counts))
        if fits:
            check_turn(*given, model.config)
            return
        with pytest.raises(ValueError, match="A later turn needs one `<refer_box>` mark and one placeholder"):
            check_turn(*given, model.config)

    def test_other_regions_than_those_in_the_cache(self):
        """Boxes may differ by rounding; a region that came in a later turn is in the cache alone."""
        boxes = torch.rand(2, 3, 4)
        used = torch.tensor([[True, True, False], [True, False, False]])
        rows = torch.tensor([0, 0, 1])
        has_image = torch.tensor([True, False, True])
        later = torch.tensor([[True, True, True], [True, False, False]])
        cached = CachedPrompt(torch.ones(3, 2), has_image, rows, boxes[rows], torch.ones(3, 3), later[rows])

        def check(boxes: torch.Tensor, mask: torch.Tensor) -> None:
            check_same_regions(GromaImageFeatures(region_boxes=boxes, region_mask=mask), cached)

        check(boxes, used)
        check(boxes + 5e-5, used)
        check(torch.where(used[..., None], boxes, 0.7), used)
        moved, more = boxes.clone(), used.clone()
        moved[1, 0, 3] += 3e-4
        more[1, 2] = True
        for given in ((moved, used), (boxes, more), (boxes[1:], used[1:]), (boxes.flip(0), used)):
            with pytest.raises(ValueError, match="other images or regions"):
                check(*given)

    def test_nothing_is_remembered_without_a_cache(self):
        remember_generated(None, CachedPrompt(*[torch.zeros(1, 1)] * 6))


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


class TestDetector:
    @pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
    @pytest.mark.parametrize("refine", [True, False])
    def test_levels(self, num_levels, refine):
        torch.manual_seed(0)
        config = tiny_detector_config(num_feature_levels=num_levels, refine_reference_points=refine)
        model = GromaForRegionProposal(config)
        labels = [{"boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]]), "source": "sa1b"}, {"boxes": torch.zeros(0, 4)}]
        output = model(torch.randn(2, 3, 56, 56), labels=labels)
        assert output.pred_boxes.shape == (2, 10, 4)
        tokens = sum(side * side for side in (16, 8, 4, 2)[-num_levels:]) if num_levels > 1 else 16
        assert output.proposer_output.encoder_logits.shape == (2, tokens, 1)
        output.loss.backward()
        unused = {"embeddings.mask_token", "layernorm.weight", "layernorm.bias"}
        for name, parameter in model.named_parameters():
            if name.removeprefix("vision_tower.") not in unused:
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name

    def test_every_image_teaches_the_head_of_its_source(self):
        """A mixed batch has, image by image, the losses of batches of one source."""
        torch.manual_seed(0)
        config = tiny_detector_config()
        model = GromaForRegionProposal(config).eval()
        spread_proposals(model.region_proposer)
        pixels = torch.randn(2, 3, 56, 56)
        boxes = torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.2, 0.3, 0.1, 0.2]])
        proposals = model(pixels).proposer_output

        def loss(*sources: str) -> dict[str, torch.Tensor]:
            labels = [{"boxes": boxes, "source": source} for source in sources]
            return region_proposal_loss(proposals, labels, config.proposer_config)[1]

        coco, sa1b, mixed = loss("coco", "coco"), loss("sa1b", "sa1b"), loss("coco", "sa1b")
        assert mixed["loss_ce"] not in (coco["loss_ce"], sa1b["loss_ce"])
        for index, (source, expected) in enumerate((("coco", coco), ("sa1b", sa1b))):
            one = model(pixels[index : index + 1]).proposer_output
            single = region_proposal_loss(one, [{"boxes": boxes, "source": source}], config.proposer_config)[1]
            other = 1 - index
            rest = model(pixels[other : other + 1]).proposer_output
            rest = region_proposal_loss(rest, [{"boxes": boxes, "source": source}], config.proposer_config)[1]
            assert_close((single["loss_ce"] + rest["loss_ce"]) / 2, expected["loss_ce"], **EXACT)
        first = region_proposal_loss(
            model(pixels[:1]).proposer_output, [{"boxes": boxes, "source": "coco"}], config.proposer_config
        )[1]
        second = region_proposal_loss(
            model(pixels[1:]).proposer_output, [{"boxes": boxes, "source": "sa1b"}], config.proposer_config
        )[1]
        assert_close(mixed["loss_ce"], (first["loss_ce"] + second["loss_ce"]) / 2, **EXACT)

    def test_refinement_moves_the_sampling(self):
        torch.manual_seed(0)
        refined = GromaForRegionProposal(tiny_detector_config(decoder_layers=3)).eval()
        spread_proposals(refined.region_proposer)
        fixed = GromaForRegionProposal(tiny_detector_config(decoder_layers=3, refine_reference_points=False)).eval()
        fixed.load_state_dict(refined.state_dict())
        pixels = torch.randn(1, 3, 56, 56)
        one, other = refined(pixels).proposer_output, fixed(pixels).proposer_output
        # The first layer is the same; later ones look at other places.
        assert_close(one.all_pred_boxes[:, 0], other.all_pred_boxes[:, 0])
        assert not torch.allclose(one.decoder_hidden_states[:, 2], other.decoder_hidden_states[:, 2])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([{"boxes": torch.tensor([[0.5, 0.5, 0.1, 0.1]]), "source": "voc"}], "'coco' or 'sa1b'"),
            ([{"boxes": torch.tensor([[50.0, 50.0, 10.0, 10.0]])}], "normalized cxcywh"),
            ([], "one dict for each"),
        ],
    )
    def test_bad_labels(self, labels, message):
        model = GromaForRegionProposal(tiny_detector_config())
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(1, 3, 56, 56), labels=labels)

    def test_more_queries_than_tokens(self):
        model = GromaForRegionProposal(tiny_detector_config(num_queries=17))
        with pytest.raises(ValueError, match="num_queries"):
            model(torch.zeros(1, 3, 56, 56))

    def test_loads_into_the_whole_model_and_back(self, tmp_path):
        torch.manual_seed(0)
        detector = GromaForRegionProposal(tiny_detector_config()).eval()
        detector.save_pretrained(tmp_path / "detector")
        assert type(AutoModelForObjectDetection.from_pretrained(tmp_path / "detector")) is GromaForRegionProposal

        model = GromaForConditionalGeneration.from_pretrained(tmp_path / "detector", config=tiny_config())
        expected = detector.state_dict()
        actual = model.model.state_dict()
        assert all(torch.equal(actual[name], value) for name, value in expected.items())

        model.save_pretrained(tmp_path / "whole")
        again = GromaForRegionProposal.from_pretrained(tmp_path / "whole", config=tiny_detector_config())
        assert all(torch.equal(again.state_dict()[name], value) for name, value in expected.items())

    def test_proposals_of_detector_and_whole_model_agree(self):
        whole = tiny_model()
        detector = GromaForRegionProposal(tiny_detector_config()).eval()
        detector.load_state_dict({k: v for k, v in whole.model.state_dict().items() if k in detector.state_dict()})
        pixels = torch.randn(2, 3, 56, 56)
        one, other = detector.propose_regions(pixels), whole.propose_regions(pixels)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.mask, other.mask)


class TestRegionEncoder:
    def test_right_geometry_reads_the_box(self):
        """With the right geometry a change outside of a box's surroundings does not change its crop; legacy is elsewhere."""
        from transformers_groma.boxes import box_cxcywh_to_xyxy
        from transformers_groma.models.modeling_ops import GromaRoiAlign

        encoder = tiny_model().model.region_encoder
        assert encoder.config.roi_box_format == "xyxy"
        assert encoder.config.roi_strides == [3.5, 7.0, 14.0]
        box = torch.tensor([[[0.75, 0.75, 0.25, 0.25]]])
        feature_map = torch.zeros(1, 1, 16, 16)
        feature_map[..., 10:14, 10:14] = 1.0  # the box covers pixels 10 to 14
        corners = box_cxcywh_to_xyxy(box) * 56
        (crop,) = GromaRoiAlign()([feature_map], corners, [1 / 3.5], 4, 2)
        assert crop.min() > 0.7
        (legacy,) = GromaRoiAlign()([feature_map], box * 56, [1 / 1.75], 4, 2)
        assert legacy.mean() < 0.1

    def test_legacy_and_right_geometry_are_configurations(self):
        legacy = tiny_model(region_encoder_config={"roi_box_format": "cxcywh", "roi_strides": [1.75, 3.5, 7.0]})
        right = tiny_model()
        pixels = tiny_inputs(right.config)["pixel_values"]
        one, other = (m.get_image_features(pixels, return_dict=True) for m in (legacy, right))
        assert torch.equal(one.region_boxes, other.region_boxes)
        assert not torch.allclose(one.pooler_output[0], other.pooler_output[0])

    def test_roi_align_gradients(self):
        from transformers_groma.models.modeling_ops import GromaRoiAlign

        feature_map = torch.randn(2, 2, 5, 6, dtype=torch.float32, requires_grad=True)
        boxes = torch.tensor([[[0.5, 1.0, 4.0, 3.5]], [[2.0, 0.0, 1.0, 4.0]]])
        (crops,) = GromaRoiAlign()([feature_map], boxes, [1.0], 2, 2)
        crops.sum().backward()
        # Every bin is an average of weights that sum to 1, so the gradient sums to the number of bins.
        assert feature_map.grad.sum().item() == pytest.approx(crops.numel(), rel=1e-5)

    def test_regions_are_encoded_in_groups_of_bounded_memory(self, monkeypatch):
        from transformers_groma.models import modeling_ops as ops

        feature_map, boxes = torch.randn(1, 3, 8, 8), torch.rand(1, 9, 4) * 8
        whole = ops.GromaRoiAlign()([feature_map], boxes, [1.0], 3, 2)[0]
        monkeypatch.setattr(ops, "MAX_ROI_ALIGN_ELEMENTS", 200)
        assert_close(ops.GromaRoiAlign()([feature_map], boxes, [1.0], 3, 2)[0], whole)


class TestSavingAndPrecision:
    def test_a_trainer_saves_under_module_names_and_resumes_exactly(self, tmp_path):
        """Trainer reads its checkpoints by module names, without complaint about names that it does not find."""
        from safetensors.torch import load_file
        from transformers import Trainer, TrainingArguments

        def trained(max_steps: int, resume: bool) -> list[float]:
            model = tiny_model().train()
            inputs = tiny_inputs(model.config, batch_size=4)
            rows = [{name: value[index] for name, value in inputs.items()} for index in range(4)]
            rows = [{**row, "labels": row["input_ids"]} for row in rows]
            arguments = TrainingArguments(
                output_dir=str(tmp_path / ("resumed" if resume or max_steps == 2 else "whole")),
                max_steps=max_steps,
                per_device_train_batch_size=2,
                save_steps=2,
                logging_steps=1,
                learning_rate=1e-2,
                lr_scheduler_type="constant",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                remove_unused_columns=False,
            )
            trainer = Trainer(model, arguments, train_dataset=rows)
            trainer.train(resume_from_checkpoint=resume)
            return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

        whole = trained(4, resume=False)
        trained(2, resume=False)
        saved = load_file(tmp_path / "resumed" / "checkpoint-2" / "model.safetensors")
        assert set(saved) == set(tiny_model().state_dict())
        assert trained(4, resume=True) == pytest.approx(whole, abs=1e-4)

    def test_saving_and_loading(self, tmp_path):
        model = tiny_model()
        model.save_pretrained(tmp_path)
        again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
        assert type(again) is GromaForConditionalGeneration
        inputs = tiny_inputs(model.config)
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        base = AutoModel.from_pretrained(tmp_path)
        assert type(base) is GromaModel
        assert AutoConfig.from_pretrained(tmp_path).proposer_config.num_queries == PROPOSER["num_queries"]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_points_at_the_same_places(self, converted_golden, golden_dir, dtype):
        pixels = golden_pixels(golden_dir)
        full = GromaForConditionalGeneration.from_pretrained(converted_golden).eval()
        half = GromaForConditionalGeneration.from_pretrained(converted_golden, dtype=dtype).eval()
        assert half.lm_head.weight.dtype == dtype
        assert half.model.region_encoder.output_projection.weight.dtype == dtype
        one, other = full.propose_regions(pixels), half.propose_regions(pixels)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.mask, other.mask)

    def test_half_precision_generates(self):
        model = tiny_model().to(torch.bfloat16)  # everything, the detector too
        inputs = tiny_inputs(model.config)
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
        assert output.region_boxes.dtype == torch.float32
        assert output.sequences.shape[1] > inputs["input_ids"].shape[1]
        assert torch.isfinite(model(**inputs).logits).all()

    def test_autocast_points_at_the_same_places(self, converted_golden, golden_dir):
        pixels = golden_pixels(golden_dir)
        model = GromaForConditionalGeneration.from_pretrained(converted_golden).eval()
        expected = model.propose_regions(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            proposals = model.propose_regions(pixels)
            features = model.get_image_features(pixels, return_dict=True)
        assert torch.equal(proposals.boxes, expected.boxes)
        assert torch.equal(features.region_boxes, expected.boxes)
        assert torch.isfinite(torch.cat(features.pooler_output)).all()

    def test_autocast_trains(self):
        model = tiny_model().train()
        inputs = tiny_inputs(model.config)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(labels=inputs["input_ids"], **inputs).loss
        loss.backward()
        assert torch.isfinite(loss)


class TestOtherComponents:
    @pytest.mark.parametrize(
        "vision_config",
        [
            {
                "model_type": "dinov3_vit",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 64,
                "patch_size": 16,
                "num_register_tokens": 4,
            },
            {
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 64,
                "patch_size": 16,
            },
        ],
        ids=["dinov3", "siglip"],
    )
    def test_other_vision_encoders(self, vision_config):
        model = tiny_model(vision_config=vision_config)
        assert model.config.region_encoder_config.roi_strides == [4.0, 8.0, 16.0]
        inputs = tiny_inputs(model.config)
        model(labels=inputs["input_ids"], **inputs).loss.backward()
        assert model.generate(**inputs, max_new_tokens=3).shape[0] == 2
        # The map is made of patches alone: its corner is the last token of the encoder.
        vision = model.detect(inputs["pixel_values"]).vision
        assert torch.equal(
            model.model.feature_map(vision.hidden_states[-1])[..., -1, -1], vision.hidden_states[-1][:, -1]
        )

    @pytest.mark.parametrize(
        "text_config",
        [
            {
                "model_type": "qwen3",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "vocab_size": 120,
                "pad_token_id": 0,
                "tie_word_embeddings": True,
            },
        ],
        ids=["qwen3"],
    )
    def test_other_language_models(self, text_config, tmp_path):
        model = tiny_model(text_config=text_config)
        assert model.lm_head.weight is model.get_input_embeddings().weight
        inputs = tiny_inputs(model.config)
        model(labels=inputs["input_ids"], **inputs).loss.backward()
        generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        model.save_pretrained(tmp_path)
        again = AutoModelForImageTextToText.from_pretrained(tmp_path)
        assert torch.equal(again.generate(**inputs, max_new_tokens=4, do_sample=False), generated)

    def test_configuration_errors(self):
        with pytest.raises(ValueError, match="even side"):
            tiny_config(vision_config={**VISION, "image_size": 42})
        with pytest.raises(ValueError, match="group_norm_groups"):
            tiny_model(region_encoder_config={"group_norm_groups": 5})
        with pytest.raises(ValueError, match="num_feature_levels"):
            tiny_config(proposer_config={"num_feature_levels": 5})
