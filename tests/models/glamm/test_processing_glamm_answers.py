"""From generated ids and masks to text whose phrases are tied to masks."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BatchFeature

from transformers_groma.models.glamm.image_processing_glamm import GlammImageProcessor
from transformers_groma.models.glamm.processing_glamm import GlammProcessor

from .chats import BOX, IMAGE

SIZE = (48, 64)
TEXT = "<p> a dog </p> [SEG] and <p> the man </p>[SEG].</s>"


def ids_of(processor: GlammProcessor, *texts: str) -> torch.Tensor:
    """Answers as a batch, padded on the right."""
    rows = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    length = max(map(len, rows))
    return torch.tensor([row + [processor.tokenizer.pad_token_id] * (length - len(row)) for row in rows])


def squares(*sides: int) -> torch.Tensor:
    """Logits of squares in the upper left corner, in a grounding view of 64 with logits of 16."""
    logits = torch.full((len(sides), 16, 16), -8.0)
    for logit, side in zip(logits, sides, strict=True):
        logit[:side, :side] = 8.0
    return logits


def output_of(processor, *texts: str, masks=None, num_images: int | None = None, boxes=None, **fields):
    """What `generate` returns: `masks` are the logits of each sequence."""
    num_images = len(texts) if num_images is None else num_images
    boxes = torch.zeros(num_images, 0, 4) if boxes is None else boxes
    fields = {
        "sequences": ids_of(processor, *texts),
        "region_boxes": boxes,
        "region_scores": torch.ones(boxes.shape[:2]),
        "region_mask": boxes.any(dim=-1),
        **fields,
    }
    if masks is not None:
        fields |= {"segment_logits": masks, "segment_quality": [torch.full((len(of),), 0.75) for of in masks]}
    return SimpleNamespace(**fields)


def read(processor, *texts, sizes=None, inputs=None, **how):
    output = output_of(processor, *texts, **how)
    sizes = [SIZE] * len(output.region_boxes) if sizes is None else sizes
    return processor.post_process_grounded_generation(output, inputs, target_sizes=sizes)


class TestOriginal:
    def test_text_phrases_and_masks_of_the_original(self, glamm_golden, glamm_tokenizer):
        notes = json.loads((glamm_golden / "case_gen_gcg.json").read_text())
        golden = load_file(glamm_golden / "case_gen_gcg.safetensors")
        image_processor = GlammImageProcessor(grounding_size=256)
        processor = GlammProcessor(image_processor, glamm_tokenizer, image_token="<point>")
        output = output_of(processor, "x", masks=[golden["low_res"]])
        output.sequences = torch.tensor([notes["generated"]])
        (answer,) = processor.post_process_grounded_generation(output, target_sizes=[(120, 180)])
        assert [phrase.text for phrase in answer.phrases] == ["a red dog", "the grass"]
        assert answer.text == "a red dog on the grass."
        masks = np.stack([phrase.masks[0] for phrase in answer.phrases])
        assert masks.shape == golden["pred_masks"].shape == (2, 120, 180)
        assert np.array_equal(masks, (golden["pred_masks"] > 0).numpy())

    def test_other_answers_of_the_original(self, glamm_golden, processor):
        for name, expected in (("region", "a man in red ."), ("none", "It is a dog .")):
            notes = json.loads((glamm_golden / f"case_gen_{name}.json").read_text())
            output = output_of(processor, "x", masks=[torch.zeros(0, 16, 16)])
            output.sequences = torch.tensor([notes["generated"]])
            (answer,) = processor.post_process_grounded_generation(output, target_sizes=[SIZE])
            assert (answer.text, answer.phrases) == (expected, [])


class TestAnswers:
    def test_phrases_have_their_masks(self, any_processor):
        (answer,) = read(any_processor, TEXT, masks=[squares(4, 8)])
        assert answer.text == "a dog and the man."
        assert [(phrase.text, phrase.region_ids) for phrase in answer.phrases] == [("a dog", (0,)), ("the man", (1,))]
        assert answer.phrases[1].masks.shape == (1, *SIZE) and answer.phrases[1].masks.dtype == bool
        # A grounding view of 64x64 that the image fills down to row 48: one to one.
        assert answer.phrases[0].boxes.tolist() == [[0, 0, 16, 16]]
        assert answer.phrases[1].masks[0].sum() == pytest.approx(32 * 32, abs=1)  # without its corner
        assert answer.regions.scores.tolist() == [0.75, 0.75] and set(answer.masks) == {0, 1}
        assert answer.markup.replace(" ", "") == TEXT.replace(" ", "").removesuffix("</s>")

    def test_regions_of_the_user_come_first(self, any_processor):
        inputs = any_processor(images=IMAGE, text="Is <region> or <region>?", boxes=[BOX, [0, 0, 64, 48]])
        inputs = BatchFeature(inputs.data, tensor_type="pt")
        (answer,) = read(
            any_processor, TEXT, masks=[squares(4, 8)], boxes=inputs["refer_boxes"], inputs=inputs, sizes=[(480, 640)]
        )
        assert [phrase.region_ids for phrase in answer.phrases] == [(2,), (3,)]
        assert answer.user_region_ids == (0, 1) and answer.user_regions.xyxy[0].tolist() == BOX
        assert len(answer.regions) == 4 and set(answer.masks) == {2, 3}
        drawn = answer.draw(IMAGE)
        assert drawn.size[0] >= 640
        content = answer.to_dict()
        assert ["mask" in found for found in content["regions"]] == [False, False, True, True]

    def test_a_sample_is_numbered_as_by_itself_whatever_else_is_in_its_batch(self, any_processor):
        """Fewer boxes than another sample, none, and no image."""
        images = [IMAGE, None, IMAGE, IMAGE]
        texts = ["<region> <region>", "Hi", "What is <region>?", "What?"]
        boxes = [[BOX, BOX], None, [BOX], None]
        inputs = any_processor(images=images, text=texts, boxes=boxes, padding=True, return_tensors="pt")
        answers = read(
            any_processor,
            *[TEXT] * 4,
            masks=[squares(1, 2), torch.zeros(0, 16, 16), squares(3, 4), squares(5, 6)],
            boxes=inputs["refer_boxes"],
            inputs=inputs,
        )
        ids = [[phrase.region_ids for phrase in answer.phrases] for answer in answers]
        assert ids == [[(2,), (3,)], [(), ()], [(1,), (2,)], [(0,), (1,)]]
        assert [answer.user_region_ids for answer in answers] == [(0, 1), (), (0,), ()]
        assert [len(answer.regions) for answer in answers] == [4, 0, 3, 2]

    def test_several_sequences_of_a_sample(self, any_processor):
        inputs = any_processor(images=[IMAGE] * 2, text=["a", "b"], padding=True, return_tensors="pt")
        texts = ["[SEG]", "one", "<p> two </p> [SEG]", "three"]
        masks = [squares(2), squares()[:0], squares(4), squares()[:0]]
        answers = read(any_processor, *texts, masks=masks, inputs=inputs, num_images=2, sizes=[(48, 64), (24, 32)])
        assert [mask.shape for answer in answers for mask in answer.masks.values()] == [(48, 64), (24, 32)]
        assert [answer.text for answer in answers] == ["", "one", "two", "three"]

    def test_the_prompt_is_cut_off(self, any_processor):
        inputs = any_processor(images=IMAGE, text="[grounding]What?", return_tensors="pt")
        output = output_of(any_processor, TEXT, masks=[squares(4, 8)])
        output.sequences = torch.cat([inputs["input_ids"], output.sequences], dim=1)
        (answer,) = any_processor.post_process_grounded_generation(output, inputs, target_sizes=[SIZE])
        assert answer.text == "a dog and the man."
        with pytest.raises(ValueError, match="`output.sequences` hold the prompt. Pass the inputs"):
            any_processor.post_process_grounded_generation(output, target_sizes=[SIZE])

    @pytest.mark.parametrize("fields", ["no masks", "none", "nothing"])
    def test_an_answer_that_is_still_written_has_phrases_without_regions(self, fields, any_processor):
        output = output_of(any_processor, "<p> a dog </p> [SEG] and <p> the m")
        if fields == "none":
            output.segment_logits = None
        if fields == "nothing":
            output = SimpleNamespace(sequences=output.sequences, region_boxes=None)
        (answer,) = any_processor.post_process_grounded_generation(output, target_sizes=[SIZE])
        assert answer.text == "a dog and the m" and answer.unknown_region_ids == ()
        (phrase,) = answer.phrases
        assert (phrase.text, phrase.region_ids, phrase.masks, bool(phrase)) == ("a dog", (), None, False)
        assert answer.to_dict()["phrases"][0]["boxes_xyxy"] == []
        answer.draw(Image.new("RGB", SIZE[::-1]))

    def test_masks_without_an_estimate_have_score_zero(self, any_processor):
        output = output_of(any_processor, "<p> a cat </p> [SEG]", masks=[squares(1)])
        output.segment_quality = None
        (answer,) = any_processor.post_process_grounded_generation(output, target_sizes=[SIZE])
        assert answer.phrases[0].masks.any() and answer.phrases[0].regions.scores.tolist() == [0]

    def test_an_empty_mask_is_a_region_without_extent(self, any_processor):
        (answer,) = read(any_processor, "<p> a cat </p> [SEG]", masks=[squares(0)])
        assert answer.phrases[0].boxes.tolist() == [[0, 0, 0, 0]] and not answer.phrases[0].masks.any()
        answer.to_dict()
        answer.draw(Image.new("RGB", SIZE[::-1]))

    @pytest.mark.parametrize("quality", [float("nan"), float("inf"), 7.0, -1.0])
    def test_any_estimated_quality(self, quality, any_processor):
        output = output_of(any_processor, TEXT, masks=[squares(4, 8)])
        output.segment_quality = [torch.tensor([quality, 0.5])]
        (answer,) = any_processor.post_process_grounded_generation(output, target_sizes=[SIZE])
        assert [phrase.region_ids for phrase in answer.phrases] == [(0,), (1,)]
        assert answer.regions.scores.isfinite().all()

    def test_a_segment_spelled_letter_by_letter_is_text_and_takes_no_mask(self, any_processor):
        tokenizer = any_processor.tokenizer
        spelled = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in b"a [SEG] <p> b"])
        real = tokenizer("<p> the dog </p> [SEG] .", add_special_tokens=False)["input_ids"]
        output = output_of(any_processor, "x", masks=[squares(4)])
        output.sequences = torch.tensor([[*spelled, *real, *spelled]])
        (answer,) = any_processor.post_process_grounded_generation(output, target_sizes=[SIZE])
        assert [(phrase.text, phrase.region_ids) for phrase in answer.phrases] == [("the dog", (0,))]
        assert answer.text.count("[SEG]") == answer.text.count("<p>") == 2 and "</p>" not in answer.text
        assert answer.unknown_region_ids == ()

    @pytest.mark.parametrize("seed", range(3))
    def test_any_ids_and_any_number_of_masks(self, seed, any_processor):
        """Whatever a model emits has an answer, which can be drawn and written."""
        generator = random.Random(seed)
        tokens = any_processor.tokenizer.convert_tokens_to_ids(["<p>", "</p>", "[SEG]", "</s>"])
        size = len(any_processor.tokenizer)
        for _ in range(60):
            ids = [
                generator.choice(tokens) if generator.random() < 0.5 else generator.randrange(3, size)
                for _ in range(generator.randint(0, 25))
            ]
            ids = [token for token in ids if token != any_processor.image_token_id]
            count = generator.choice([0, 1, ids.count(tokens[2]), ids.count(tokens[2]) + 2])
            output = output_of(any_processor, "x", masks=[squares(*range(count))])
            output.sequences = torch.tensor([ids], dtype=torch.long)
            (answer,) = any_processor.post_process_grounded_generation(output, target_sizes=[SIZE])
            named = [number for phrase in answer.phrases for number in phrase.region_ids]
            segments = [*range(ids.count(tokens[2]))]
            assert named == segments[:count]
            assert list(answer.unknown_region_ids) == (segments[count:] if count else [])
            answer.to_dict()
            for phrase in answer.phrases:
                assert answer.text[slice(*phrase.span)] == phrase.text
                assert phrase.masks is None or phrase.masks.shape == (len(phrase.regions), *SIZE)
        answer.draw(Image.new("RGB", SIZE[::-1]))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"masks": [squares(1)]}, "`output.segment_logits` must have the masks of each sequence: got 1 for 2"),
            ({"sizes": [SIZE]}, "`target_sizes` must have one .height, width. for each image: got 1 for 2"),
            (
                {"inputs": {"refer_boxes": torch.full((2, 1, 4), 0.5)}, "boxes": torch.zeros(2, 1, 4)},
                "`inputs.refer_boxes` has 1 regions for image 0, but `output.region_mask` marks 0 in use",
            ),
            ({"num_images": 3, "sizes": [SIZE] * 3}, "`inputs` and `output` do not belong together"),
        ],
    )
    def test_what_does_not_fit(self, change, message, any_processor):
        with pytest.raises(ValueError, match=message):
            read(any_processor, TEXT, TEXT, **{"masks": [squares(1, 2)] * 2, **change})

    def test_masks_need_sizes_and_ids_are_no_output(self, any_processor):
        output = output_of(any_processor, TEXT, masks=[squares(1, 2)])
        with pytest.raises(ValueError, match="`output` has masks, so `target_sizes` is needed"):
            any_processor.post_process_grounded_generation(output)
        with pytest.raises(ValueError, match="`output` is a Tensor of ids.*return_dict_in_generate=True"):
            any_processor.post_process_grounded_generation(output.sequences)


class TestGroundAnswer:
    """What the server does, which has rows of regions and no output."""

    def test_rows_after_the_user_s_are_those_of_segments(self, any_processor):
        boxes = torch.tensor([[0.0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 6, 6]])
        answer = any_processor.ground_answer("<p> a dog </p> [SEG] [SEG]", boxes, user_region_ids=(0,))
        assert [(phrase.text, phrase.region_ids) for phrase in answer.phrases] == [("a dog", (1, 2))]
        partial = any_processor.ground_answer("<p> a dog </p> [SEG] [SEG]", boxes[:1], user_region_ids=(0,))
        assert [(phrase.text, phrase.region_ids) for phrase in partial.phrases] == [("a dog", ())]
        assert partial.unknown_region_ids == ()
        fewer = any_processor.ground_answer("<p> a dog </p> [SEG] [SEG]", boxes[:2], user_region_ids=(0,))
        assert (fewer.phrases[0].region_ids, fewer.unknown_region_ids) == ((1,), (2,))

    def test_wrong_rows(self, any_processor):
        with pytest.raises(ValueError, match="`user_region_ids` names .3., which are not regions"):
            any_processor.ground_answer("[SEG]", torch.zeros(2, 4), user_region_ids=(3,))
        with pytest.raises(ValueError, match="`region_boxes` must have shape"):
            any_processor.ground_answer("[SEG]", torch.zeros(4))


def test_masks_of_segment(any_processor):
    """Of several masks of a region the best one, in the upright image."""
    logits = torch.stack([squares(2, 4), squares(8, 0)])[None]
    masks = SimpleNamespace(
        logits=logits, quality=torch.tensor([[[0.25, 0.5], [0.9, 0.1]]]), mask=torch.tensor([[True, True]])
    )
    (regions,) = any_processor.post_process_masks(masks, [SIZE])
    assert regions.masks.sum(axis=(1, 2)).tolist() == pytest.approx([16 * 16, 32 * 32], abs=1)
    assert regions.scores.tolist() == pytest.approx([0.5, 0.9])
    masks.mask = torch.tensor([[False, True]])
    assert any_processor.post_process_masks(masks, [SIZE])[0].ids == (1,)
    with pytest.raises(ValueError, match="`target_sizes` must have one"):
        any_processor.post_process_masks(masks, [])
