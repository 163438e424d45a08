"""Rows to batches: which tokens learn, which are seen, which are truncated."""

import copy
import warnings

import pytest
import torch
from torch.testing import assert_close

from transformers_groma.boxes import box_xyxy_to_cxcywh, normalize_boxes
from transformers_groma.data.columns import image_part, phrase_part, region_part, text_part
from transformers_groma.training.collators import BLANK_ROW, ConversationCollator, check_conversation

from ..tiny import MAX_REGIONS
from .rows import conversation, conversations, training_model, training_processor, training_tokenizer, turn


@pytest.fixture(scope="module")
def processor():
    return training_processor()


def decode(ids: torch.Tensor) -> str:
    return training_tokenizer().decode(ids)


def learned(batch: dict[str, torch.Tensor], row: int) -> list[str]:
    """The stretches of a row that are learned, as text."""
    stretches, last = [], None
    for position in (batch["labels"][row] != -100).nonzero()[:, 0].tolist():
        if last is None or position != last + 1:
            stretches.append([])
        stretches[-1].append(batch["labels"][row, position])
        last = position
    return [decode(torch.stack(stretch)) for stretch in stretches]


def normalized(row: dict, index: int) -> torch.Tensor:
    width, height = row["image"].size
    box = torch.tensor(row["boxes_xyxy"][index], dtype=torch.float32)
    return normalize_boxes(box_xyxy_to_cxcywh(box[None]), height, width)[0]


def test_labels_are_the_answers_and_their_ends(processor):
    """In a batch of rows with and without an image, of different lengths."""
    rows = [*conversations(5)]
    batch = ConversationCollator(processor)(rows)
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "refer_boxes", "ground_boxes", "labels"}
    is_label = batch["labels"] != -100
    assert torch.equal(batch["labels"][is_label], batch["input_ids"][is_label])
    assert not (is_label & (batch["attention_mask"] == 0)).any()
    for index, row in enumerate(rows):
        answers = [message["content"][0] for message in row["messages"] if message["role"] == "assistant"]
        if row["image"] is None:
            assert learned(batch, index) == [f" {answers[0]['text']}</s>"]
        else:
            phrase = f" <p>{answers[1]['text']}</p> <roi><ground_box></roi></s>"
            assert learned(batch, index) == [f" {answers[0]['text']}</s>", phrase]


def test_labels_with_a_template_that_knows_nothing_of_training():
    processor = training_processor()
    processor.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    rows = conversations(5)
    batch = ConversationCollator(processor)(rows)
    for index, row in enumerate(rows):
        answers = [message["content"][0]["text"] for message in row["messages"] if message["role"] == "assistant"]
        if row["image"] is None:
            assert learned(batch, index) == [f"{answers[0]}</s>"]
        else:
            assert learned(batch, index) == [f"{answers[0]}</s>", f"<p>{answers[1]}</p> <roi><ground_box></roi></s>"]
    ends = batch["labels"][:, -1]
    assert (ends == processor.tokenizer.eos_token_id).all()


def test_a_template_that_marks_no_answer_is_refused():
    processor = training_processor()
    rows = conversations(2)
    processor.chat_template = "{% generation %}{% endgeneration %}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(
        ValueError, match=rf"the row {rows[0]['image_id']} \({rows[0]['source']}\).*\{{% generation %\}}"
    ):
        ConversationCollator(processor)(rows)


def test_images_and_boxes_are_those_of_the_rows_with_images(processor):
    rows = [*conversations(5)]
    rows.insert(1, rows.pop())  # the row in words alone
    batch = ConversationCollator(processor)(rows)
    seen = [row for row in rows if row["image"] is not None]
    assert batch["pixel_values"].shape == (4, 3, 56, 56)
    assert batch["refer_boxes"].shape == batch["ground_boxes"].shape == (4, 1, 4)
    for index, row in enumerate(seen):
        alone = ConversationCollator(processor)([row])
        assert torch.equal(batch["pixel_values"][index], alone["pixel_values"][0])
        assert_close(batch["refer_boxes"][index, 0], normalized(row, 0))
        assert_close(batch["ground_boxes"][index, 0], normalized(row, 1))


def test_boxes_are_in_the_order_of_their_marks(processor):
    """Whatever their order in the row, and also where the user points at one twice."""
    row = dict(conversations(1)[0])
    row["boxes_xyxy"] = [[0, 0, 8, 8], [8, 8, 24, 24], [4, 20, 30, 40], [1, 2, 3, 4]]
    row["messages"] = [
        *turn([image_part(), region_part(2), text_part(" or "), region_part(0)], [phrase_part("both", [3, 1])]),
        *turn([text_part("And "), region_part(2), text_part("?")], [phrase_part("", [0])]),
    ]
    batch = ConversationCollator(processor)([row])
    assert_close(batch["refer_boxes"][0], torch.stack([normalized(row, i) for i in (2, 0, 2)]))
    assert_close(batch["ground_boxes"][0], torch.stack([normalized(row, i) for i in (3, 1, 0)]))
    text = decode(batch["input_ids"][0])
    assert text.count("<refer_box>") == 3
    assert text.count("<ground_box>") == 3


def test_rows_with_fewer_boxes_are_padded(processor):
    first, second = conversations(2, text_only_every=None)
    second["messages"] = turn([image_part(), text_part("Hello.")], [phrase_part("", [0, 1])])
    batch = ConversationCollator(processor)([first, second])
    assert batch["refer_boxes"][1].eq(0).all()
    assert batch["ground_boxes"].shape == (2, 2, 4)
    assert batch["ground_boxes"][0, 1].eq(0).all()


def test_words_alone(processor):
    batch = ConversationCollator(processor)([conversation(number, text_only=True) for number in (1, 22)])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert [learned(batch, row) for row in range(2)] == [[" Hello. 1</s>"], [" Hello. 22</s>"]]


def test_length_is_rounded_up(processor):
    rows = [*conversations(2)]
    plain = ConversationCollator(processor)(rows)
    rounded = ConversationCollator(processor, pad_to_multiple_of=64)(rows)
    assert rounded["input_ids"].shape[1] % 64 == 0
    added = rounded["input_ids"].shape[1] - plain["input_ids"].shape[1]
    assert 0 <= added < 64
    assert rounded["attention_mask"][:, :added].eq(0).all()
    assert rounded["labels"][:, :added].eq(-100).all()
    assert torch.equal(rounded["labels"][:, added:], plain["labels"])


def long_row(turns: int) -> dict:
    """The user points in every question, and the answers name boxes."""
    row = dict(conversations(1)[0])
    row["messages"] = [
        message
        for number in range(turns)
        for message in turn(
            [*([image_part()] if number == 0 else []), text_part("What is "), region_part(number % 2), text_part("?")],
            [text_part(f"a red box. {number} "), phrase_part("the red one", [number % 2])],
        )
    ]
    return row


def test_long_conversations_lose_whole_turns(processor):
    short, long = conversations(1)[0], long_row(3)
    lengths = [ConversationCollator(processor)([long_row(turns)])["input_ids"].shape[1] for turns in (1, 2, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for limit, turns in ((lengths[2], 3), (lengths[2] - 1, 2), (lengths[1], 2), (lengths[1] - 1, 1)):
            batch = ConversationCollator(processor, max_length=limit)([short, long])
            assert learned(batch, 1) == learned(ConversationCollator(processor)([long_row(turns)]), 0)
            assert batch["refer_boxes"][1].any(dim=-1).sum() == turns
            assert batch["ground_boxes"][1].any(dim=-1).sum() == turns
            assert batch["input_ids"].shape[1] <= max(limit, lengths[0])
            # The short row beside it is as it was.
            assert learned(batch, 0) == learned(ConversationCollator(processor)([short]), 0)


def test_a_conversation_of_exactly_the_longest_length_keeps_its_last_turn(processor):
    """Beside one that is too long, so that the batch is cut."""
    collate = ConversationCollator(processor)
    exact, longer = long_row(2), long_row(3)
    limit = collate([exact])["input_ids"].shape[1]
    batch = ConversationCollator(processor, max_length=limit)([exact, longer])
    assert learned(batch, 0) == learned(collate([exact]), 0)
    assert learned(batch, 1) == learned(collate([exact]), 0)
    shorter = ConversationCollator(processor, max_length=limit - 1)([exact, longer])
    assert len(learned(shorter, 0)) == len(learned(shorter, 1)) == 1


def test_a_first_turn_that_is_too_long_stays_with_a_warning(processor):
    for turns in (1, 3):
        with pytest.warns(
            UserWarning, match=r"longer than `max_length` \(20\) even with its first answer alone; it is"
        ):
            batch = ConversationCollator(processor, max_length=20)([long_row(turns)])
        assert len(learned(batch, 0)) == 1


def test_a_system_message_is_not_a_turn(processor):
    row = long_row(2)
    row["messages"] = [{"role": "system", "content": [text_part("Be short.")]}, *row["messages"]]
    one_turn = {**row, "messages": row["messages"][:3]}
    limit = ConversationCollator(processor)([one_turn])["input_ids"].shape[1]
    batch = ConversationCollator(processor, max_length=limit)([row])
    assert torch.equal(batch["input_ids"], ConversationCollator(processor)([one_turn])["input_ids"])


def test_precomputed_proposals_are_padded(processor):
    rows = [*conversations(5)]
    for index, row in enumerate(rows):
        count = 0 if row["image"] is None else index + 1
        row["proposal_boxes"] = [[0.5, 0.5, 0.1 * (i + 1), 0.2] for i in range(count)]
        row["proposal_scores"] = [0.9 - 0.1 * i for i in range(count)]
    batch = ConversationCollator(processor)(rows)
    assert batch["proposal_boxes"].shape == (4, 4, 4)
    assert batch["proposal_scores"].shape == (4, 4)
    for index in range(4):
        assert_close(batch["proposal_boxes"][index, : index + 1], torch.tensor(rows[index]["proposal_boxes"]))
        assert_close(batch["proposal_scores"][index, : index + 1], torch.tensor(rows[index]["proposal_scores"]))
        assert not batch["proposal_boxes"][index, index + 1 :].any()
        assert not batch["proposal_scores"][index, index + 1 :].any()
    # Of padding the model makes no regions.
    regions = training_model()(**batch).region_boxes
    padding = (regions == 0).all(dim=-1)
    assert padding[0].sum() >= MAX_REGIONS - 3  # a proposal, a box of the user and one of the answer
    # Rows in words alone bring none.
    assert "proposal_boxes" not in ConversationCollator(processor)([rows[4]])


def test_more_boxes_than_slots(processor):
    row = dict(conversations(1)[0])
    row["messages"] = turn([image_part(), region_part(0)], [phrase_part("all", [1] * (MAX_REGIONS - 1))])
    ConversationCollator(processor)([row])
    row["messages"] = turn([image_part(), region_part(0)], [phrase_part("all", [1] * MAX_REGIONS)])
    message = "image '0' of source 'boxes' names 7 boxes, but the model has 6 region slots .* Split it"
    with pytest.raises(ValueError, match=message):
        ConversationCollator(processor)([conversation(4, text_only=True), row])
    with pytest.raises(ValueError, match=message):
        check_conversation(row, MAX_REGIONS)


def test_many_user_boxes_beside_many_boxes_of_answers(processor):
    """Each row fits; padded, both kinds together are more than there are slots."""
    pointing, answering = (dict(row) for row in conversations(2, text_only_every=None))
    pointing["messages"] = turn([image_part(), *[region_part(0)] * 4], [text_part("a red box.")])
    answering["messages"] = turn([image_part(), text_part("Hello.")], [phrase_part("all", [0, 1, 0, 1])])
    batch = ConversationCollator(processor)([pointing, answering])
    assert training_model()(**batch).loss.isfinite()


def test_a_row_without_an_answer(processor):
    row = dict(conversations(1)[0])
    row["messages"] = row["messages"][:1]
    with pytest.raises(ValueError, match="image '0' of source 'boxes' has no answer, so there is nothing to learn"):
        ConversationCollator(processor)([row])


def test_what_the_processor_refuses_names_the_rows(processor):
    rows = [*conversations(2)]
    rows[1]["boxes_xyxy"] = [[0, 0, 9000, 9000], [9, 9, 3, 3]]
    with pytest.raises(ValueError, match=r"^The rows 0 \(boxes\), 1 \(boxes\) cannot be prepared: "):
        ConversationCollator(processor)(rows)


def test_rows_are_not_changed(processor):
    rows = [*conversations(2)]
    before = copy.deepcopy(rows)
    ConversationCollator(processor, max_length=20)(rows)
    assert [row["messages"] for row in rows] == [row["messages"] for row in before]


@pytest.mark.parametrize("proposals", [False, True])
def test_a_blank_image_where_processes_must_run_the_same_layers(processor, proposals):
    """It changes no loss, but all parts get a gradient, of zeros."""
    rows = [conversation(number, text_only=True) for number in range(2)]
    if proposals:
        rows = [{**row, "proposal_boxes": [], "proposal_scores": []} for row in rows]
    plain = ConversationCollator(processor)(rows)
    batch = ConversationCollator(processor, always_image=True)(rows)
    assert batch["input_ids"].shape[0] == 3
    assert batch["labels"][2].eq(-100).all()
    assert ("proposal_boxes" in batch) is proposals
    model = training_model()
    loss = model(**batch).loss
    assert_close(loss, model(**plain).loss)
    loss.backward()
    for part in (model.model.region_encoder, model.model.multi_modal_projector):
        assert all(weight.grad is not None and not weight.grad.any() for weight in part.parameters())
    # A batch that has an image is left alone.
    rows = [*conversations(2), rows[0]] if not proposals else [{**BLANK_ROW}, rows[0]]
    assert ConversationCollator(processor, always_image=True)(rows)["input_ids"].shape[0] == len(rows)


def test_the_blank_row_is_a_whole_row():
    assert BLANK_ROW["image"].size == (16, 16)
    assert BLANK_ROW["proposal_boxes"] == [[0.5, 0.5, 1.0, 1.0]]  # all of the image
    assert BLANK_ROW["proposal_scores"] == [1.0]
    check_conversation(BLANK_ROW, max_regions=1)
