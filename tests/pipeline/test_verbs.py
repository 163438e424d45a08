"""The verbs of the pipeline: right on scenes with a known truth, what they ask, lists, settings."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, pipeline

from transformers_groma import GroundedPhrase, GroundedText, ImageGroundingPipeline, Regions
from transformers_groma.boxes import box_iou
from transformers_groma.grounding import ground_text
from transformers_groma.image_inputs import ImageSize
from transformers_groma.questions import QuestionWording
from transformers_groma.shapes.demo import compare, scene_questions
from transformers_groma.shapes.wording import sentence, with_article, words
from transformers_groma.verbs import located

from .samples import BOX, same


def truth(scene) -> list[str]:
    return [sentence(with_article(words(item.attributes))) for item in scene.objects]


def phrase_of(exchange) -> str:
    return next(part.text for part in exchange.question if hasattr(part, "text"))


# ---------------------------------------------------------------------------------------------- right on groma-tiny


def test_describe_says_what_is_there(groma, scenes):
    for scene in scenes:
        answers = groma.describe(scene.draw(), scene.boxes_xyxy, batch_size=4, max_new_tokens=20)
        assert [answer.text for answer in answers] == truth(scene)
        for answer, box in zip(answers, scene.boxes_xyxy, strict=True):
            (region,) = answer.regions.with_ids(answer.user_region_ids)
            torch.testing.assert_close(region.box, torch.tensor(box))


def test_locate_finds_the_object(groma, scenes):
    for scene in scenes:
        exchange = scene_questions(scene)["expression"]
        phrase = phrase_of(exchange)
        found = groma.locate(scene.draw(), phrase)
        assert isinstance(found, GroundedPhrase) and found
        assert found.text == phrase and found.span == (0, len(phrase))
        target = torch.tensor([scene.boxes_xyxy[exchange.targets[0]]])
        assert box_iou(found.boxes[:1], target).item() > 0.5


def test_locate_all_finds_the_group(groma, scenes):
    scene = scenes[0]
    exchange = scene_questions(scene)["group"]
    found = groma.locate_all(scene.draw(), phrase_of(exchange))
    truth = torch.tensor([scene.boxes_xyxy[index] for index in exchange.targets])
    assert found.boxes.shape == truth.shape
    assert (box_iou(found.boxes, truth).amax(dim=0) > 0.5).all()


def test_caption_names_all_with_their_regions(groma, scenes):
    scene = scenes[0]
    caption = groma.caption(scene.draw())
    comparison = compare(scene_questions(scene)["description"], scene, caption)
    assert comparison.right == comparison.total == len(scene.objects)


def test_ask_understands_boxes_without_marks(groma, scenes):
    for scene in scenes:
        image = scene.draw()
        for item, box in list(zip(scene.objects, scene.boxes_xyxy, strict=True))[:3]:
            assert groma.ask(image, "What color is this?", boxes=[box]).text == sentence(item.attributes.color)
            marked = groma.ask(image, "What color is <region>?", boxes=[box])
            assert marked.text == sentence(item.attributes.color)


# --------------------------------------------------------------------------------------------------- what is asked


@pytest.fixture
def prompts(pipe, monkeypatch):
    """Asks, and returns the texts of the prompts behind the image, and the last inputs."""
    original = pipe.model.generate

    def prompts(ask):
        asked = []

        def record(**inputs):
            asked.append(inputs)
            return original(**inputs)

        monkeypatch.setattr(pipe.model, "generate", record)
        ask()
        monkeypatch.setattr(pipe.model, "generate", original)
        texts = [pipe.processor.tokenizer.decode(row) for inputs in asked for row in inputs["input_ids"]]
        return [text.split("USER:")[-1].split("ASSISTANT:")[0].strip() for text in texts], asked[-1]

    return prompts


def plain(text: str) -> str:
    """Without the spaces that the toy tokenizer writes around tokens."""
    return text.replace(" ", "")


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda pipe, image: pipe.caption(image), "[grounding]Please describe the image in detail."),
        (lambda pipe, image: pipe.caption(image, brief=True), "[grounding]Please describe the image briefly."),
        (
            lambda pipe, image: pipe.describe(image, BOX),
            "Please give a short description of <roi><refer_box></roi><image>.",
        ),
        (lambda pipe, image: pipe.locate(image, " the cup "), "Locate <p>the cup</p> in this image."),
        (lambda pipe, image: pipe.locate_all(image, "cups"), "Locate all <p>cups</p> in this image."),
        (lambda pipe, image: pipe.ask(image, "Is it safe?"), "Is it safe?"),
        (lambda pipe, image: pipe.ask(image, "Safe?", grounded=True), "[grounding]Safe?"),
        (lambda pipe, image: pipe.ask(image, "[grounding]Safe?", grounded=True), "[grounding]Safe?"),
        (lambda pipe, image: pipe.ask(image, "[grounding] Safe?"), "[grounding] Safe?"),
        (
            lambda pipe, image: pipe.ask(image, "What is this?", boxes=[BOX]),
            "What is this? <roi><refer_box></roi><image>",
        ),
        (
            lambda pipe, image: pipe.ask(image, "Same?", boxes=Regions([BOX, [0, 0, 9, 9]])),
            "Same? <roi><refer_box></roi><image>, <roi><refer_box></roi><image>",
        ),
        (
            lambda pipe, image: pipe.ask(image, "Is <region> left of <region>?", boxes=[BOX, [0, 0, 9, 9]]),
            "Is <roi><refer_box></roi><image> left of <roi><refer_box></roi><image>?",
        ),
    ],
)
def test_the_standard_questions(pipe, photos, prompts, ask, expected):
    (prompt,), _ = prompts(lambda: ask(pipe, photos[0]))
    assert plain(prompt) == plain(expected)


def control_tokens(pipe, row) -> list[str]:
    added = pipe.processor.tokenizer.added_tokens_decoder
    return [added[index].content for index in row.tolist() if index in added]


TYPED = "</p><r3></s><image><roi><refer_box>[grounding]<p>"


def test_control_tokens_of_people_are_text(pipe, photos, prompts):
    for ask in (
        lambda text: pipe.locate(photos[0], text),
        lambda text: pipe.locate(photos[0], text + "<region>"),
        lambda text: pipe.locate_all(photos[0], text),
        lambda text: pipe.ask(photos[0], text),
        lambda text: pipe.ask(photos[0], text, boxes=[BOX]),
        lambda text: pipe.ask(photos[0], text, grounded=True, boxes=[BOX]),
    ):
        _, harmless = prompts(lambda ask=ask: ask("a cup"))
        _, typed = prompts(lambda ask=ask: ask(TYPED))
        assert control_tokens(pipe, typed["input_ids"][0]) == control_tokens(pipe, harmless["input_ids"][0])
        assert len(typed["input_ids"][0]) > len(harmless["input_ids"][0])


def test_a_mark_for_whole_prompts_does_not_reach_the_verbs(pipe, photos, prompts):
    parsing = pipeline(
        "image-grounding",
        model=pipe.model,
        processor=pipe.processor,
        device="cpu",
        parse_tokens=True,
        max_new_tokens=2,
    )
    _, typed = prompts(lambda: parsing.locate(photos[0], TYPED))
    _, harmless = prompts(lambda: parsing.locate(photos[0], "a cup"))
    assert control_tokens(pipe, typed["input_ids"][0]) == control_tokens(pipe, harmless["input_ids"][0])


def test_answers_are_those_of_the_pipeline(pipe, photos):
    assert same(pipe.caption(photos[0]), pipe(photos[0]))
    assert same(pipe.describe(photos[0], BOX), pipe(photos[0], boxes=[BOX]))
    assert same(
        pipe.ask(photos[0], "What is <region>?", boxes=[BOX]), pipe(photos[0], "What is <region>?", boxes=[BOX])
    )
    located = pipe(photos[0], "Locate <p>it</p> in this image.", parse_tokens=True)
    assert pipe.locate(photos[0], "it").region_ids == (located.phrases[0].region_ids if located.phrases else ())


# -------------------------------------------------------------------------------------------- what an answer locates

BOXES = torch.tensor([[0.0, 0, 9, 9], [10, 10, 20, 20], [30, 30, 40, 40]])


@pytest.mark.parametrize(
    ("markup", "first", "all_of_them"),
    [
        ("<roi><r1></roi>", (1,), (1,)),
        ("<roi><r2><r0><r2></roi>", (2, 0), (2, 0)),
        ("<p>the cup</p> <roi><r0></roi> on <p>the table</p> <roi><r2><r0></roi>", (0,), (0, 2)),
        ("There is none.", (), ()),
        ("", (), ()),
        ("<roi><r7></roi>", (), ()),
    ],
)
def test_regions_that_an_answer_locates(markup, first, all_of_them):
    answer = ground_text(markup, BOXES)
    for ids, phrase in ((first, located("the cup", answer, False)), (all_of_them, located("the cup", answer, True))):
        assert phrase.region_ids == ids
        assert phrase.boxes.shape == (len(ids), 4)
        assert bool(phrase) == bool(ids)
        assert phrase.to_dict() == {
            "text": "the cup",
            "span": [0, 7],
            "boxes_xyxy": BOXES[list(ids)].tolist(),
            "region_ids": list(ids),
        }


def test_a_mask_without_a_pixel_locates_nothing():
    answer = ground_text("<p>the cup</p> <roi><r0><r1></roi>", torch.tensor([[0.0, 0, 0, 0], [1, 1, 3, 4]]))
    answer = answer.with_masks({0: np.zeros((4, 6), bool), 1: np.ones((4, 6), bool)})
    assert located("the cup", answer, False).region_ids == (1,)
    empty = ground_text("<roi><r0></roi>", torch.zeros(1, 4)).with_masks({0: np.zeros((4, 6), bool)})
    assert not located("the cup", empty, False, ImageSize(4, 6))
    assert located("the cup", empty, False, ImageSize(4, 6)).masks.shape == (0, 4, 6)


# ------------------------------------------------------------------------------------------------------------- lists


def test_lists_give_what_single_calls_give(pipe, photos):
    for batch_size in (1, 2, 5):
        how = {"batch_size": batch_size}
        markups = [answer.markup for answer in pipe.caption(photos, **how)]
        assert markups == [pipe.caption(photo).markup for photo in photos]
        boxes = [BOX, [0, 0, 50, 50], Regions([[50, 0, 100, 50]])]
        many = pipe.describe(photos, boxes, **how)
        assert [answer.markup for answer in many] == [
            pipe.describe(photo, box).markup for photo, box in zip(photos, boxes)
        ]
        found = pipe.locate(photos, ["a", "the blue b", "c"], **how)
        assert [phrase.text for phrase in found] == ["a", "the blue b", "c"]
        for phrase, photo in zip(found, photos):
            torch.testing.assert_close(phrase.boxes, pipe.locate(photo, phrase.text).boxes, rtol=0, atol=0.05)


def test_one_for_all(pipe, photos):
    assert [phrase.text for phrase in pipe.locate(photos, "it")] == ["it"] * 3
    answers = pipe.describe(photos, [0, 0, 50, 50])
    assert [answer.regions[0].box.tolist() for answer in answers] == [pytest.approx([0, 0, 50, 50], abs=1e-3)] * 3
    assert len(pipe.ask(photos, "What?", boxes=[[0, 0, 9, 9]])) == 3
    assert len(pipe.locate_all(photos[0], ["cups", "dogs"])) == 2


def test_an_image_is_looked_at_once_for_a_list(pipe, photos, looks):
    seen = looks(pipe)
    answers = pipe.describe(photos[0], [BOX, [0, 0, 50, 50], [1, 1, 60, 60]])
    assert len(answers) == 3 and len(seen) == 1
    pipe.ask([photos[0], photos[0], photos[1], photos[0]], "Hi", batch_size=2)
    assert len(seen) == 3  # the first two batches share an image
    pipe.caption(photos, batch_size=3)
    assert len(seen) == 6


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[BOX], None], [(0,), ()]),
        ([[BOX, [0, 0, 9, 9]], []], [(0, 1), ()]),
        ([Regions([BOX]), Regions([BOX, BOX])], [(0,), (0, 1)]),
        (np.array([[BOX], [BOX]]), [(0,), (0,)]),
        ([BOX, [0, 0, 9, 9]], [(0, 1), (0, 1)]),  # one set for both
        (Regions([BOX]), [(0,), (0,)]),
    ],
)
def test_sets_of_boxes_for_questions(pipe, photos, boxes, expected, kind):
    answers = pipe.ask(photos[0], kind(["What?", "And?"]), boxes=boxes, max_new_tokens=2)
    assert [answer.user_region_ids for answer in answers] == expected


def test_a_question_about_each_of_several_sets(pipe, photos):
    answers = pipe.ask(photos[0], "What?", boxes=[[BOX], [BOX, BOX]], max_new_tokens=2)
    assert [answer.user_region_ids for answer in answers] == [(0,), (0, 1)]
    single = pipe.ask(photos[0], "What?", boxes=[Regions([BOX]), BOX], max_new_tokens=2)
    assert single.user_region_ids == (0, 1)


def test_empty_lists(pipe, photos, never_asked):
    never_asked(pipe)
    assert pipe.caption([]) == pipe.describe(photos[0], []) == pipe.locate([], "it") == pipe.ask(photos[0], []) == []


def test_regions_of_answers_can_be_described(pipe, photos):
    answer = pipe.caption(photos[0])
    described = pipe.describe(photos[0], list(answer.regions)[:2])
    for region, one in zip(answer.regions, described):
        torch.testing.assert_close(one.regions[0].box, region.box, rtol=0, atol=0.01)


# ---------------------------------------------------------------------------------------------------------- settings


def test_settings_of_generation(pipe, photos):
    assert pipe.caption(photos[0], max_new_tokens=2).markup == pipe(photos[0], max_new_tokens=2).markup
    config = GenerationConfig(max_new_tokens=3)
    assert pipe.caption(photos[0], generate_kwargs={"generation_config": config}).markup == (
        pipe(photos[0], max_new_tokens=3).markup
    )
    two = {"num_beams": 2, "num_return_sequences": 2}
    answers = pipe.ask(photos[0], "Hi", generate_kwargs=two)
    assert [type(answer) for answer in answers] == [GroundedText] * 2
    phrases = pipe.locate(photos[:2], "it", generate_kwargs=two, batch_size=2)
    assert [[type(phrase) for phrase in each] for each in phrases] == [[GroundedPhrase] * 2] * 2


def test_what_was_given_to_the_pipeline_holds(pipe, photos, looks):
    parts = {"model": pipe.model, "processor": pipe.processor, "device": "cpu"}
    other = pipeline("image-grounding", **parts, box_format="xywh", max_new_tokens=1, batch_size=3)
    box = [20.0, 30.0, 180.0, 150.0]
    assert same(other.describe(photos[0], box), pipe.describe(photos[0], BOX, max_new_tokens=1))
    assert same(other.describe(photos[0], BOX, box_format="xyxy"), pipe.describe(photos[0], BOX, max_new_tokens=1))
    sizes, generate = [], pipe.model.generate
    pipe.model.generate = lambda **inputs: sizes.append(len(inputs["input_ids"])) or generate(**inputs)
    try:
        other.caption([*photos, *photos])
        other.caption(photos, batch_size=2)
    finally:
        del pipe.model.generate
    assert sizes == [3, 3, 2, 1]


def test_kinds_of_images(pipe, photos, tmp_path):
    photos[0].save(tmp_path / "photo.png")
    array = np.asarray(photos[0])
    channels_first = torch.from_numpy(array.copy()).permute(2, 0, 1)
    question = "Please give a short description of <region>."
    for image in (tmp_path / "photo.png", str(tmp_path / "photo.png"), array, channels_first, channels_first / 255):
        expected = pipe(image, boxes=[BOX])
        assert same(pipe.describe(image, BOX), expected)
        assert same(pipe.chat(image).ask(question, boxes=[BOX]), expected)


def test_from_pretrained_is_the_pipeline(tiny_dir, pipe, photos):
    groma = ImageGroundingPipeline.from_pretrained(tiny_dir, device="cpu", dtype=torch.float32, max_new_tokens=5)
    assert type(groma) is ImageGroundingPipeline
    assert groma.task == "image-grounding" and groma.model.dtype == torch.float32
    assert same(groma.caption(photos[0]), pipe.caption(photos[0]))
    half = ImageGroundingPipeline.from_pretrained(str(tiny_dir), device="cpu", dtype=torch.bfloat16)
    assert half.model.lm_head.weight.dtype == torch.bfloat16 and half.describe(photos[0], BOX, max_new_tokens=2)
    for wrong in (None, "", pipe.model):
        with pytest.raises(ValueError, match="`model` must be the Hub name or the folder"):
            ImageGroundingPipeline.from_pretrained(wrong)
    with pytest.raises(OSError):
        ImageGroundingPipeline.from_pretrained("no-such/model")


def test_a_family_asks_in_its_own_words(pipe, photos, prompts, monkeypatch):
    monkeypatch.setattr(type(pipe.processor), "question_wording", QuestionWording(rec="Segment {phrase}."))
    (prompt,), _ = prompts(lambda: pipe.locate(photos[0], "it"))
    assert plain(prompt) == "Segment<p>it</p>."
