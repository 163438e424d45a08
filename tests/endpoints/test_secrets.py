"""A key is blanked in every form that others write it, and nothing else is."""

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from transformers_groma.endpoints.secrets import KeyBlanker

KEY = 'sk-A/b+c d"é\\?1~'


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        quote(KEY),
        quote(KEY, safe=""),
        quote_plus(KEY),
        json.dumps(KEY)[1:-1],
        KEY.encode().hex(),
        KEY.encode().hex().upper(),
    ],
)
def test_every_form_is_blanked(form):
    blanker = KeyBlanker(KEY)
    for blank in (blanker.blank, blanker.blank_answer):
        assert blank(f"x{form}y{form}, and more") == "x[key]y[key], and more"
    assert blanker.blank(KEY[:-1]) == KEY[:-1]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize(("before", "first"), [(0, 0), (1, 2), (2, 3), (3, 4), (4, 6)])
@pytest.mark.parametrize("key", ["12345678", "123456789", "1234567890", "\xff\xfe?>~~\xfb\xff"])
def test_base64_is_blanked_wherever_the_key_starts(encode, before, first, key):
    """All digits that hold bits of the key alone; those that it shares with its neighbours tell less than a byte."""
    content = key.encode()
    text = encode(b"A" * before + content + b"BBB").decode()
    last = (before + len(content)) * 8 // 6
    assert KeyBlanker(key).blank(text) == f"{text[:first]}[key]{text[last:]}"


def test_the_longest_form_goes_first():
    """In JSON this key begins with itself."""
    assert KeyBlanker("secret12\\").blank('{"key": "secret12\\\\"}') == '{"key": "[key]"}'


def test_eight_characters_make_a_secret():
    long, short = KeyBlanker("EMPTYKEY"), KeyBlanker("EMPTYKE")
    for text, blanked in (("EMPTYKEY", "[key]"), ("xEMPTYKEYx", "x[key]x")):
        assert long.blank(text) == long.blank_answer(text) == blanked
    # Fillers are words: they go where they stand alone, and never from an answer.
    assert short.blank("EMPTYKE, EMPTYKEY xEMPTYKE: 'EMPTYKE'") == "[key], EMPTYKEY xEMPTYKE: '[key]'"
    assert short.blank(b"EMPTYKE".hex()) == b"EMPTYKE".hex()
    assert short.blank_answer("EMPTYKE") == "EMPTYKE"


@pytest.mark.parametrize("key", ["", "none"])
def test_without_a_key_nothing_is_blanked(key):
    blanker = KeyBlanker(key)
    assert blanker.blank("none of them") == blanker.blank_answer("none of them") == "none of them"


def test_signs_of_patterns_are_themselves():
    assert KeyBlanker("a.b*c(d[e").blank("aXbbc(d[e a.b*c(d[e") == "aXbbc(d[e [key]"
    assert KeyBlanker("a.c").blank("abc a.c") == "abc [key]"


def test_a_key_with_signs_of_html_is_blanked():
    assert KeyBlanker("sk-a&b<c>d'e").blank("<p>sk-a&amp;b&lt;c&gt;d&#x27;e</p>") == "<p>[key]</p>"


def test_words_that_serve_as_a_key_stay_in_answers():
    blanker = KeyBlanker("EMPTY")
    assert blanker.blank_answer("EMPTY cup") == "EMPTY cup"
    assert blanker.blank("key EMPTY, not EMPTYING") == "key [key], not EMPTYING"
    assert KeyBlanker("none").blank("none of it") == "none of it" == KeyBlanker("").blank("none of it")
    assert KeyBlanker("12345678").blank_answer("x12345678x") == "x[key]x"
    assert KeyBlanker("1234567").blank_answer("1234567") == "1234567"
