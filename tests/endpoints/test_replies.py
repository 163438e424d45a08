"""Chat completions at their limits, as text and numbers. Odd bodies over the network: `test_client.py`."""

import pytest

from transformers_groma.endpoints.replies import read_reply


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
