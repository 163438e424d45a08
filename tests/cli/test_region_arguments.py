"""Regions on the command line."""

import argparse

import numpy as np
import pytest
from PIL import Image

from transformers_groma.cli.arguments import CommandError, CommandParser, joined_points
from transformers_groma.cli.region_arguments import (
    add_region_arguments,
    check_region_given,
    points_xy,
)
from transformers_groma.image_inputs import ImageSize
from transformers_groma.region_inputs import read_regions

MASK = np.zeros((20, 30), bool)
MASK[5:12, 10:28] = True


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser(prog="groma ask")
    parser.add_argument("image")
    parser.add_argument("question", nargs="?")
    parser.add_argument("--max-new-tokens", type=int)
    add_region_arguments(parser, "what the question is about")
    return parser


@pytest.fixture
def mask_path(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(MASK).save(path)
    return str(path)


def test_regions_come_in_their_order(parser, mask_path):
    words = ["a.jpg", "--point", "9,3", "--box", "1,2,3,4", "--mask", mask_path, "--scribble", "9,3", "12,4", "What?"]
    arguments = parser.parse_args(words)
    assert (arguments.image, arguments.question) == ("a.jpg", "What?")
    point, box, mask, scribble = arguments.regions
    assert point == {"points": [[9, 3]], "labels": [1]}
    assert box == [1, 2, 3, 4]
    assert scribble == {"scribble": [[9, 3], [12, 4]]}
    np.testing.assert_array_equal(mask["mask"], MASK)
    prompts = read_regions(arguments.regions, ImageSize(20, 30))
    assert [prompt.box for prompt in prompts] == [[9, 3, 10, 4], [1, 2, 3, 4], [10, 5, 28, 12], [9, 3, 13, 5]]


@pytest.mark.parametrize(
    "words",
    [
        ["a.jpg", "What?", "--point", "9,3", "12.5,4"],
        ["--point", "9,3", "12.5,4", "a.jpg", "What?"],
        ["--point", "9,3 12.5,4", "a.jpg", "What?"],
        ["--point=9,3", "12.5,4", "a.jpg", "What?"],
        ["a.jpg", "--point", "9,3", "12.5,4", "--", "What?"],
    ],
)
def test_several_points_of_one_region_wherever_they_stand(parser, words):
    arguments = parser.parse_args(words)
    assert (arguments.image, arguments.question) == ("a.jpg", "What?")
    assert arguments.regions == [{"points": [[9, 3], [12.5, 4]], "labels": [1, 1]}]


def test_points_of_several_regions(parser):
    words = ["--point", "9,3", "--point", "1,2", "--not-point", "5,5", "6,6", "--not-point", "7,7", "a.jpg"]
    first, second = parser.parse_args(words).regions
    assert first == {"points": [[9, 3]], "labels": [1]}
    assert second == {"points": [[1, 2], [5, 5], [6, 6], [7, 7]], "labels": [1, 0, 0, 0]}


def test_which_region_a_point_means(parser):
    words = ["a.jpg", "--point", "9,3", "--ambiguity", "part", "--scribble", "9,3", "--ambiguity=group"]
    point, scribble = parser.parse_args(words).regions
    assert point == {"points": [[9, 3]], "labels": [1], "ambiguity": "part"}
    assert scribble == {"scribble": [[9, 3]], "ambiguity": "group"}


def test_no_regions(parser):
    for _ in range(2):  # nothing stays from one call to the next
        assert parser.parse_args(["a.jpg"]).regions == []
        assert len(parser.parse_args(["a.jpg", "--point", "9,3"]).regions) == 1
    with pytest.raises(CommandError, match="no region was given: pass --box x1,y1,x2,y2, --point x,y"):
        check_region_given(parser.parse_args(["a.jpg"]))
    check_region_given(parser.parse_args(["a.jpg", "--box", "1,2,3,4"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--point", "photo.jpg"], "argument --point: 'photo.jpg' is not a point: write x,y in pixels"),
        (["--point", "1,2,3"], "argument --point: '1,2,3' is not a point"),
        (["--point", "1"], "argument --point: '1' is not a point"),
        (["--point="], "argument --point: '' is not a point"),
        (["--point", "nan,3"], "argument --point: 'nan,3' is not a point of finite numbers"),
        (["--scribble", "1,2", "3,1e999"], "argument --scribble: '3,1e999' is not a point of finite numbers"),
        (["--point", "0.3,0.5"], "argument --point: '0.3,0.5' looks like fractions of the image: write x,y in pixels"),
        (["--point"], "argument --point: expected one argument"),
        (["--not-point", "1,2"], "argument --not-point: it belongs to the region of a --point"),
        (["--box", "1,2,3,4", "--not-point", "1,2"], "argument --not-point: it belongs to the region of a --point"),
        (["--scribble", "1,2", "--not-point", "1,2"], "argument --not-point: it belongs to the region of a --point"),
        (["--ambiguity", "part"], "argument --ambiguity: it belongs to a --point or a --scribble"),
        (["--box", "1,2,3,4", "--ambiguity", "part"], "argument --ambiguity: it belongs to a --point"),
        (["--point", "1,2", "--ambiguity", "whole"], "argument --ambiguity: invalid choice: 'whole'"),
        (["--mask", "missing.png"], "argument --mask: `missing.png` cannot be read as an image file"),
        (["--box", "1,2,3"], "argument --box: '1,2,3' is not a box"),
    ],
)
def test_mistakes_end_in_one_line(parser, capsys, words, said):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["a.jpg", *words])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith(f"groma ask: error: {said}") and error.count("\n") == 1


def test_a_mask_of_several_colours_ends_in_one_line(parser, capsys, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(path)
    with pytest.raises(SystemExit):
        parser.parse_args(["a.jpg", "--mask", str(path)])
    assert "has 60 colours, but a mask is black and one other colour" in capsys.readouterr().err


def test_a_point_left_of_the_image_is_a_point(parser):
    (region,) = parser.parse_args(["a.jpg", "--point", "-3,5"]).regions
    with pytest.raises(ValueError, match="is outside of the 30x20"):
        read_regions([region], ImageSize(20, 30))


def test_help_names_the_options(parser):
    text = parser.format_help()
    for option in ("--box", "--point", "--not-point", "--scribble", "--mask", "--ambiguity"):
        assert option in text
    assert "what the question is about. Each option is a region" in " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        ([], []),
        (["--point", "1,2", "3,4"], ["--point=1,2 3,4"]),
        (["--point", "1,2", "a,b", "3,4"], ["--point=1,2", "a,b", "3,4"]),
        (["--box", "1,2", "3,4"], ["--box", "1,2", "3,4"]),
        (["--scribble", "-1.5,2e1", "--", "3,4"], ["--scribble=-1.5,2e1", "--", "3,4"]),
        (["--", "--point", "1,2"], ["--", "--point", "1,2"]),
        (["--points", "1,2"], ["--points", "1,2"]),
    ],
)
def test_joined_points(words, joined):
    assert joined_points(words) == joined
    assert joined_points(joined) == joined


@pytest.mark.parametrize("text", ["9,3", " 9,3 ", "9.0,3"])
def test_points(text):
    assert points_xy(text) == [[9, 3]]
    with pytest.raises(argparse.ArgumentTypeError):
        points_xy(f"{text} x")
