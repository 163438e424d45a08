"""What goes up of a Space and of a metric, which the Hub keeps as a Space."""

from pathlib import Path

import pytest
from huggingface_hub import RepoCard

from transformers_groma import __version__
from transformers_groma.publishing.metric_contents import metric_contents
from transformers_groma.publishing.space_contents import app_space_contents, space_contents, space_sdk

REPOSITORY = Path(__file__).parents[2]
SPACE = REPOSITORY / "hub_configs" / "space"
CARD = "---\ntitle: Mine\nsdk: gradio\n---\n"


def test_our_app_for_a_model():
    contents = app_space_contents(SPACE, 'org/groma-"7b"')
    assert contents.repo_type == "space" and set(contents.files) == {"README.md", "app.py", "requirements.txt"}
    app = contents.files["app.py"].decode()
    assert 'MODEL = "org/groma-\\"7b\\""\n' in app
    assert app.replace('MODEL = "org/groma-\\"7b\\""', 'MODEL = ""') == (SPACE / "app.py").read_text()
    assert contents.files["requirements.txt"].decode() == f"transformers-groma[app]=={__version__}\n"
    card = RepoCard(contents.files["README.md"].decode())
    own = RepoCard((SPACE / "README.md").read_text())
    assert card.data["models"] == ['org/groma-"7b"'] and card.data["title"] == 'groma-"7b"'
    for name in ("sdk", "sdk_version", "app_file", "license", "python_version"):
        assert card.data[name] == own.data[name]
    assert card.text == own.text


def test_a_space_of_your_own_without_hidden_files_and_caches(tmp_path):
    for name in (
        *("README.md", "app.py", "static/a.css", "examples/a.png"),
        *(".env", ".git/config", "static/.DS_Store", "__pycache__/app.pyc", "old.pyc", "venv/bin/python"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CARD)
    contents = space_contents(tmp_path)
    assert set(contents.files) == {"README.md", "app.py", "static/a.css", "examples/a.png"}
    assert set(contents.left_out) == {".env", ".git", "__pycache__", "old.pyc", "venv"}


def test_a_link_out_of_the_space_is_refused(tmp_path):
    (tmp_path / "key.pem").write_text("secret")
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "README.md").write_text(CARD)
    (tmp_path / "space" / "notes.txt").symlink_to(tmp_path / "key.pem")
    with pytest.raises(ValueError, match=r"notes\.txt is a link that leads out of"):
        space_contents(tmp_path / "space")


def test_a_space_needs_its_metadata(tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError, match=r"README\.md has no metadata of a Space"):
        space_contents(tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in (REPOSITORY / "metrics").iterdir()))
def test_metrics_of_this_repository(name):
    folder = REPOSITORY / "metrics" / name
    contents = metric_contents(folder, f"org/{name}")
    assert contents.repo_type == "space" and set(contents.files) == {"README.md", f"{name}.py"}
    card = contents.files["README.md"].decode()
    assert f'evaluate.load("org/{name}")' in card and "your-name" not in card
    assert contents.left_out in ((), ("__pycache__",))


def metric(folder: Path, card: str = CARD) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text(card)
    (folder / f"{folder.name}.py").write_text("")
    return folder


def test_scripts_beside_that_of_the_metric(tmp_path):
    folder = metric(tmp_path / "mine")
    for name in ("helper.py", "requirements.txt", "notes.txt"):
        (folder / name).write_text("")
    contents = metric_contents(folder, "org/mine")
    assert set(contents.files) == {"README.md", "mine.py", "helper.py", "requirements.txt"}
    assert contents.left_out == ("notes.txt",)


def test_a_metric_has_the_name_of_its_space(tmp_path):
    with pytest.raises(ValueError, match=r"another script than mine\.py\. Push to org/mine, or rename"):
        metric_contents(metric(tmp_path / "mine"), "org/accuracy")
    (tmp_path / "mine" / "mine.py").unlink()
    with pytest.raises(ValueError, match=r"has no mine\.py"):
        metric_contents(tmp_path / "mine", "org/mine")


def test_a_metric_needs_metadata(tmp_path):
    with pytest.raises(ValueError, match="has no metadata of a Space"):
        metric_contents(metric(tmp_path / "mine", "# Mine"), "org/mine")


def test_a_space_runs_on_what_the_hub_has(tmp_path):
    assert (
        space_sdk(metric_contents(metric(tmp_path / "mine", CARD.replace("gradio", "static")), "org/mine")) == "static"
    )
    with pytest.raises(ValueError, match="`sdk: flash`, and the Hub runs gradio, static"):
        space_sdk(metric_contents(metric(tmp_path / "other", CARD.replace("gradio", "flash")), "org/other"))
