"""The card that goes up: from the template if there is none, with open fields never."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from transformers_groma import GromaConfig, GromaRegionProposalConfig
from transformers_groma.models.groma.convert_card_groma import write_card
from transformers_groma.publishing.published_card import published_card

REPO = "your-name/groma-mine"
CONFIG = {"vision_config": {"image_size": 448}, "max_regions": 100}


def card_of(folder: Path, text: str | None = None, kind: str = "chat", **options) -> tuple[ModelCard, list[str]]:
    if text is not None:
        (folder / "README.md").write_text(text)
    card, said = published_card(folder, REPO, kind, **options)
    return ModelCard(card), said


@pytest.mark.parametrize("kind", ["chat", "detector", "glamm"])
@pytest.mark.parametrize("has_code", [False, True])
def test_a_folder_without_a_card_gets_one(tmp_path, kind, has_code):
    card, said = card_of(tmp_path, kind=kind, license="mit", has_code=has_code, config=CONFIG)
    for title in ("Data", "Recipe", "Metrics", "Use", "Boxes", "Limits", "License"):
        assert f"\n## {title}\n" in card.text
    assert f'"{REPO}"' in card.text and card.data.license == "mit" and "448x448" in card.text
    assert ("trust_remote_code=True" in card.text) == has_code
    assert said == ["README.md: a card from the template; data, recipe and metrics in it are unknown"]


def test_a_licence_is_needed(tmp_path):
    with pytest.raises(ValueError, match="has no card .* name the licence of the weights with --license"):
        card_of(tmp_path)
    with pytest.raises(ValueError, match="does not say the licence of the weights: name it with --license"):
        card_of(tmp_path, "# Mine\n")


def test_metadata_is_completed_and_text_stays(tmp_path):
    text = "---\nlicense: mit\ntags:\n- mine\ndatasets:\n- org/data\n---\n# Mine\n\nWords.\n"
    card, said = card_of(tmp_path, text)
    assert card.data.to_dict() == {
        "license": "mit",
        "tags": ["mine", "groma", "visual-grounding"],
        "datasets": ["org/data"],
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
    }
    assert card.text.strip() == "# Mine\n\nWords."
    assert said == [
        "README.md: library_name is transformers",
        "README.md: pipeline_tag is image-text-to-text",
        "README.md: tagged groma, visual-grounding",
    ]
    card, _ = card_of(tmp_path, text, license="llama2", base_model="org/base")
    assert (card.data.license, card.data.base_model) == ("llama2", "org/base")


def test_examples_load_the_repository(tmp_path):
    folder = tmp_path / "groma-photos"
    folder.mkdir()
    text = (
        '---\nlicense: mit\n---\n# groma-photos\n\nIt is "groma-photos".\n\n```python\n'
        'pipeline(model="groma-photos"), load("output/groma-photos"), load("org/groma-photos-2")\n```\n'
    )
    card, _ = card_of(folder, text)
    assert f'pipeline(model="{REPO}"), load("{REPO}"), load("org/groma-photos-2")' in card.text
    assert 'It is "groma-photos".' in card.text


@pytest.mark.parametrize(
    "field",
    ["[More Information Needed]", "{{ base_model }}", "{% if x %}", "TODO: data", "<!-- Provide a summary. -->"],
)
def test_open_fields_are_refused(tmp_path, field):
    text = f"---\nlicense: mit\n---\n# Mine\n\n```\n{{{{ code }}}}\n```\n{field}\n"
    with pytest.raises(ValueError, match=r"README\.md, line 9: .* is not filled in"):
        card_of(tmp_path, text)


def test_code_and_citations_may_hold_braces(tmp_path):
    card_of(
        tmp_path,
        "---\nlicense: mit\n---\n# Mine\n\n```bibtex\n@misc{x, title={{Groma}}}\n```\n\nA={{b}}, todo lists.\n",
    )


def test_metadata_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="is not YAML"):
        card_of(tmp_path, "---\nlicense: [\n---\n# Mine\n")


@pytest.mark.parametrize(("model_type", "license"), [("groma", "llama2"), ("groma_region_proposal", "apache-2.0")])
def test_the_card_of_a_conversion_goes_up_complete(tmp_path, model_type, license):
    config = GromaConfig() if model_type == "groma" else GromaRegionProposalConfig()
    write_card(tmp_path, tmp_path.name, config)
    kind = "chat" if model_type == "groma" else "detector"
    card, said = card_of(tmp_path, kind=kind, has_code=True)
    assert said == [f"README.md: its examples load {REPO}"]
    assert card.data.license == license and "groma convert" in card.text and "refine_reference_points" in card.text
    assert "trust_remote_code=True" in card.text and "holds no code" not in card.text
