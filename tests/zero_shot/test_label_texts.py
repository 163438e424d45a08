"""Which texts stand for each label, and what is said about damaged files of descriptions."""

import gzip
import json
from pathlib import Path

import pytest

from transformers_groma.zero_shot import input_files, label_texts
from transformers_groma.zero_shot.label_texts import (
    check_descriptions,
    joined_phrases,
    read_descriptions,
    read_templates,
    texts_of_labels,
)
from transformers_groma.zero_shot.methods import METHODS, Method, method_of
from transformers_groma.zero_shot.templates import DEFAULT_TEMPLATE, GENERIC_TEMPLATES, dclip_text, fill_template
from transformers_groma.zero_shot.waffle import TEXT_COUNT, WORDS, waffle_texts

CUPL = {"wooden box": ["A box.", "A box.", " It has planks. "], "cloud": ["Weiß und weich."]}


def written(folder: Path, content: object, encoding: str = "utf-8") -> Path:
    path = folder / "descriptions.json"
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_descriptions_are_read_as_they_stand(tmp_path, encoding):
    """Ragged lists, order, spaces and duplicates stay."""
    found = read_descriptions(written(tmp_path, CUPL, encoding))
    assert found == CUPL and list(found) == ["wooden box", "cloud"]


def test_a_gzip_file_of_descriptions(tmp_path):
    (path := tmp_path / "cupl.json.gz").write_bytes(gzip.compress(json.dumps(CUPL).encode()))
    assert read_descriptions(path) == CUPL


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"cat": ["a"], "dog": ["b"], "cat": ["c"]}', "has the key 'cat' twice: merge the two"),
        ('{"cat": ["a"', "is not JSON (Expecting ',' delimiter: line 1"),
        ("[" * 100_000, "is not JSON (nested too deeply)"),
        ("", "is empty"),
        (" \n", "is empty"),
        (["a photo of a {}."], "holds a list, as files of templates do"),
        ("NaN", "holds a number (nan), not an object"),
        ('"cat"', "holds a text ('cat'), not an object"),
        ({}, "holds no class"),
        ({"cat": "It is furry."}, "the value of 'cat' is a text ('It is furry.'), not a list of texts: write ['It is"),
        ({"cat": None}, "the value of 'cat' is null, not a list of texts"),
        ({"cat": {"size": "small"}}, "the value of 'cat' is an object, not a list"),
        ({"dog": ["b"], "cat": []}, "'cat' has no text. Add one, or remove the class"),
        ({"cat": ["a", 5]}, "text 2 of 'cat' is a number (5). Write a text, or remove it"),
        ('{"cat": [NaN]}', "text 1 of 'cat' is a number (nan)"),
        ({"cat": ["a", ["b"]]}, "text 2 of 'cat' is a list"),
        ({"cat": ["a", " \t"]}, "text 2 of 'cat' is blank"),
        ({"": ["a"]}, "has the class name ''"),
        ({"_": ["a"]}, "has the class name '_'"),
        ({"red_ball": ["a"], "red ball": ["b"]}, "has 'red_ball' and 'red ball', the same class name"),
        (r'{"cat": ["\ud83d"]}', r"text 1 of 'cat' holds half a character (a lone surrogate): '\ud83d'"),
    ],
)
def test_damaged_descriptions_are_one_sentence_with_the_file(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(ValueError) as error:
        read_descriptions(path)
    assert message in str(error.value) and str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no\.json does not exist: pass a file with descriptions"):
        read_descriptions(tmp_path / "no.json")
    with pytest.raises(ValueError, match="is a folder: pass a file with descriptions"):
        read_descriptions(tmp_path)
    path = written(tmp_path, '{"cat": ["é"]}', "latin-1")
    with pytest.raises(ValueError, match="is not UTF-8: byte 10 is 0xe9"):
        read_descriptions(path)
    path = written(tmp_path, CUPL)
    monkeypatch.setattr(input_files, "LARGEST_FILE", path.stat().st_size)
    assert read_descriptions(path) == CUPL
    monkeypatch.setattr(input_files, "LARGEST_FILE", path.stat().st_size - 1)
    with pytest.raises(ValueError, match="MiB, more than the 0 that are read"):
        read_descriptions(path)


def test_templates_are_read(tmp_path):
    assert read_templates(written(tmp_path, ["a {}.", "the {} and {}"])) == ("a {}.", "the {} and {}")
    for content, message in [
        (CUPL, "holds an object, not a list"),
        ([], "must have at least one template"),
        (["a cat"], "'a cat' has no {} for the name"),
        (["a {name}"], "has no {} for the name"),
        (["a {}", 3], "must be texts, got 3"),
    ]:
        with pytest.raises(ValueError) as error:
            read_templates(written(tmp_path, content))
        assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_the_order_is_that_of_the_labels_and_underscores_are_spaces():
    texts = texts_of_labels(["cloud", "wooden_box"], CUPL | {"tile": ["flat"]}, "cupl")
    assert texts.names == ("cloud", "wooden box") and texts.texts == (
        ("Weiß und weich.",),
        ("A box.", "A box.", " It has planks. "),
    )
    assert texts.anchors == ("a photo of a cloud.", "a photo of a wooden box.") and texts.unused == ("tile",)
    assert texts_of_labels(["red ball"], {"red_ball": ["round"]}).texts == (("round",),)


def test_missing_labels_are_named_with_what_may_be_meant():
    with pytest.raises(ValueError) as error:
        texts_of_labels(["cloud", "Wooden-Box", "striped tile"], CUPL | {"stripped tile": ["a"]})
    assert str(error.value) == (
        "`descriptions` lack 2 of 3 labels: 'Wooden-Box' (but there is 'wooden box'), 'striped tile' (but there is "
        "'stripped tile'). Add them, or write names on both sides alike."
    )
    with pytest.raises(ValueError, match=r"lack 9 of 9 labels: 'a', 'b', 'c', 'd', 'e' and 4 more\. Add them"):
        texts_of_labels(list("abcdefghi"), CUPL)
    with pytest.raises(ValueError, match="lack 1 of 1 label: 'dog'. Add it"):
        texts_of_labels(["dog"], CUPL)


@pytest.mark.parametrize(
    ("phrase", "joined"),
    [
        ("a toy", "which is a toy"),
        ("alternating bands", "which is alternating bands"),
        ("used in games", "which is used in games"),
        ("has no corners", "which has no corners"),
        ("hasty strokes", "which hasty strokes"),
        ("often white", "which often white"),
        ("typically red", "which typically red"),
        ("may be wet", "which may be wet"),
        ("can roll", "which can roll"),
        ("two colours", "which has two colours"),
        ("A toy", "which has A toy"),
        ("usually red", "which has usually red"),
    ],
)
def test_phrases_are_joined_as_dclip_does(phrase, joined):
    assert dclip_text("ball", phrase) == f"ball, {joined}"


def test_templates_of_methods():
    assert texts_of_labels(["cat"], method="template").texts == (("a photo of a cat.",),)
    one = texts_of_labels(["cat"], method="template", templates=["This is a photo of {}."])
    assert one.texts == (("This is a photo of cat.",),) and one.anchors == ("a photo of a cat.",)
    assert len(set(GENERIC_TEMPLATES)) == len(GENERIC_TEMPLATES) > 1
    for method in ("ensemble", "wca"):
        texts = texts_of_labels(["red_ball"], method=method).texts
        assert texts == (tuple(template.replace("{}", "red ball") for template in GENERIC_TEMPLATES),)
        assert texts_of_labels(["cat"], method=method, templates=["{} 1", "{} 2"]).texts == (("cat 1", "cat 2"),)
    anchored = texts_of_labels(["cat"], CUPL | {"cat": ["a"]}, anchor_template="the {}")
    assert anchored.anchors == ("the cat",)
    # Names and templates may hold braces.
    assert fill_template("{a} {}", "{}b") == "{a} {}b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "clip"}, "`method` must be one of 'template', 'ensemble', 'dclip', 'waffle', 'cupl', 'wca'"),
        ({"method": None}, "`method` must be one of"),
        ({"method": "cupl"}, "Method 'cupl' needs `descriptions`"),
        ({"method": "dclip"}, "Method 'dclip' needs `descriptions`"),
        ({"method": "template", "descriptions": CUPL}, "Method 'template' uses no `descriptions`"),
        ({"method": "waffle", "descriptions": CUPL}, "Method 'waffle' uses no `descriptions`"),
        ({"method": "waffle", "templates": ["{}"]}, "Method 'waffle' uses no `templates`"),
        ({"method": "cupl", "descriptions": CUPL, "templates": ["{}"]}, "Method 'cupl' uses no `templates`"),
        ({"method": "wca", "descriptions": CUPL, "templates": ["{}"]}, "`templates` are for labels without"),
        ({"method": "template", "templates": ["{}", "a {}"]}, "has one template, got 2"),
        ({"method": "ensemble", "templates": "a {}"}, "`templates` must be a list of texts"),
        ({"anchor_template": "a photo"}, "`anchor_template`: 'a photo' has no {}"),
        ({"descriptions": ["a"]}, "`descriptions` holds a list, not an object"),
        ({"descriptions": {"cloud": "white"}}, "the value of 'cloud' is a text ('white')"),
        ({"labels": []}, "`labels` must have at least one label"),
        ({"labels": "cat"}, "`labels` must be a list of texts"),
        ({"labels": ["cat", "cat"]}, "'cat' appears twice"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        texts_of_labels(**({"labels": ["cloud"]} | arguments))
    assert message in str(error.value)


def test_waffle_texts_are_one_random_set_for_all_labels():
    cat, dog = waffle_texts(["cat", "hot dog"], seed=3)
    assert len(cat) == len(set(cat)) == TEXT_COUNT == 30
    endings = [text.removeprefix("a photo of a cat, which has ") for text in cat]
    assert [f"a photo of a hot dog, which has {ending}" for ending in endings] == list(dog)
    words = [set(ending.rstrip(".").split()) <= set(WORDS) for ending in endings]
    assert words == [True] * 15 + [False] * 15
    assert waffle_texts(["cat"], seed=3)[0] == cat == texts_of_labels(["cat"], method="waffle", seed=3).texts[0]
    assert not set(waffle_texts(["cat"], seed=4)[0]) & set(cat)
    # A word of a label would speak for it.
    every_other = list(WORDS[::2])
    drawn = {word for text in waffle_texts([" ".join(every_other)])[0][:15] for word in text.split()[-2:]}
    assert not {word.rstrip(".") for word in drawn} & set(every_other)


def test_methods_are_the_rows_of_the_table():
    assert list(METHODS) == ["template", "ensemble", "dclip", "waffle", "cupl", "wca"]
    assert [method.name for method in METHODS.values() if method.pools_views or method.weighs_texts] == ["wca"]
    assert [method.name for method in METHODS.values() if method.needs_descriptions] == ["dclip", "cupl"]
    assert [method.name for method in METHODS.values() if method.uses_templates] == ["template", "ensemble", "wca"]
    own = Method("own", "templates", weighs_texts=False, pools_views=True, title="ours")
    assert method_of(own) is own and texts_of_labels(["cat"], method=own, templates=[DEFAULT_TEMPLATE]).texts
    with pytest.raises(TypeError):
        METHODS["own"] = own


def test_checked_descriptions_are_a_copy():
    checked = check_descriptions(CUPL)
    checked["cloud"].append("x")
    assert CUPL["cloud"] == ["Weiß und weich."]


SENTENCES = {"cat": ["A cat has whiskers.", "It is furry.", "whiskers"]}
PHRASES = {"cat": ["whiskers", "a long tail"]}


@pytest.mark.parametrize(
    ("method", "descriptions", "warning"),
    [
        (
            "dclip",
            SENTENCES,
            "2 of 3 descriptions are whole sentences such as 'A cat has whiskers.': pass a file of DCLIP",
        ),
        ("cupl", PHRASES, "none of 2 ends as a sentence does ('whiskers'): if they are phrases of DCLIP"),
        ("wca", PHRASES, "put names before them with `label_texts.joined_phrases`"),
        ("dclip", PHRASES, None),
        ("dclip", {"cat": ["A cat has whiskers.", "whiskers"]}, None),
        ("cupl", SENTENCES, None),
        ("wca", joined_phrases(PHRASES), None),
        ("wca", {"cat": ["它很高。"]}, None),
    ],
)
def test_a_file_of_the_other_format_is_warned_of(method, descriptions, warning, caplog):
    label_texts.warn_once.cache_clear()
    for _ in range(2):
        texts_of_labels(["cat"], descriptions, method)
    assert [warning in record.getMessage() for record in caplog.records] == ([] if warning is None else [True])


def test_phrases_become_descriptions_of_wca():
    joined = joined_phrases({"red_ball": ["no corners"], "cat": ["a tail"]})
    assert texts_of_labels(["red_ball"], joined).texts == (("red ball, which has no corners",),)
    assert joined["cat"] == ["cat, which is a tail"]
