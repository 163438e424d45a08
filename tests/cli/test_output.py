"""What commands print."""

from transformers_groma.cli.output import printable


def test_output_never_drives_the_terminal():
    assert printable("a\x1b[31m\x07b\nc") == "a\ufffd[31m\ufffdb\nc"
