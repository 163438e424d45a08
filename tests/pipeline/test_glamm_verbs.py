"""What only a GLaMM does: masks come with the answer, and its grounding encoder runs for those alone."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from transformers_groma import ImageGroundingPipeline
from transformers_groma.markup import SEGMENT_TOKEN
from transformers_groma.perceived_images import perceive

from ..scripted import grounded_script, plain_script
from ..tiny_checkpoint import tiny_glamm_parts
from .samples import BOX

SUFFIX = "Please respond with interleaved segmentation masks for the corresponding parts of the answer."


@pytest.fixture
def writer(glamm, write):
    """A GLaMM that writes `<p> a </p> [SEG] i` and ends."""
    write(glamm, grounded_script(glamm.processor))
    return glamm


@pytest.fixture
def endless(glamm, write):
    """A GLaMM that writes `<p> a </p> [SEG] i` again and again."""
    write(glamm, grounded_script(glamm.processor, ends=False))
    return glamm


@pytest.fixture
def prompts(glamm, monkeypatch):
    """The words of each prompt that the model reads, without placeholders."""
    read, generate = [], glamm.model.generate

    def recorded(**inputs):
        for ids in inputs["input_ids"]:
            read.append(" ".join(glamm.processor.tokenizer.decode(ids).replace("<point>", "").split()))
        return generate(**inputs)

    monkeypatch.setattr(glamm.model, "generate", recorded)
    return read


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda pipe, image: pipe.locate(image, "the red cup"), "Please segment the red cup in this image."),
        (lambda pipe, image: pipe.locate_all(image, "cups"), "Please segment cups in this image."),
        (lambda pipe, image: pipe.segment(image, "the cup"), "Please segment the cup in this image."),
        (
            lambda pipe, image: pipe.describe(image, BOX),
            "detailed description of the region in the picture marked by <bbox>",
        ),
        (lambda pipe, image: pipe.caption(image), f"detailed description of the image? {SUFFIX}"),
        (lambda pipe, image: pipe.caption(image, brief=True), f"short description of the image? {SUFFIX}"),
        (lambda pipe, image: pipe.ask(image, "Is it red?", grounded=True), f"Is it red? {SUFFIX}"),
        (lambda pipe, image: pipe(image), f"detailed description of the image? {SUFFIX}"),
        (lambda pipe, image: pipe(image, boxes=[BOX]), "marked by <bbox>"),
    ],
)
def test_questions_are_the_originals(glamm, prompts, photos, ask, words):
    ask(glamm, photos[0])
    ((prompt),) = prompts
    # The toy tokenizer has few words, so spaces mean nothing.
    assert "".join(words.split()) in "".join(prompt.split())
    assert "<p>" not in prompt and "[grounding]" not in prompt


@pytest.mark.parametrize("masks", [False, True])
def test_masks_come_whether_asked_for_or_not(endless, photos, masks):
    answer = endless.describe(photos[0], BOX, masks=masks, max_new_tokens=9)
    assert [phrase.region_ids for phrase in answer.phrases] == [(1,), (2,)]
    for phrase in answer.phrases:
        assert phrase.masks.shape == (1, 240, 320) and not phrase.regions.scores.eq(1).any()
        assert np.array_equal(phrase.masks[0], answer.masks[phrase.region_ids[0]])
    # The user's regions have them where they were asked for.
    assert (0 in answer.masks) == masks == (answer.user_regions.masks is not None)


def test_the_grounding_encoder_runs_for_masks_alone(glamm, write, groundings, photos):
    """A chat without a mask never pays for one, whatever is said, pointed at and streamed."""
    seen = groundings(glamm)
    write(glamm, plain_script(glamm.processor))
    chat = glamm.chat(photos[0])
    chat.ask("What is this?", boxes=[BOX])
    for _ in chat.ask("And this?", boxes=[[5, 5, 60, 50]], stream=True):
        pass
    chat.ask("Well?", masks=True, grounded=True)
    glamm.ask(photos, "Hi", boxes=[[5, 5, 60, 50]], batch_size=3)
    glamm.caption(photos[0], masks=True, generate_kwargs={"num_beams": 2, "num_return_sequences": 2})
    glamm(photos, "Hi", batch_size=2)
    assert seen == []
    write(glamm, grounded_script(glamm.processor))
    chat.ask("Where?", max_new_tokens=9)
    assert len(seen) == 1


def test_the_grounding_encoder_runs_once_for_all_turns_beams_and_questions(endless, groundings, photos):
    seen = groundings(endless)
    chat = endless.chat(photos[0])
    for question in ("One?", "Two?"):
        answer = chat.ask(question, boxes=[BOX], masks=True, max_new_tokens=9)
        assert len(answer.phrases) == 2
    chat.ask("Three?", regions=[{"point": [60, 70]}], masks=True, max_new_tokens=9)
    assert len(seen) == 1
    endless.locate(photos[1], ["a", "b", "c"], max_new_tokens=9, batch_size=2)
    assert len(seen) == 2
    how = {"num_beams": 3, "num_return_sequences": 3}
    endless.caption(photos[2], masks=True, max_new_tokens=9, generate_kwargs=how)
    assert len(seen) == 3


def test_images_whose_answers_have_no_mask_are_left_out_of_a_batch(glamm, write, groundings, photos):
    """Those who shout are answered in words, the others with a mask."""
    words, first_word = plain_script(glamm.processor)
    script, first = grounded_script(glamm.processor)
    shout = glamm.processor.tokenizer.convert_tokens_to_ids("!")
    write(glamm, (script | words, first), other_start=(shout, first_word))
    seen = groundings(glamm)
    answers = glamm.ask(photos, ["What!", "What?", "And!"], boxes=[[BOX], [], []], batch_size=3, max_new_tokens=5)
    assert [len(answer.phrases) for answer in answers] == [0, 1, 0] and len(seen) == 1
    assert answers[1].phrases[0].masks.shape == (1, 480, 200)


def test_an_image_that_is_kept_keeps_no_other(glamm, photos):
    """Images are looked at in batches, and kept one by one."""
    images = perceive(glamm.model, glamm.processor, photos)
    for image in images:
        (view,) = image.features.grounding
        assert view.pixel_values.untyped_storage().nbytes() == view.pixel_values.nbytes
        for level in image.features.region_feature_maps:
            assert level.untyped_storage().nbytes() == level.nbytes
    together = type(images[0].features).stack([image.features for image in images])
    assert all(view is image.features.grounding[0] for view, image in zip(together.grounding, images, strict=True))


def test_a_token_that_is_spelled_letter_by_letter_has_no_mask(writer, photos):
    """An earlier answer of somebody else in the conversation, or the model itself, may say it in letters."""
    answer = writer.ask(photos[0], f"Say {SEGMENT_TOKEN} and <p>", max_new_tokens=9)
    assert len(answer.masks) == 1


def test_masks_of_clicks_are_what_the_decoder_made_of_them(writer, photos):
    click = {"point": [60, 70]}
    several = writer.segment(photos[0], click, multimask=True)
    assert len(several) == 3 and several.scores.tolist() == sorted(several.scores.tolist(), reverse=True)
    chosen = writer.segment(photos[0], {**click, "ambiguity": "group"})
    assert max(mask.sum() for mask in several.masks) == chosen.masks[0].sum()
    given = np.zeros((240, 320), bool)
    given[50:90, 40:100] = True
    answer = writer.ask(photos[0], "What?", regions=[{"mask": given}, click], masks=True, max_new_tokens=9)
    assert np.array_equal(answer.masks[0], given) and list(answer.masks) == [0, 1, 2]


def test_later_turns_keep_the_masks_that_users_gave(writer, photos):
    given = np.zeros((240, 320), bool)
    given[50:90, 40:100] = True
    chat = writer.chat(photos[0])
    chat.ask("What is this?", regions=[{"mask": given}], masks=True, max_new_tokens=9)
    second = chat.ask("And?", regions=[BOX], masks=True, max_new_tokens=9)
    again = chat.ask("The first one again?", regions=[{"mask": given}], masks=True, max_new_tokens=9)
    (number,) = again.user_region_ids
    assert np.array_equal(again.masks[number], given)
    assert second.phrases[0].region_ids[0] not in second.user_region_ids


def test_the_stock_pipeline_answers(writer, photos):
    stock = pipeline("image-text-to-text", model=writer.model, processor=writer.processor, device="cpu")
    content = [{"type": "image", "image": photos[0]}, {"type": "text", "text": "Hi"}]
    (answer,) = stock(text=[{"role": "user", "content": content}], max_new_tokens=9, return_full_text=False)
    assert answer["generated_text"] == writer.ask(photos[0], "Hi", max_new_tokens=9).markup
    many = stock(text=[[{"role": "user", "content": content}]] * 2, max_new_tokens=9, batch_size=2)
    assert len(many) == 2


def test_offloaded_parts_answer_the_same(endless, write, photos):
    """The language model, its head and the grounding encoder have weights only while they run."""
    from accelerate import cpu_offload

    how = {"masks": True, "max_new_tokens": 9}
    expected = endless.ask(photos[0], "What?", boxes=[BOX], **how)
    model, processor = tiny_glamm_parts()
    for part in (model.model.language_model, model.model.grounding_encoder, model.lm_head):
        cpu_offload(part, torch.device("cpu"))
    assert model.lm_head.weight.is_meta
    offloaded = ImageGroundingPipeline(model=model, processor=processor, task="image-grounding", device="cpu")
    write(offloaded, grounded_script(processor, ends=False))
    answer = offloaded.ask(photos[0], "What?", boxes=[BOX], **how)
    assert answer.markup == expected.markup and list(answer.masks) == list(expected.masks)
    for number, mask in expected.masks.items():
        assert np.array_equal(mask, answer.masks[number])
