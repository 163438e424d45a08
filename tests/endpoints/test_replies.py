"""Chat completions at their limits, as text and numbers. Odd bodies over the network: `test_client.py`."""

import pytest

from transformers_groma.endpoints.replies import MESSAGE_LIMIT, OddReply, read_body, read_reply


def test_usage_at_its_limits():
    body = {"choices": [{"message": {"content": None}}], "usage": {"prompt_tokens": 0, "completion_tokens": 1e8}}
    reply = read_reply(body, "stub")
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 100_000_000)
    assert (reply.text, reply.model, reply.finish_reason) == ("", "stub", "stop")
    assert read_reply(body | {"usage": None}, "stub").prompt_tokens is None


def test_halves_of_characters_can_be_written():
    body = {"choices": [{"message": {"content": "a\ud800b\ud83d\ude00", "refusal": "\udfff"}}]}
    reply = read_reply(body, "stub")
    assert reply.text == "a\ufffdb\U0001f600" and reply.refusal.encode()


@pytest.mark.parametrize("body", [{}, [], None, {"choices": [{"message": {}}]}])
def test_what_a_message_may_leave_out(body):
    if body == {"choices": [{"message": {}}]}:
        assert read_reply(body, "stub").text == ""
    else:
        with pytest.raises(ValueError, match="not a chat completion"):
            read_reply(body, "stub")


@pytest.mark.parametrize(
    ("fields", "message", "may_help"),
    [
        ({"choices": [{"message": {"content": 5}}]}, "the content of the message is not text: 5", True),
        ({"choices": [{"message": {"refusal": []}}]}, r"`refusal` of the answer is not text: \[\]", True),
        ({"choices": [{"message": {}, "finish_reason": 1}]}, "`finish_reason` of the answer is not text", True),
        ({"model": {}}, "`model` of the answer is not text", True),
        # Asking again would cost again.
        ({"usage": [1]}, "`usage` of the answer is not an object", False),
        ({"usage": {"prompt_tokens": -1}}, "`usage.prompt_tokens` of the answer is not a number of tokens: -1", False),
        ({"usage": {"prompt_tokens": 100_000_001}}, "`usage.prompt_tokens`", False),
        ({"usage": {"completion_tokens": 1.5}}, "`usage.completion_tokens`", False),
        ({"usage": {"completion_tokens": True}}, "`usage.completion_tokens`", False),
        ({"usage": {"completion_tokens": "7"}}, "`usage.completion_tokens`", False),
    ],
)
def test_what_is_odd_is_named(fields, message, may_help):
    with pytest.raises(OddReply, match=message) as error:
        read_reply({"choices": [{"message": {"content": "A dog."}}], **fields}, "stub")
    assert error.value.may_help is may_help


def test_the_answer_names_its_own_model_and_end():
    message = {"content": "A dog.", "refusal": "no"}
    body = {"model": "other", "choices": [{"message": message, "finish_reason": "length"}, {"message": {}}]}
    reply = read_reply(body, "stub")
    assert (reply.model, reply.text, reply.finish_reason, reply.refusal) == ("other", "A dog.", "length", "no")


def test_bodies_that_are_no_json_are_repeated_in_part():
    page = b"<html>" + b"x" * 1000
    with pytest.raises(OddReply, match="it is not JSON: <html>xxx") as error:
        read_body(page, "stub")
    assert error.value.may_help and str(error.value).endswith("x" * (MESSAGE_LIMIT - 6))
    assert str(error.value).count("x") == MESSAGE_LIMIT - 6
    with pytest.raises(OddReply, match="it is nested too deeply"):
        read_body(b"[" * 200_000, "stub")
    with pytest.raises(OddReply) as error:
        read_reply({"choices": "x" * 1000}, "stub")
    assert len(str(error.value)) < MESSAGE_LIMIT + 50
