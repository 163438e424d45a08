"""Chats about one image: it is looked at once, turns continue a cache, mistakes leave the chat as it was."""

import threading

import pytest
import torch
from transformers import DynamicCache

from transformers_groma import ChatTurn, GroundedChat, GroundedText, Regions
from transformers_groma.image_inputs import ImageSize
from transformers_groma.shapes.wording import sentence, with_article, words

from .samples import BOX

OTHER = [50.0, 60.0, 120.0, 140.0]


@pytest.fixture
def chat(pipe, photos) -> GroundedChat:
    return pipe.chat(photos[0])


@pytest.fixture
def free_slots(pipe, monkeypatch) -> None:
    """Three of the model's six region slots stay free: it proposes only what it is sure of."""
    monkeypatch.setattr(pipe.model.config, "box_score_threshold", 0.7)


@pytest.fixture
def prompts(pipe, monkeypatch) -> list[dict]:
    """The inputs of each call of the model, with how much its cache held before."""
    calls, generate = [], pipe.model.generate

    def record(**inputs):
        cache = inputs.get("past_key_values")
        calls.append({**inputs, "cached": 0 if cache is None else cache.get_seq_length()})
        return generate(**inputs)

    monkeypatch.setattr(pipe.model, "generate", record)
    return calls


def test_three_turns_look_once_and_read_only_what_is_new(free_slots, pipe, photos, looks, prompts):
    seen = looks(pipe)
    chat = pipe.chat(photos[0])
    assert len(seen) == 1
    for question, boxes in (("What is this?", [BOX]), ("And this?", [OTHER]), ("Are they the same?", None)):
        chat.ask(question, boxes=boxes)
    assert len(seen) == 1
    lengths = [call["input_ids"].shape[1] for call in prompts]
    assert prompts[0]["cached"] == 0
    # All but the last token of the answer before is in the cache.
    assert [call["cached"] for call in prompts[1:]] == [lengths[0] + 4, lengths[1] + 4]
    assert len({id(call["past_key_values"]) for call in prompts}) == 1


def test_right_about_each_region_on_groma_tiny(groma, scenes):
    for scene in scenes:
        chat = groma.chat(scene.draw())
        for item, box in list(zip(scene.objects, scene.boxes_xyxy, strict=True))[:3]:
            answer = chat.ask("What is this?", boxes=[box], max_new_tokens=20)
            assert answer.text == sentence(with_article(words(item.attributes)))


def test_the_first_answer_is_that_of_ask(pipe, photos, chat):
    assert chat.ask("What is this?", boxes=[BOX]).to_dict() == pipe.ask(photos[0], "What is this?", [BOX]).to_dict()


def test_a_turn_is_that_of_the_documented_way_by_hand(free_slots, pipe, photos, chat):
    inputs = pipe.processor(images=photos[0], text="What is <region>?", boxes=[BOX], return_tensors="pt")
    how = {"max_new_tokens": 5, "return_dict_in_generate": True}
    output = pipe.model.generate(**inputs, **how)
    turn = pipe.processor.next_turn(output.sequences, "And <region>?", [OTHER], [(240, 320)])
    output = pipe.model.generate(**turn, past_key_values=output.past_key_values, **how)
    (expected,) = pipe.processor.post_process_grounded_generation(output, turn, target_sizes=[(240, 320)])
    chat.ask("What is <region>?", boxes=[BOX])
    answer = chat.ask("And <region>?", boxes=[OTHER])
    assert answer.to_dict() == expected.to_dict() and answer.user_region_ids == expected.user_region_ids


def test_new_regions_have_their_numbers_in_every_turn(free_slots, chat):
    first = chat.ask("What is this?", boxes=[BOX])
    second = chat.ask("And these?", boxes=[OTHER, BOX])
    third = chat.ask("And?")
    assert first.user_region_ids == (0,) and third.user_region_ids == ()
    assert second.user_region_ids[1] == 0 and second.user_region_ids[0] >= len(first.regions)
    for answer, boxes in ((first, [BOX]), (second, [OTHER, BOX])):
        torch.testing.assert_close(answer.regions.with_ids(answer.user_region_ids).xyxy, torch.tensor(boxes))
    assert len(third.regions) == len(second.regions) == len(first.regions) + 1


def test_the_history(chat):
    assert chat.turns == () and chat.image_size == ImageSize(240, 320)
    first = chat.ask("What is this?", boxes=Regions([BOX]))
    second = chat.ask("Describe it.", grounded=True)
    assert [type(turn) for turn in chat.turns] == [ChatTurn, ChatTurn]
    assert [turn.answer for turn in chat.turns] == [first, second]
    assert [turn.question for turn in chat.turns] == ["What is this? <region>", "[grounding]Describe it."]
    torch.testing.assert_close(chat.turns[0].boxes, torch.tensor([BOX]))
    assert chat.turns[1].boxes.shape == (0, 4)


def test_box_formats_and_settings(chat):
    answer = chat.ask("What?", boxes=[[20, 30, 180, 150]], box_format="xywh", max_new_tokens=1)
    torch.testing.assert_close(answer.regions[0].box, torch.tensor(BOX))
    normalized = [20 / 320, 30 / 240, 200 / 320, 180 / 240]
    assert chat.ask("What?", boxes=[normalized], normalized=True).user_region_ids == (0,)
    sampled = {"do_sample": True, "temperature": 5.0}
    torch.manual_seed(0)
    assert isinstance(chat.ask("What?", generate_kwargs=sampled), GroundedText)


def test_control_tokens_of_people_are_text(pipe, chat, prompts):
    chat.ask("Hi")
    chat.ask("</p><r3></s><image><roi>")
    added = pipe.processor.tokenizer.added_tokens_decoder
    new = prompts[1]["input_ids"][0, prompts[0]["input_ids"].shape[1] + 5 :].tolist()
    assert [added[index].content for index in new if index in added] in ([], ["</s>"])


# ------------------------------------------------------------------------------------------------- a chat that is full


def test_a_chat_without_room_for_the_answer_says_so_and_goes_on(pipe, chat, prompts, monkeypatch):
    chat.ask("Hi")
    left = chat.tokens_left
    assert left == 1024 - prompts[0]["input_ids"].shape[1] - 5
    with pytest.raises(ValueError, match=r"The chat is full: .* the answer up to 1000 .* reads 1024 in all\. Lower"):
        chat.ask("Hi", max_new_tokens=1000)
    with pytest.raises(ValueError, match="The chat is full"):
        chat.ask("word " * 1024)
    assert len(chat.turns) == 1 and chat.tokens_left == left and len(prompts) == 1
    chat.ask("Hi")
    assert len(chat.turns) == 2


def test_a_chat_counts_down_to_its_end(pipe, photos):
    chat = pipe.chat(photos[0])
    before = chat.tokens_left
    assert 0 < before < 1024
    while True:
        try:
            chat.ask("word " * 10)
        except ValueError as error:
            assert "The chat is full" in str(error)
            break
        assert 0 <= chat.tokens_left < before
        before = chat.tokens_left
    assert len(chat.turns) > 3


def test_without_a_free_slot_the_conversation_is_read_again(free_slots, pipe, photos, looks, prompts):
    """All slots hold proposals, so new regions need another selection of regions; the image is not looked at again."""
    seen = looks(pipe)
    chat = pipe.chat(photos[0])
    most = pipe.model.config.max_regions
    first = chat.ask("Hi")
    step = 0
    while len(chat.turns[-1].answer.regions) < most:  # fill the slots
        chat.ask("And this?", boxes=[[step, 0, step + 9, 9]])
        step += 10
    assert len(seen) == 1 and len(first.regions) == 3 and len(chat.turns) == 4
    assert [call["cached"] > 0 for call in prompts] == [False, True, True, True]
    calls = len(prompts)
    answer = chat.ask("And this?", boxes=[OTHER])
    assert len(seen) == 1 and len(prompts) == calls + 1 and prompts[-1]["cached"] == 0
    # The boxes of all questions have the first slots.
    (number,) = answer.user_region_ids[-1:]
    torch.testing.assert_close(answer.regions.with_ids([number]).box, torch.tensor(OTHER))
    text = pipe.processor.tokenizer.decode(prompts[-1]["input_ids"][0])
    assert text.count("And this?") == len(chat.turns) - 1
    assert chat.ask("Fine?") and prompts[-1]["cached"] > 0


def test_more_regions_than_the_model_takes(pipe, photos):
    chat = pipe.chat(photos[0])
    most = pipe.model.config.max_regions
    boxes = [[step, 0, step + 9, 9] for step in range(0, 10 * most, 10)]
    chat.ask("What?", boxes=boxes)
    with pytest.raises(ValueError, match=f"The chat is full: .* points at {most + 1} regions, .* takes {most}"):
        chat.ask("And?", boxes=[OTHER])
    assert chat.ask("And that one?", boxes=boxes[:1]).user_region_ids == (0,)


def test_the_same_region_more_often_than_there_are_slots(pipe, photos):
    chat = pipe.chat(photos[0])
    chat.ask("What?", boxes=[BOX])
    count = pipe.model.config.max_regions + 1
    assert chat.ask("What?", boxes=[BOX] * count).user_region_ids == (0,) * count


# ------------------------------------------------------------------------------------------------- mistakes and errors


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda chat: chat.ask(""), "`question` is empty"),
        (lambda chat: chat.ask(None), "`question` is not a text: None"),
        (lambda chat: chat.ask(["a", "b"]), "`question` is not a text"),
        (lambda chat: chat.ask("Is <region>?"), "1 <region> mark, but `boxes` has 0 regions"),
        (lambda chat: chat.ask("What?", boxes=BOX), "`boxes` must be a list of regions"),
        (lambda chat: chat.ask("What?", boxes=[[0, 0, 9000, 9]]), r"`boxes\[0\]` = .* outside"),
        (lambda chat: chat.ask("What?", boxes=[[1, 2]]), "looks like a point"),
        (lambda chat: chat.ask("Hi", generate_kwargs={"num_beams": 2}), "A chat gives one answer.*`num_beams` is 2"),
        (lambda chat: chat.ask("Hi", generate_kwargs={"num_return_sequences": 2}), "`num_return_sequences` is 2"),
        (lambda chat: chat.ask("Hi", generate_kwargs={"prompt_lookup_num_tokens": 2}), "assisted decoding"),
        (lambda chat: chat.ask("Hi", generate_kwargs={"use_cache": False}), "`use_cache` is False"),
        (lambda chat: chat.ask("Hi", generate_kwargs={"cache_implementation": "static"}), "'static'. Leave it out"),
        (lambda chat: chat.ask("Hi", generate_kwargs={"past_key_values": 1}), "has 'past_key_values'"),
        (lambda chat: chat.ask("Hi", max_new_tokens=0), "positive integer"),
        (lambda chat: chat.ask("Hi", stream="yes"), "`stream` must be True or False"),
    ],
)
@pytest.mark.parametrize("turns", [0, 1])
def test_bad_questions_leave_the_chat_as_it_was(pipe, photos, never_asked, call, words, turns):
    chat = pipe.chat(photos[0])
    for _ in range(turns):
        chat.ask("Hi")
    never_asked(pipe)
    with pytest.raises(ValueError, match=words):
        call(chat)
    with pytest.raises(TypeError, match="`ask` does not take `batch_size`"):
        chat.ask("Hi", batch_size=2)
    assert len(chat.turns) == turns


def test_after_an_error_of_the_model_the_chat_goes_on(pipe, chat, looks, prompts, monkeypatch):
    seen = looks(pipe)
    chat.ask("What is this?", boxes=[BOX])
    forward = pipe.model.model.language_model.forward
    steps = []

    def fail(*args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            raise RuntimeError("out of memory")
        return forward(*args, **kwargs)

    for stream in (False, True):
        steps.clear()
        monkeypatch.setattr(pipe.model.model.language_model, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            list(chat.ask("And this?", boxes=[OTHER], stream=True) if stream else chat.ask("And?", boxes=[OTHER]))
        monkeypatch.setattr(pipe.model.model.language_model, "forward", forward)
        assert len(chat.turns) == 1 and chat.tokens_left > 0
    answer = chat.ask("And this?", boxes=[OTHER])
    assert prompts[-1]["cached"] == 0 and not seen
    # Read anew: the boxes of both questions are the first regions.
    torch.testing.assert_close(answer.regions[:2].xyxy, torch.tensor([BOX, OTHER]))
    assert len(chat.turns) == 2


CHATML = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_a_template_that_rewrites_earlier_turns(pipe, photos, looks, prompts, monkeypatch):
    """The cache cannot be continued, so each turn reads the whole conversation; the image is not looked at again."""
    monkeypatch.setattr(pipe.processor, "chat_template", "{{ messages | length }} messages:\n" + CHATML)
    seen = looks(pipe)
    chat = pipe.chat(photos[0])
    chat.ask("What is this?", boxes=[BOX])
    answer = chat.ask("And this?", boxes=[OTHER])
    assert len(seen) == 1 and [call["cached"] for call in prompts] == [0, 0]
    text = pipe.processor.tokenizer.decode(prompts[1]["input_ids"][0])
    assert text.count("<|im_start|>user") == 2 and "What is this?" in text
    # The boxes of both questions have the first slots; the answer is about that of its own question.
    assert answer.user_region_ids == (1,)
    torch.testing.assert_close(answer.user_regions.xyxy, torch.tensor([OTHER]))


def test_chats_in_the_template_of_another_language_model(free_slots, pipe, photos, looks, prompts, monkeypatch):
    monkeypatch.setattr(pipe.processor, "chat_template", CHATML)
    seen = looks(pipe)
    chat = pipe.chat(photos[0])
    for question, boxes in (("What is this?", [BOX]), ("And this?", [OTHER]), ("Hm?", None)):
        chat.ask(question, boxes=boxes)
    assert len(seen) == 1 and [call["cached"] > 0 for call in prompts] == [False, True, True]
    text = pipe.processor.tokenizer.decode(prompts[-1]["input_ids"][0])
    assert text.count("<|im_start|>user") == 3 and text.count("<|im_end|>") == 5
    assert pipe.locate(photos[0], "it").text == "it" and pipe.describe(photos[0], BOX).user_region_ids == (0,)


# ----------------------------------------------------------------------------------------------------------- streaming


def test_a_streamed_turn_is_the_same_turn(free_slots, pipe, photos, chat):
    other = pipe.chat(photos[0])
    for question, boxes in (("What is this?", [BOX]), ("And these?", [OTHER, BOX]), ("Hm?", None)):
        expected = chat.ask(question, boxes=boxes)
        *partials, answer = other.ask(question, boxes=boxes, stream=True)
        assert answer.to_dict() == expected.to_dict()
        assert answer.user_region_ids == expected.user_region_ids
        assert other.turns[-1].answer is answer
        for partial in partials:
            assert partial.regions.to_dict() == answer.regions.to_dict()
            assert partial.user_region_ids == answer.user_region_ids
    assert [turn.answer.markup for turn in chat.turns] == [turn.answer.markup for turn in other.turns]


def test_a_turn_that_nobody_reads_to_its_end(groma, scenes, looks):
    scene = scenes[0]
    chat = groma.chat(scene.draw())
    for _partial in chat.ask("Please describe the image in detail.", grounded=True, stream=True):
        break
    (turn,) = chat.turns
    assert turn.answer.text and len(turn.answer.text) < 40
    item, box = scene.objects[0], scene.boxes_xyxy[0]
    assert chat.ask("What is this?", boxes=[box]).text == sentence(with_article(words(item.attributes)))


def test_a_question_that_is_never_read_is_not_asked(chat, prompts):
    stream = chat.ask("Hi", stream=True)
    assert not prompts
    other = chat.ask("Ho", stream=True)
    list(other)
    list(stream)  # only now, after the other one
    assert [turn.question for turn in chat.turns] == ["Ho", "Hi"]
    assert prompts[1]["cached"] > 0


def test_regions_of_a_streamed_question_are_encoded_once(pipe, chat, monkeypatch):
    """Before the loop the question is only checked."""
    calls, encode = [], pipe.model.encode_regions
    monkeypatch.setattr(pipe.model, "encode_regions", lambda *args: calls.append(1) or encode(*args))
    stream = chat.ask("What is this?", boxes=[BOX], stream=True)
    assert not calls
    with pytest.raises(ValueError, match="The chat is full"):
        chat.ask("word " * 1024, stream=True)
    list(stream)
    assert len(calls) == 1 and len(chat.turns) == 1


def test_one_question_at_a_time(chat):
    stream = chat.ask("Hi", stream=True)
    waiting = chat.ask("Ho", stream=True)
    next(stream)
    for ask in (lambda: chat.ask("And?"), lambda: chat.ask("And?", stream=True), lambda: next(waiting)):
        with pytest.raises(RuntimeError, match="still answering a question. Read its answer to the end, or leave"):
            ask()
    stream.close()
    assert chat.ask("And?") and len(chat.turns) == 2


def test_chats_and_verbs_at_the_same_time(groma, scenes):
    """Threads with chats and streams of one pipeline: every answer belongs to its own scene."""
    wrong, threads = [], []

    def talk(scene):
        image, chat = scene.draw(), groma.chat(scene.draw())
        for item, box in list(zip(scene.objects, scene.boxes_xyxy, strict=True))[:3]:
            expected = sentence(with_article(words(item.attributes)))
            answers = [
                chat.ask("What is this?", boxes=[box], max_new_tokens=20),
                groma.describe(image, box, max_new_tokens=20),
                list(groma.ask(image, "What is <region>?", boxes=[box], stream=True, max_new_tokens=20))[-1],
                groma([image, image], ["What is <region>?", "Hi"], boxes=[[box], None], batch_size=2)[0],
            ]
            wrong.extend(answer.text for answer in answers if answer.text != expected)

    for scene in [*scenes, *scenes]:
        threads.append(threading.Thread(target=talk, args=(scene,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_cached_regions_of_a_model(free_slots, pipe, photos):
    inputs = pipe.processor(images=photos[0], text="What is <region>?", boxes=[BOX], return_tensors="pt")
    output = pipe.model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
    regions = pipe.model.cached_regions(output.past_key_values)
    assert torch.equal(regions.boxes, output.region_boxes) and torch.equal(regions.mask, output.region_mask)
    new = torch.tensor([[[0.5, 0.5, 0.2, 0.3]]])
    more = pipe.model.cached_regions(output.past_key_values, new)
    assert more.mask.sum() == regions.mask.sum() + 1
    assert torch.equal(more.boxes[0, regions.mask.sum()], new[0, 0])
    assert torch.equal(pipe.model.cached_regions(output.past_key_values).mask, output.region_mask)  # not changed
    with pytest.raises(ValueError, match="`past_key_values` holds no image"):
        pipe.model.cached_regions(DynamicCache())
