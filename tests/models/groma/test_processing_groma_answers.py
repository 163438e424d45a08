"""Answers: generated ids and region boxes to grounded text."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.generation import GenerateDecoderOnlyOutput

from transformers_groma.masks import masks_of_logits
from transformers_groma.models.modeling_pointing import RegionMasks

from ...tiny import MASK_DECODER, tiny_detector
from .chats import BOX, BOX_NORMALIZED


class TestPostProcess:
    @pytest.fixture
    def make_output(self, processor):
        def make(prompts: torch.Tensor, answers: list[str], num_images: int):
            answer_ids = [processor.tokenizer(a, add_special_tokens=False)["input_ids"] for a in answers]
            longest = max(map(len, answer_ids))
            pad = processor.tokenizer.pad_token_id
            ids = torch.tensor([i + [pad] * (longest - len(i)) for i in answer_ids])
            prompts = prompts.repeat_interleave(len(answers) // max(len(prompts), 1), dim=0)
            output = GenerateDecoderOnlyOutput(sequences=torch.cat([prompts, ids], dim=1) if len(prompts) else ids)
            output.region_boxes = output.region_scores = output.region_mask = None
            if num_images:
                output.region_boxes = torch.zeros(num_images, 5, 4)
                output.region_boxes[:, 0] = torch.tensor(BOX_NORMALIZED)
                output.region_boxes[:, 1] = torch.tensor([0.5, 0.5, 1.2, 1.0])
                output.region_scores = torch.full((num_images, 5), 0.5)
                output.region_mask = torch.tensor([True, True, False, False, False]).expand(num_images, 5)
            return output

        return make

    def test_boxes_in_pixels(self, processor, image, make_output):
        inputs = processor(images=image, text="What is <region>?", boxes=[BOX], return_tensors="pt")
        output = make_output(
            inputs["input_ids"], ["<p>a dog</p> <roi><r0></roi> near <p>all</p><roi><r1><r4></roi>.</s>"], 1
        )
        (answer,) = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])
        assert answer.text == "a dog near all."
        assert [phrase.text for phrase in answer.phrases] == ["a dog", "all"]
        assert answer.phrases[0].boxes.tolist() == [BOX]
        assert answer.phrases[1].boxes.tolist() == [[0, 0, 640, 480]]
        assert answer.unknown_region_ids == (4,)
        assert [region.id for region in answer.regions] == [0, 1]

    def test_regions_of_the_user(self, processor, image, make_output):
        inputs = processor(
            images=[image, image, image],
            text=["What?", "What is <region>?", "Is <region> on <region>?"],
            boxes=[None, [BOX], [BOX, [1, 1, 90, 90]]],
            padding=True,
            return_tensors="pt",
        )
        output = make_output(inputs["input_ids"], ["one", "two", "three"] * 2, 3)
        for inputs_ in (inputs, dict(inputs)):
            answers = processor.post_process_grounded_generation(output, inputs_, target_sizes=[(480, 640)] * 3)
            # Two answers to each of the three.
            assert [answer.user_region_ids for answer in answers] == [(), (), (0,), (0,), (0, 1), (0, 1)]
        without = {"input_ids": inputs["input_ids"]}
        for answer in processor.post_process_grounded_generation(output, without):
            assert answer.user_region_ids == ()

    def test_regions_of_the_user_in_a_later_turn(self, processor, image, make_output):
        """There the boxes of the turn have the slots of the same regions, or free ones, and not the first ones."""
        turn = processor(
            images=image, text="Is <region> on <region>?", boxes=[BOX, [1, 1, 90, 90]], return_tensors="pt"
        )
        output = make_output(turn["input_ids"], ["Yes."], 1)
        output.region_boxes[0, 3], output.region_boxes[0, 2] = output.region_boxes[0, 0], turn["refer_boxes"][0, 1]
        output.region_boxes[0, 0] = torch.tensor([0.5, 0.5, 0.1, 0.1])
        output.region_mask = torch.tensor([[True, True, True, True, False]])
        (answer,) = processor.post_process_grounded_generation(output, turn, target_sizes=[(480, 640)])
        assert answer.user_region_ids == (3, 2)
        # A slot that is not used does not count.
        output.region_boxes[0, 4] = output.region_boxes[0, 3]
        output.region_boxes[0, 3] = torch.tensor([0.4, 0.5, 0.1, 0.1])
        (answer,) = processor.post_process_grounded_generation(output, turn, target_sizes=[(480, 640)])
        assert answer.user_region_ids[0] == 0

    def test_one_region_more_often_than_there_are_slots(self, processor, image, make_output):
        turn = processor(images=image, text="Is <region>?", boxes=[BOX], return_tensors="pt")
        output = make_output(turn["input_ids"], ["Yes."], 1)
        boxes = turn["refer_boxes"].repeat(1, output.region_boxes.shape[1] + 1, 1)
        output.region_boxes[0, 1], output.region_boxes[0, 0] = boxes[0, 0], torch.tensor([0.5, 0.5, 0.1, 0.1])
        output.region_mask[0, 1] = True
        (answer,) = processor.post_process_grounded_generation(output, {**turn, "refer_boxes": boxes}, [(480, 640)])
        assert answer.user_region_ids == (1,) * boxes.shape[1]

    def test_regions_of_the_user_beside_samples_without_image(self, processor, image, make_output):
        inputs = processor(
            images=[None, image],
            text=["Hello", "What is <region>?"],
            boxes=[None, [BOX]],
            padding=True,
            return_tensors="pt",
        )
        output = make_output(inputs["input_ids"], ["Hi", "A dog."], 1)
        answers = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])
        assert [answer.user_region_ids for answer in answers] == [(), (0,)]

    def test_fractions_without_target_sizes(self, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt")
        output = make_output(inputs["input_ids"], ["<p>dog</p><roi><r0></roi>"], 1)
        (answer,) = processor.post_process_grounded_generation(output, inputs)
        assert answer.phrases[0].boxes.tolist() == [[0, 0, 0.5, 0.5]]

    def test_several_sequences_per_sample(self, processor, image, make_output):
        inputs = processor(images=[image, image], text=["What?", "Where is it?"], padding=True, return_tensors="pt")
        answers = [f"<p>x</p><roi><r0></roi> {word}" for word in ("one", "two", "three", "four")]
        output = make_output(inputs["input_ids"], answers, 2)
        results = processor.post_process_grounded_generation(output, inputs, target_sizes=[(100, 100), (200, 400)])
        assert [result.text for result in results] == ["x one", "x two", "x three", "x four"]
        widths = [result.phrases[0].boxes[0, 2].item() for result in results]
        assert widths == [50, 50, 200, 200]

    def test_samples_without_image(self, processor, image, make_output):
        inputs = processor(images=[None, image], text=["Hello", "What?"], padding=True, return_tensors="pt")
        output = make_output(inputs["input_ids"], ["Hi", "<p>dog</p><roi><r0></roi>"], 1)
        first, second = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])
        assert (first.text, len(first.regions), first.phrases) == ("Hi", 0, [])
        assert second.phrases[0].boxes.tolist() == [BOX]

    def test_text_only(self, processor, make_output):
        inputs = processor(text="Hello", return_tensors="pt")
        (answer,) = processor.post_process_grounded_generation(make_output(inputs["input_ids"], ["Hi"], 0), inputs)
        assert (answer.text, len(answer.regions)) == ("Hi", 0)

    @pytest.mark.parametrize("with_inputs", [False, True])
    def test_sequences_without_prompt(self, with_inputs, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt") if with_inputs else None
        output = make_output(torch.zeros(0, 0, dtype=torch.long), ["<p>dog</p><roi><r0></roi>"], 1)
        (answer,) = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])
        assert answer.phrases[0].boxes.tolist() == [BOX]

    def test_bare_ids(self, processor):
        with pytest.raises(ValueError, match="return_dict_in_generate=True"):
            processor.post_process_grounded_generation(torch.tensor([[1, 2]]))

    def test_forgotten_inputs(self, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt")
        output = make_output(inputs["input_ids"], ["x"], 1)
        with pytest.raises(ValueError, match="as `inputs`"):
            processor.post_process_grounded_generation(output)

    def test_wrong_number_of_target_sizes(self, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt")
        output = make_output(inputs["input_ids"], ["x"], 1)
        with pytest.raises(ValueError, match="one \\(height, width\\) for each image: got 2 for 1"):
            processor.post_process_grounded_generation(output, inputs, target_sizes=[(1, 1), (1, 1)])

    def test_inputs_of_another_batch(self, processor, image, make_output):
        inputs = processor(images=image, text="What?", return_tensors="pt")
        other = processor(images=[image, image], text=["What?", "What?"], return_tensors="pt")
        output = make_output(inputs["input_ids"], ["x"], 1)
        with pytest.raises(ValueError, match="do not belong together"):
            processor.post_process_grounded_generation(output, other)


# ------------------------------------------------------------------------------------------- both sides of every limit


@pytest.mark.parametrize("with_image", [0, 1])
def test_sequences_with_the_prompt_are_noticed_in_any_row(with_image, processor, image):
    """One row of the batch has no image; without `inputs` the prompts would be read as answers."""
    texts = ["Hi there"] * 2
    images = [None, None]
    images[with_image] = image
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    output = SimpleNamespace(
        sequences=inputs["input_ids"],
        region_boxes=torch.full((2, 1, 4), 0.5),
        region_scores=torch.ones(2, 1),
        region_mask=torch.ones(2, 1, dtype=torch.bool),
    )
    with pytest.raises(ValueError, match="`output.sequences` hold the prompt"):
        processor.post_process_grounded_generation(output)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_proposals_that_are_not_finite_are_left_out(bad, processor):
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, bad, 0.2], [0.2, 0.2, 0.2, 0.2]]])
    proposals = SimpleNamespace(
        boxes=boxes, scores=torch.tensor([[0.9, 0.8, 0.7]]), mask=torch.ones(1, 3, dtype=torch.bool)
    )
    (found,) = processor.post_process_region_proposals(proposals, target_sizes=[(100, 100)])
    torch.testing.assert_close(found.xyxy, torch.tensor([[40.0, 40, 60, 60], [10, 10, 30, 30]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7]))
    assert found.ids == (0, 2), "numbers of the slots, as in the proxy tokens"


class TestMasks:
    @staticmethod
    def masks(**change):
        """Two images with two rows each, one of them padding; two masks for each region, the second is better."""
        logits = torch.full((2, 2, 2, 4, 4), -1.0)
        logits[:, :, 0] = 5.0
        logits[0, 0, 1, :2, :2] = 1.0
        logits[0, 1, 1, 3, 3] = 1.0
        quality = torch.tensor([[[0.2, 0.9], [0.3, 0.7]], [[0.9, 0.1], [0.1, 0.9]]])
        mask = torch.tensor([[True, True], [False, True]])
        return RegionMasks(**{"logits": logits, "quality": quality, "mask": mask, **change})

    def test_the_best_mask_of_each_region_in_the_upright_image(self, processor):
        first, second = processor.post_process_masks(self.masks(), target_sizes=[(8, 16), torch.tensor([4, 4])])
        assert first.masks.shape == (2, 8, 16) and first.masks.dtype == bool
        assert first.xyxy.tolist() == [[0, 0, 8, 4], [12, 6, 16, 8]]
        square = np.pad(np.ones((4, 8), bool), ((0, 4), (0, 8)))
        square[3, 7] = False  # the corner is rounded by the enlargement
        np.testing.assert_array_equal(first[0].mask, square)
        torch.testing.assert_close(first.scores, torch.tensor([0.9, 0.7]))
        assert (first.ids, second.ids) == ((0, 1), (1,)), "numbers of the rows; padding is left out"
        assert second.masks.shape == (1, 4, 4) and not second.masks.any()
        assert second.xyxy.tolist() == [[0, 0, 0, 0]]

    def test_no_regions(self, processor):
        found = processor.post_process_masks(self.masks(mask=torch.zeros(2, 2, dtype=torch.bool)), [(8, 16), (4, 4)])
        assert [len(regions) for regions in found] == [0, 0]
        assert found[0].masks.shape == (0, 8, 16)

    def test_half_precision(self, processor):
        masks = self.masks()
        masks = self.masks(logits=masks.logits.bfloat16(), quality=masks.quality.bfloat16())
        assert processor.post_process_masks(masks, [(8, 16), (4, 4)])[0].xyxy[0].tolist() == [0, 0, 8, 4]

    def test_wrong_number_of_target_sizes(self, processor):
        with pytest.raises(ValueError, match="one \\(height, width\\) for each image: got 1 for 2"):
            processor.post_process_masks(self.masks(), target_sizes=[(8, 16)])

    def test_what_a_model_decodes(self, processor):
        model = tiny_detector(mask_decoder_config=MASK_DECODER)
        size = model.config.vision_config.image_size
        features = model.get_image_features(torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
        masks = model.segment(features, boxes=torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.0] * 4, [0.3, 0.3, 0.2, 0.2]]]))
        (found,) = processor.post_process_masks(masks, [(60, 90)])
        assert found.ids == (0, 2) and found.masks.shape == (2, 60, 90)
        np.testing.assert_array_equal(found.masks, masks_of_logits(masks.logits[0, [0, 2], 0], 60, 90))
