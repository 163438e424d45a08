"""CIDEr and METEOR, compared with published scores; words as Stanford's tokenizer cuts them."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pycocoevalcap.meteor.meteor import Meteor

from transformers_groma.evaluation.metrics import cider_meteor as caption_metrics
from transformers_groma.evaluation.metrics.cider_meteor import JavaMissingError, caption_scores, cider, meteor
from transformers_groma.evaluation.metrics.ptb_tokenizer import java_ptb_tokenize, ptb_tokenize

REALDATA = Path(__file__).parents[4] / "shared" / "realdata"
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java (default-jre-headless)")

CANDIDATES = ["a red cat", "two dogs"]
REFERENCES = [["a red cat"], ["two big dogs", "dogs"]]


@pytest.fixture(scope="module")
def captions() -> Path:
    if not REALDATA.is_dir():
        pytest.skip("the real samples are not beside this checkout (../shared/realdata)")
    return REALDATA / "captions"


@pytest.fixture(scope="module")
def meteor_program():
    """One Java program for all tests, because it reads its tables for seconds."""
    return Meteor()


@pytest.fixture
def one_meteor_program(meteor_program, monkeypatch):
    monkeypatch.setattr(caption_metrics, "Meteor", lambda: meteor_program)


def published(file: str) -> dict:
    manifest = json.loads((REALDATA / "manifest.json").read_text())
    return next(entry for entry in manifest["files"] if entry["file"] == file)["expected"]["figures"]


def clipscore(captions: Path, name: str) -> tuple[list[str], list[list[str]]]:
    answers = json.loads((captions / "clipscore" / f"{name}.json").read_text())
    references = json.loads((captions / "clipscore" / "refs.json").read_text())
    return [answers[image] for image in references], list(references.values())


def nlg_eval(captions: Path) -> tuple[list[str], list[list[str]]]:
    answers, *references = (
        [line.strip() for line in (captions / "nlg_eval" / f"{name}.txt").read_text().splitlines()]
        for name in ("hyp", "ref1", "ref2")
    )
    return answers, [list(texts) for texts in zip(*references, strict=True)]


@pytest.mark.parametrize("name", ["good_captions", "bad_captions"])
def test_cider_of_clipscore(captions, name):
    metrics = published(f"captions/clipscore/{name}.json")
    score = cider(*clipscore(captions, name))
    assert round(score, 4) == metrics["CIDEr"]
    assert score == pytest.approx(metrics["computed_here"]["CIDEr"], abs=1e-12)


def test_cider_of_nlg_eval(captions):
    """They take words as they are."""
    assert round(cider(*nlg_eval(captions), tokenize=list), 6) == published("captions/nlg_eval/hyp.txt")["CIDEr"]


@needs_java
@pytest.mark.parametrize("name", ["good_captions", "bad_captions"])
def test_meteor_of_clipscore(captions, name, one_meteor_program):
    metrics = published(f"captions/clipscore/{name}.json")
    score = meteor(*clipscore(captions, name))
    assert round(score, 4) == metrics["METEOR"]
    assert score == pytest.approx(metrics["computed_here"]["METEOR"], abs=1e-12)


@needs_java
def test_meteor_of_nlg_eval(captions, one_meteor_program):
    assert round(meteor(*nlg_eval(captions), tokenize=list), 6) == published("captions/nlg_eval/hyp.txt")["METEOR"]


@needs_java
def test_meteor_of_odd_texts(one_meteor_program):
    assert meteor(["a dog"], [["a dog", "a cat"]]) == pytest.approx(1, abs=0.1)
    assert meteor(["", ""], [["a dog"], ["a cat"]]) == 0
    # Bars separate texts in what the program reads.
    barred = meteor(["a dog ||| a cat"], [["a dog ||| a cat"]], tokenize=list)
    assert barred == pytest.approx(meteor(["a dog a cat"], [["a dog a cat"]]))


@needs_java
def test_words_are_those_of_stanford(captions):
    """Real captions, expressions and phrases: more than 4,000 texts."""
    texts = [
        entry["caption"] for entry in json.loads((captions / "coco_caption").glob("*.json").__next__().read_text())
    ]
    for split in ("testA", "testB"):
        file = captions / "refer" / f"sample_expressions_{split}.json"
        texts += [entry["sent"] for entry in json.loads(file.read_text())["predictions"]]
    for file in sorted((REALDATA / "flickr30k_entities" / "Sentences").glob("*.txt")):
        texts += file.read_text().splitlines()
    assert len(texts) > 4000
    assert ptb_tokenize(texts) == java_ptb_tokenize(texts)


# What Stanford's program makes of these texts, read from it once; the test below reads it again.
WORDS = {
    "A man's T-shirt (grey), isn't it?": "a man 's t-shirt -lrb- grey -rrb- is n't it",
    "far left,center ; right:top": "far left center right top",
    "man on left.woman on right!": "man on left.woman on right",
    'the "no. 5" jersey, NO. 7, no': "the no. 5 jersey no. 7 no",
    "St. Louis at 5 p.m. in the U.S. etc.": "st. louis at 5 p.m. in the u.s. etc.",
    "black/white and/or 1/2, w/ umbrella": "black/white and/or 1/2 w / umbrella",
    "left,right-most 3.5-inch two-story x-ray": "left,right-most 3.5-inch two-story x-ray",
    "cannot won't can't gonna 'tis it's they'll I'd": "can not wo n't ca n't gon na 't is it 's they 'll i 'd",
    "kids' o'clock o'neil rock'n'roll '80s": "kids o'clock o'neil rock 'n' roll '80s",
    "what?! really?? no!!! wait...": "what ?! really ?? no !!! wait",
    "1,000 people, 10:30, $5.00, 10%, #3, -2": "1,000 people 10:30 $ 5.00 10 % # 3 -2",
    "A&W b&w AT&T R&B": "a&w b & w at&t r&b",
    "“left” ‘right’ – café’s naïve…": "left right café 's naïve",
    "6'2\" tall 5' [x] {y} <person> a_b *c*": "6 2 tall 5 -lsb- x -rsb- -lcb- y -rcb- <person> a_b * c *",
    "£5 €5 5¢ ½ &amp; © °": "# 5 $ 5 5 cents 1/2 & © °",
    "": "",
    "  .  ": "",
}


def test_words():
    assert dict(zip(WORDS, ptb_tokenize(list(WORDS)), strict=True)) == WORDS
    assert ptb_tokenize(["two\nlines\tof  text"]) == ["two lines of text"]


@needs_java
def test_words_are_still_those_of_stanford():
    assert dict(zip(WORDS, java_ptb_tokenize(list(WORDS)), strict=True)) == WORDS
    assert java_ptb_tokenize(["two\r\nlines", "", "one"]) == ["two lines", "", "one"]


def test_cider_of_the_whole_set():
    assert cider(CANDIDATES, CANDIDATES_AS_REFERENCES) > cider(CANDIDATES, REFERENCES) > 0
    assert cider(["a bird", "a bird"], REFERENCES) < cider(CANDIDATES, REFERENCES)
    # Of one caption no word is rarer than another.
    assert cider(["a red cat"], [["a red cat"]]) == 0
    assert cider(["", ""], REFERENCES) == 0


CANDIDATES_AS_REFERENCES = [[text] for text in CANDIDATES]


@pytest.mark.parametrize("score", [cider, meteor])
@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "`candidates` is empty"),
        (["a"], [], "`references` must have one list for each of the 1 `candidates`, got 0"),
        (["a", "b"], [["a"], []], r"`references\[1\]` must be a list of one or more captions, got \[\]"),
        (["a"], ["a cat"], r"`references\[0\]` must be a list of one or more captions, got 'a cat'"),
    ],
)
def test_bad_input(score: Callable, candidates, references, message):
    with pytest.raises(ValueError, match=message):
        score(candidates, references)


def test_without_java(monkeypatch, tmp_path, caplog):
    """METEOR says what to install, and the rest is still reported."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for function, arguments in ((meteor, (CANDIDATES, REFERENCES)), (java_ptb_tokenize, (CANDIDATES,))):
        with pytest.raises(JavaMissingError, match="`apt-get install -y default-jre-headless`"):
            function(*arguments)
    assert caption_scores(CANDIDATES, REFERENCES) == {"cider": cider(CANDIDATES, REFERENCES)}
    assert "METEOR is left out" in caplog.text
    assert "default-jre-headless" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="the broken Java is a shell script")
def test_java_that_fails(monkeypatch, tmp_path):
    """Its message comes through, and nothing waits for ever."""
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'Could not reserve enough space' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(RuntimeError, match=r"METEOR failed: Could not reserve enough space"):
        meteor(CANDIDATES, REFERENCES)
