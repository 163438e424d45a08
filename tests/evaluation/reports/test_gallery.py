"""The gallery page shows everything, loads nothing, and draws boxes in the right place."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from transformers_groma.evaluation.reports import gallery
from transformers_groma.evaluation.reports.gallery import (
    MAX_LABELLED_BOXES,
    MAX_SIDE,
    MIN_SIDE,
    PREDICTED_COLOR,
    TARGET_COLOR,
    GalleryCase,
    draw_case,
    worst_first,
    write_gallery,
)
from transformers_groma.masks import mask_to_rle

# Elements without an end tag.
VOID = {"meta", "img"}


def case(**changes) -> GalleryCase:
    values = {
        "image": Image.new("RGB", (600, 480), (128, 128, 128)),
        "title": "Row 3 (image_id '7')",
        "question": "Locate the cup in this image.",
        "answer": "",
        "predicted_boxes_xyxy": [[300.0, 200.0, 400.0, 300.0]],
        "target_boxes_xyxy": [[100.0, 100.0, 250.0, 350.0]],
        "score": 0.0,
    }
    return GalleryCase(**{**values, **changes})


class Page(HTMLParser):
    """Elements of a page with their attributes, its text, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def colors_at(image: Image.Image, x: float, y: float, reach: int = 5) -> set[tuple[int, ...]]:
    """Colours around a point."""
    pixels = np.asarray(image)[round(y) - reach : round(y) + reach, round(x) - reach : round(x) + reach]
    return set(map(tuple, pixels.reshape(-1, 3).tolist()))


def test_page_is_complete_and_needs_no_other_file(tmp_path):
    path = write_gallery(tmp_path, [case(), case(score=0.25)], title="REC: worst answers", note="2 of 100")
    assert path == tmp_path / "gallery.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    assert "REC: worst answers" in page.text and "2 of 100" in page.text and "2 cases" in page.text
    # Every address is in the page itself.
    addresses = [
        value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert all(address.startswith(("data:image/jpeg;base64,", "#case-")) for address in addresses)
    assert not page.all("script") and not page.all("link") and "http" not in re.sub("http-equiv", "", text)
    assert "default-src 'none'" in page.all("meta")[2]["content"]
    [first, _] = page.all("img")
    image = Image.open(io.BytesIO(base64.b64decode(first["src"].partition(",")[2])))
    assert image.size == (int(first["width"]), int(first["height"])) == (600, 480)
    assert sorted(file.name for file in (tmp_path / "gallery").iterdir()) == ["0001.png", "0002.png"]


@pytest.mark.parametrize(
    "hostile", ["</dd><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<p>cup</p>&lt;"]
)
def test_texts_are_shown_as_they_are(tmp_path, hostile):
    path = write_gallery(
        tmp_path, [case(title=hostile, question=hostile, answer=hostile)], title=hostile, note=hostile
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open and not page.all("script") and len(page.all("img")) == 1
    assert page.text.count(hostile) == 6  # title of page twice, note, title of case, question, answer
    assert page.all("img")[0]["alt"] == hostile


def test_a_page_without_a_note(tmp_path):
    text = write_gallery(tmp_path, [case(verdict="right")]).read_text(encoding="utf-8")
    assert [attributes.get("class") for attributes in Page(text).all("p")] == ["score"]
    assert "<li>1 case</li>" in text and "<h1>Worst cases</h1>" in text
    # Verdicts that no case has are not counted.
    assert text.count("\u2713 right") == 2 and "\u2717 wrong" not in text and "partly right" not in text


def test_texts_with_characters_that_have_no_shape(tmp_path):
    odd = "a\x00b\u202ec\ud800d\ne"
    path = write_gallery(tmp_path, [case(answer=odd)])
    text = path.read_bytes().decode("utf-8")
    assert "a\ufffdb\ufffdc\ufffdd\ne" in text


def test_answers_without_words_say_so(tmp_path):
    page = Page(write_gallery(tmp_path, [case(), case(predicted_boxes_xyxy=[])]).read_text(encoding="utf-8"))
    assert "(boxes only)" in page.text and "(nothing)" in page.text
    without_question = Page(write_gallery(tmp_path, [case(question="")]).read_text(encoding="utf-8"))
    assert "Question" not in without_question.text and "Answer" in without_question.text


def test_boxes_are_where_they_belong():
    image = draw_case(case())
    assert image.size == (600, 480)
    assert PREDICTED_COLOR in colors_at(image, 300, 250) and PREDICTED_COLOR in colors_at(image, 400, 250)
    assert TARGET_COLOR in colors_at(image, 100, 100) and TARGET_COLOR in colors_at(image, 250, 350)
    assert colors_at(image, 500, 400) == {(128, 128, 128)}
    # Targets are dashed: along a side there are stretches without them.
    side = np.asarray(image)[110:340, 100]
    is_target = (side == TARGET_COLOR).all(axis=-1)
    assert 0.3 < is_target.mean() < 0.7 and (is_target[1:] != is_target[:-1]).sum() > 8


@pytest.mark.parametrize("size", [(600, 480), (480, 600)])
def test_targets_are_clipped_at_the_edges_of_the_image(size):
    width, height = size
    image = Image.new("RGB", size, (128, 128, 128))
    box = [-90.0, -80.0, width + 200.0, height + 200.0]
    pixels = np.asarray(draw_case(case(image=image, predicted_boxes_xyxy=[], target_boxes_xyxy=[box])))
    is_target = (pixels == TARGET_COLOR).all(axis=-1)
    for side in (is_target[0], is_target[-1], is_target[:, 0], is_target[:, -1]):
        assert 0.3 < side.mean() < 0.8
    assert not is_target[20:-20, 20:-20].any()
    # As much of the line is seen at every edge.
    for lines in (is_target[:, 30:-30].any(axis=1), is_target[30:-30].any(axis=0)):
        assert lines[:20].sum() > 1 and lines[:20].tolist() == lines[:-21:-1].tolist()


def test_a_target_shows_under_a_box_of_the_answer():
    box = [100.0, 100.0, 250.0, 350.0]
    image = draw_case(case(predicted_boxes_xyxy=[box], target_boxes_xyxy=[box]))
    colors = colors_at(image, 100, 350)
    assert PREDICTED_COLOR in colors and TARGET_COLOR in colors


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 32), (480, 240)), ((2000, 1000), (960, 480)), ((700, 500), (700, 500))]
)
def test_sizes(size, expected):
    assert (MIN_SIDE, MAX_SIDE) == (480, 960)
    box = [0.25 * size[0], 0.25 * size[1], 0.75 * size[0], 0.75 * size[1]]
    image = draw_case(case(image=Image.new("RGB", size), predicted_boxes_xyxy=[], target_boxes_xyxy=[box]))
    assert image.size == expected
    assert TARGET_COLOR in colors_at(image, 0.25 * expected[0], 0.25 * expected[1])
    assert TARGET_COLOR in colors_at(image, 0.75 * expected[0], 0.75 * expected[1])


def test_a_turned_photo_is_drawn_upright():
    image = Image.new("RGB", (600, 480))
    image.getexif()[0x0112] = 6
    assert draw_case(case(image=image)).size == (480, 600)


def test_masks_are_tinted_and_outlined(tmp_path):
    """Those of the answer are tinted and those of targets outlined; boxes have no tint of their own."""
    answer, target = np.zeros((2, 480, 600), bool)
    answer[210:290, 310:390], target[120:330, 120:230] = True, True
    masked = case(predicted_masks=[mask_to_rle(answer)], target_masks=[mask_to_rle(target)])
    image = draw_case(masked)
    tint = tuple(round(0.55 * 128 + 0.45 * value) for value in PREDICTED_COLOR)
    assert colors_at(image, 350, 250) == {tint}
    assert colors_at(image, 175, 225) == {(128, 128, 128)}  # inside of the target
    assert TARGET_COLOR in colors_at(image, 121, 225) and TARGET_COLOR in colors_at(image, 175, 329)
    assert colors_at(image, 305, 205, 2) == {(128, 128, 128)}  # in the box of the answer, beside its mask
    assert PREDICTED_COLOR in colors_at(image, 300, 250)
    page = Page(write_gallery(tmp_path, [masked, case()]).read_text(encoding="utf-8"))
    assert "its masks tinted" in page.text and not page.open
    without = Page(write_gallery(tmp_path, [case()]).read_text(encoding="utf-8"))
    assert "masks" not in without.text and "number, best IoU with a target" in without.text


def test_masks_grow_with_a_small_image():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:40] = True
    small = Image.new("RGB", (80, 60), (128, 128, 128))
    masks = [mask_to_rle(mask)]
    image = draw_case(case(image=small, predicted_boxes_xyxy=[], target_boxes_xyxy=[], predicted_masks=masks))
    assert image.size == (480, 360)
    assert colors_at(image, 180, 180) != {(128, 128, 128)} == colors_at(image, 300, 180)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_any_mode_of_image(mode, tmp_path):
    """A white image is white, though that is another number in each mode, and boxes have their colours."""
    write_gallery(tmp_path, [case(image=Image.new("RGB", (600, 480), "white").convert(mode))])
    image = Image.open(tmp_path / "gallery" / "0001.png")
    assert image.mode == "RGB"
    assert colors_at(image, 500, 400) == {(255, 255, 255)}
    assert PREDICTED_COLOR in colors_at(image, 300, 250) and TARGET_COLOR in colors_at(image, 100, 100)


def test_many_boxes_have_short_labels(monkeypatch):
    labels = []
    monkeypatch.setattr(gallery, "draw_boxes", lambda *_, **drawn: labels.append(drawn["labels"]))
    boxes = [[10.0 + 9 * number, 10.0, 60.0 + 9 * number, 60.0] for number in range(MAX_LABELLED_BOXES + 1)]
    for predicted in (boxes[:-1], boxes):
        draw_case(case(predicted_boxes_xyxy=predicted, target_boxes_xyxy=boxes[:1]))
    draw_case(case(predicted_boxes_xyxy=boxes[:2], target_boxes_xyxy=[[500.0, 300.0, 590.0, 400.0], boxes[0]]))
    some, many, best = labels
    # The best of all targets: 41 x 50 of 59 x 50 pixels are shared by the second one.
    assert best == ["1  IoU 1.00", "2  IoU 0.69"]
    assert (some[0], some[-1]) == ("1  IoU 1.00", f"{MAX_LABELLED_BOXES}  IoU 0.00")
    assert many == [str(number) for number in range(1, MAX_LABELLED_BOXES + 2)]


@pytest.mark.parametrize("boxes", [[[0.0, 0.0, 5.0]], [[0.0, 0.0, math.nan, 5.0]], [[0.0, 0.0, 5.0, 5.0, 0.9]]])
@pytest.mark.parametrize("name", ["predicted_boxes_xyxy", "target_boxes_xyxy"])
def test_something_that_is_not_a_box(name, boxes):
    with pytest.raises(ValueError, match=f"`{name}` must be boxes of four finite numbers"):
        draw_case(case(**{name: boxes}))


def test_a_new_gallery_replaces_the_old_one(tmp_path):
    write_gallery(tmp_path, [case()] * 3)
    write_gallery(tmp_path, [case()])
    assert [file.name for file in (tmp_path / "gallery").iterdir()] == ["0001.png"]
    write_gallery(tmp_path, [])
    assert not list((tmp_path / "gallery").iterdir()) and "0 cases" in (tmp_path / "gallery.html").read_text()


def test_images_hold_the_texts(tmp_path):
    write_gallery(tmp_path, [case(), case(answer="word " * 400)])
    short, long = (Image.open(tmp_path / "gallery" / name).size for name in ("0001.png", "0002.png"))
    assert short[0] == long[0] == 600 and 480 < short[1] < long[1]


def test_scores_that_are_not_numbers(tmp_path):
    text = write_gallery(tmp_path, [case(score=math.nan), case(score=1.5), case(score=-1.0)]).read_text()
    assert re.findall(r'style="width:(\d+)%"', text) == ["0", "100", "0"]


def test_scores_and_boxes_in_words(tmp_path):
    for score, shown in ((0.12345, "0.123"), (0.9999, "1.000"), (1.0, "1"), (12.345, "12.3"), (-3.14159, "-3.14")):
        page = Page(write_gallery(tmp_path, [case(score=score)]).read_text(encoding="utf-8"))
        assert f" Row 3 (image_id '7')\n{shown}\n" in page.text
    page = Page(write_gallery(tmp_path, [case(target_boxes_xyxy=[[1.0, 2, 30, 40]] * 2)]).read_text(encoding="utf-8"))
    assert "1 box in the answer, 2 targets" in page.text
    assert (
        "answer 1      300.0    200.0    400.0    300.0\ntarget 1        1.0      2.0     30.0     40.0" in page.text
    )
    page = Page(write_gallery(tmp_path, [case(predicted_boxes_xyxy=[])]).read_text(encoding="utf-8"))
    assert "0 boxes in the answer, 1 target" in page.text


def test_worst_first():
    assert worst_first([0.5, 0.0, 1.0, 0.0], 2) == [1, 3]
    assert worst_first([0.5, math.nan, 0.0], 9) == [1, 2, 0]
    assert worst_first([], 3) == worst_first([1.0], 0) == []
    with pytest.raises(ValueError, match="`count` must be non-negative, got -1"):
        worst_first([1.0], -1)


def test_cases_are_marked_right_and_wrong(tmp_path):
    verdicts = ["wrong", "right", "partly right", "", "wrong"]
    page = Page(write_gallery(tmp_path, [case(verdict=verdict) for verdict in verdicts]).read_text(encoding="utf-8"))
    assert not page.open
    assert [article["class"] for article in page.all("article")] == [
        "wrong",
        "right",
        "partly-right",
        "not-judged",
        "wrong",
    ]
    badges = [span["class"] for span in page.all("span") if "badge" in span.get("class", "")]
    # The head counts them, each case has its own; signs tell them apart without colours, too.
    assert badges[:3] == ["badge right", "badge partly-right", "badge wrong"]
    assert badges[3:] == ["badge wrong", "badge right", "badge partly-right", "badge wrong"]
    assert page.text.count("✗ wrong") == 3 and page.text.count("✓ right") == 2 and "✗ wrong 2" in page.text


def test_what_was_expected_stands_beside_what_was_answered(tmp_path):
    def texts(**changes):
        return Page(write_gallery(tmp_path, [case(**changes)]).read_text(encoding="utf-8")).text

    shown = texts(expected=["a cup", "the cup"])
    assert "a cup / the cup" in shown
    assert re.search(r"Box of the answer\s*300.0\s+200.0\s+400.0\s+300.0", shown)
    assert re.search(r"Expected box\s*100.0\s+100.0\s+250.0\s+350.0", shown)
    nothing_found = texts(predicted_boxes_xyxy=[])
    assert "(none)" in nothing_found and nothing_found.count("Box of the answer") == 1
    without = texts(predicted_boxes_xyxy=[], target_boxes_xyxy=[])
    assert not any(words in without for words in ("Box of the answer", "Expected box", "(none)"))
    pointed = texts(predicted_boxes_xyxy=[], target_name="Box of the question")
    assert "(none)" not in pointed and "Box of the question" in pointed and "Expected box" not in pointed
    many = texts(predicted_boxes_xyxy=[[1.0, 1, 9, 9]] * 3)
    assert "Box of the answer" not in many and "3 boxes in the answer" in many
    assert "Box of the answer" in texts(predicted_boxes_xyxy=[[1.0, 1, 9, 9]] * 2)
