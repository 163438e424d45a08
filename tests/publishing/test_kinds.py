"""What a folder holds is told from its files, and never guessed."""

from pathlib import Path

import pytest

from transformers_groma.publishing.kinds import card_metadata, kind_of

REPOSITORY = Path(__file__).parents[2]
FOLDERS = [
    ("hub_configs/groma-tiny", "model"),
    ("hub_configs/space", "space"),
    *((f"metrics/{path.name}", "metric") for path in sorted((REPOSITORY / "metrics").iterdir())),
    ("kernels/roi-align", "kernel"),
    ("kernels/ms-deform-attn", "kernel"),
]


def make(folder: Path, *names: str, card: str | None = None) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    folder.mkdir(exist_ok=True)
    if card is not None:
        (folder / "README.md").write_text(card)
    return folder


@pytest.mark.parametrize(("folder", "kind"), FOLDERS)
def test_folders_of_this_repository(folder, kind):
    assert kind_of(REPOSITORY / folder) == kind


@pytest.mark.parametrize(
    ("names", "card", "kind"),
    [
        (["adapter_config.json"], None, "model"),
        (["train-00000-of-00001.parquet"], "# Rows", "dataset"),
        (["easy/train.parquet", "hard/train.parquet"], None, "dataset"),
        (["app.py"], "---\nsdk: docker\n---\n", "space"),
        (["mine.py"], "---\nsdk: static\ntags: [metric]\n---\n", "metric"),
    ],
)
def test_folders_of_users(tmp_path, names, card, kind):
    assert kind_of(make(tmp_path / "mine", *names, card=card)) == kind


@pytest.mark.parametrize(
    ("names", "card", "words"),
    [
        ([], None, "holds nothing that is pushed"),
        ([".cache/train.parquet", "app.py"], None, "holds nothing that is pushed"),
        (["mine.py"], "---\ntags: null\n---\n", "holds nothing that is pushed"),
        (["config.json", "train.parquet"], None, "as model or dataset: say which with `--type`"),
        ([], "---\nsdk: [\n---\n", "is not YAML"),
        ([], "---\n- sdk\n---\n", "not a list of `name: value`"),
    ],
)
def test_nothing_and_two_things_are_errors(tmp_path, names, card, words):
    with pytest.raises(ValueError, match=words):
        kind_of(make(tmp_path / "mine", *names, card=card))


def test_a_file_is_not_a_folder(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        kind_of(tmp_path / "none")


@pytest.mark.parametrize("card", [None, "", "# Title\n---\nsdk: gradio\n---\n", "---\nsdk: gradio\n", "---\n---\n"])
def test_cards_without_metadata(tmp_path, card):
    assert card_metadata(make(tmp_path / "mine", card=card)) == {}
