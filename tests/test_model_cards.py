"""Model cards: fields are filled in, foreign names cannot break them, and template mistakes raise."""

from pathlib import Path

import jinja2
import pytest
import yaml
from huggingface_hub import ModelCard

import transformers_groma
from transformers_groma.model_cards import fill_card

PACKAGE = Path(transformers_groma.__file__).parent
HOSTILE = 'a"b: [c]\n---\n# {{ d }} | <e> `f`'


@pytest.fixture
def template(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "card.md").write_text(text, encoding="utf-8")
        return tmp_path / "card.md"

    return write


def test_names_of_others_stay_names(template):
    path = template(
        "---\nlicense: mit\nbase_model: {{ name | as_yaml }}\n---\n\n# {{ name | as_text }}\n\n"
        "{{ name | as_code }}\n\n```python\n{{ name | as_python }}\n```\n"
    )
    text = fill_card(path, name=HOSTILE)
    _, metadata, body = text.split("---\n", 2)
    assert yaml.safe_load(metadata) == {"license": "mit", "base_model": HOSTILE}
    heading, code, fence, literal, end = filter(None, body.splitlines())
    assert heading.startswith('# a"b: ') and "<e>" not in heading
    assert code.startswith("``") and fence == "```python" and end == "```"
    assert eval(literal) == HOSTILE


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("org/groma-7b", "org/groma-7b"),
        ("no", "'no'"),
        ("a: b", "'a: b'"),
        ("a\nb", '"a\\nb"'),
        ("org/模型", "org/模型"),
    ],
)
def test_names_in_the_metadata_have_quotes_where_yaml_needs_them(template, name, written):
    text = fill_card(template("---\nbase_model: {{ name | as_yaml }}\n---\n# a\n"), name=name)
    assert text.splitlines()[1] == f"base_model: {written}"
    assert ModelCard(text).data.to_dict() == {"base_model": name}


def test_lines_of_statements_leave_no_trace(template):
    text = fill_card(template("---\nlicense: mit\n---\n  {% if yes %}\nyes\n  {% endif %}\n\nend\n"), yes=True)
    assert text == "---\nlicense: mit\n---\nyes\n\nend\n"


def test_mistakes_are_errors(template):
    with pytest.raises(jinja2.UndefinedError, match="'nmae' is undefined"):
        fill_card(template("---\nlicense: mit\n---\n# {{ nmae }}\n"), name="a")
    with pytest.raises(yaml.YAMLError):
        fill_card(template("---\nlicense: [\n---\n# a\n"))


@pytest.mark.parametrize("name", ["model_card.md", "evaluation/reports/empty_card.md"])
def test_templates_are_in_the_package(name):
    assert (PACKAGE / name).is_file()


def test_an_empty_card_is_a_card():
    card = ModelCard(fill_card(PACKAGE / "evaluation" / "reports" / "empty_card.md", name="my_model"))
    assert card.data.to_dict() == {"library_name": "transformers", "tags": ["groma"]}
    assert card.text.strip() == "# my_model"
