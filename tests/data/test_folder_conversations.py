"""Conversations in lines of `metadata.jsonl`."""

import pytest

from transformers_groma.data.image_folder import (
    image_folder_dataset,
    write_image_folder,
)

from .folders import CUP_LEFT, CUP_RIGHT, MUG, turns, write_folder


def test_conversations_of_their_own(folder):
    rows = list(image_folder_dataset(folder))
    assert len(rows) == 4, "captions, rec, grounding, messages: what could be copied is in other rows"
    [(question, answer)] = turns(rows[-1])
    assert question == [
        ("image", "", []),
        ("text", "[grounding]Is ", []),
        ("region", "", [MUG]),
        ("text", " bigger than ", []),
        ("region", "", [CUP_RIGHT]),
        ("text", "?", []),
    ]
    assert answer == [
        ("text", "No, ", []),
        ("phrase", "the blue cup", [CUP_RIGHT]),
        ("text", " is. Also: ", []),
        ("phrase", "", [CUP_LEFT, MUG]),
    ]


def test_a_conversation_about_a_left_out_box_is_left_out(tmp_path):
    objects = {"bbox": [[110, 10, 40, 40], [20, 30, 0, 70]], "text": ["a mug", None]}
    messages = [{"role": "user", "content": "Is <region 1> red?"}, {"role": "assistant", "content": "Yes."}]
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": objects, "messages": messages})
    report = write_image_folder(folder, tmp_path / "out")
    assert report.rows == 2  # a caption and a question
    assert report.parts["a conversation names a box that is left out"] == 1


@pytest.mark.parametrize(
    ("question", "answer", "fits"),
    [
        ("[grounding]Where is it?", "There.", True),
        ("Where is it?", "[grounding]There.", False),
        ("<region 0>[grounding] is where?", "There.", False),
        ("[grounding][grounding]Where is it?", "There.", False),
    ],
)
def test_the_grounding_token_stands_at_the_head_of_a_question_alone(tmp_path, question, answer, fits):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    objects = {"bbox": [[1, 1, 20, 20]], "text": [None]}
    line = {"file_name": "a.jpg", "objects": objects, "messages": messages}
    folder = write_folder(tmp_path / "photos", line)
    if fits:
        assert len(image_folder_dataset(folder)) == 1
    else:
        with pytest.raises(ValueError, match=r"contains markup or control tokens: .* holds '\[grounding\]'"):
            image_folder_dataset(folder)


def test_a_question_may_name_words_as_answers_do(tmp_path):
    """It says what they are, not where."""
    messages = [
        {"role": "user", "content": "Where is <p>the mug</p>?"},
        {"role": "assistant", "content": "<region 0>"},
    ]
    objects = {"bbox": [[1, 1, 20, 20]], "text": [None]}
    line = {"file_name": "a.jpg", "objects": objects, "messages": messages}
    [row] = image_folder_dataset(write_folder(tmp_path / "photos", line))
    [(question, answer)] = turns(row)
    assert question[1:] == [("text", "Where is ", []), ("phrase", "the mug", []), ("text", "?", [])]
    assert answer == [("phrase", "", [[1, 1, 21, 21]])]


@pytest.mark.parametrize("content", ["", "  \n"])
def test_an_empty_message_is_left_out(tmp_path, content):
    messages = [{"role": "user", "content": "Is it red?"}, {"role": "assistant", "content": content}]
    folder = write_folder(tmp_path / "photos", {"file_name": "a.jpg", "objects": {"bbox": []}, "messages": messages})
    with pytest.raises(ValueError, match=r"a message is empty: `messages\[1\]` has an empty `content`"):
        image_folder_dataset(folder)
