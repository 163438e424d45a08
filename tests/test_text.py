"""Reading annotation files of any origin as text."""

import gzip

import pytest

from transformers_groma._text import RepeatedKey, capitalized, decode_text, parse_json, read_text, split_lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_to_read(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes('{"caption": "Café 猫"}'.encode(encoding))
    assert read_text(path) == '{"caption": "Café 猫"}'


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
    ],
)
def test_both_byte_orders(mark, encoding):
    assert decode_text(mark + "Café".encode(encoding), "a") == "Café"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Café".encode("latin-1"), "a.json is not UTF-8: byte 3 is 0xe9. Save it as UTF-8"),
        (
            "{}".encode("utf-16-le"),
            "a.json is not UTF-8: byte 1 is 0x00, as in UTF-16 without a byte order mark. Save it as UTF-8, for "
            "example with `iconv -f utf-16le ",
        ),
        (
            "{}".encode("utf-16-be"),
            "a.json is not UTF-8: byte 0 is 0x00, as in UTF-16 without a byte order mark. Save it as UTF-8, for "
            "example with `iconv -f utf-16be ",
        ),
        (b"\xff\xfea", "byte order mark of UTF-16-LE, but byte 2 does not fit"),
    ],
)
def test_another_encoding_says_which_byte_and_what_to_do(content, message):
    with pytest.raises(ValueError) as error:
        decode_text(content, "a.json")
    assert message in str(error.value) and "UTF-8" in str(error.value)


def test_only_a_nul_at_the_head_tells_of_another_encoding():
    assert decode_text(b"[1] \0", "a") == "[1] \0"
    assert decode_text(b"\xef\xbb\xbf\0", "a") == "\0"
    with pytest.raises(ValueError, match="byte 3 is 0x00"):
        decode_text(b"[1]\0", "a")
    assert decode_text(b"", "a") == ""


def test_gzip_files_are_unpacked(tmp_path):
    path = tmp_path / "a.json"  # whatever its name
    path.write_bytes(gzip.compress(b"[1]"))
    assert read_text(path) == "[1]"
    path.write_bytes(gzip.compress(b"[1]" * 1000)[:-6])
    with pytest.raises(ValueError, match="a.json is a broken gzip file"):
        read_text(path)


@pytest.mark.parametrize("character", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
def test_lines_end_at_line_feeds_alone(tmp_path, character):
    path = tmp_path / "a.txt"
    path.write_bytes(f"one{character}line\r\nanother\rone\n".encode())
    assert split_lines(read_text(path)) == [f"one{character}line", "another\rone", ""]


def test_a_key_that_stands_twice_is_kept_in_mind():
    content = parse_json(
        '{"a": {"id": 1, "x": 0, "id": 2}, "b": {"id": 3}, "masks": [{"segmentation": [1, 2], "id": 4}]}'
    )
    assert isinstance(content["a"], RepeatedKey) and content["a"].key == "id"
    assert not isinstance(content, RepeatedKey) and not isinstance(content["b"], RepeatedKey)
    assert parse_json('[{"segmentation": [1], "id": 4}]', drop=["segmentation"]) == [{"id": 4}]


def test_deep_and_broken_json_are_errors_of_data():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
    with pytest.raises(ValueError):
        parse_json("{")


def test_capitals_never_move_a_span():
    assert [capitalized(text) for text in ("", "a US dog", "ßx", "ŉx", "Éa", "éa")] == [
        *("", "A US dog", "ßx", "ŉx", "Éa", "Éa")
    ]
