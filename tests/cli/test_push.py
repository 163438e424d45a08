"""`groma push`: the command against a Hub on this machine, and its messages."""

import json
import shutil
from pathlib import Path

import pytest

from ..hub_client import use_hub
from ..hub_server import LoopbackHub

HUB_CONFIGS = Path(__file__).parents[2] / "hub_configs"
REPO = "your-name/groma-mine"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(user="your-name") as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return Path(shutil.copytree(HUB_CONFIGS / "groma-tiny", tmp_path / "work" / "mine"))


def test_a_model_goes_up_and_the_answer_says_where_and_how_to_load_it(run, hub, folder):
    (folder / ".env").write_text("secret")
    code, out, err = run("push", folder, REPO, "--private", "--tag", "v1", "--message", "First")
    assert (code, out) == (0, f"{hub.url}/{REPO}/tree/v1\n")
    assert "not pushed: .env" in err and f"README.md: its examples load {REPO}" in err
    assert f"groma caption photo.jpg --model {REPO} --revision v1" in err
    repo = hub.repos["model", REPO]
    assert repo.private and repo.at("v1").title == "First"
    assert {*repo.at("main").files} == {*(path.name for path in folder.iterdir())} - {".env"} | {".gitattributes"}


def test_a_dry_run_lists_and_sends_nothing(run, hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    code, out, _ = run("push", folder, REPO, "--dry-run", "--remote-code")
    assert code == 0 and not hub.requests
    assert "   6.5 MB  model.safetensors\n" in out and "modeling_groma.py" in out
    assert out.splitlines()[-1].endswith(f"files for the model {REPO}")


def test_a_pull_request(run, hub, folder):
    assert run("push", folder, REPO)[0] == 0
    code, out, err = run("push", folder, REPO, "--create-pr", "--license", "mit")
    assert (code, out) == (0, f"{hub.url}/{REPO}/discussions/1\n") and "--revision refs/pr/1" in err
    assert b"license: mit" in hub.files(REPO, revision="refs/pr/1")["README.md"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}", "mine"], "ORG/NAME: 'mine' is not a name on the Hub"),
        (["no-such", REPO], "DIR 'no-such' is not a folder"),
        (["{folder}/..", REPO], "DIR: {folder}/.. holds nothing that is pushed"),
        (["{folder}", REPO, "--create-pr", "--tag", "v1"], "--create-pr opens a pull request to main"),
        (["", REPO], "argument DIR: it is empty: pass a folder"),
        (["{folder}", REPO, "--license", "My Own"], "--license 'My Own' is not an identifier of the Hub"),
        (["{folder}", "org/mine"], "your-name, the account of your token, may not push to 'org'"),
    ],
)
def test_mistakes_end_in_one_sentence(run, hub, folder, arguments, words):
    code, out, err = run("push", *(argument.format(folder=folder) for argument in arguments))
    errors = [line for line in err.splitlines() if "error: " in line]
    assert (code, out, len(errors)) == (2, "", 1) and words.format(folder=folder) in errors[0]
    assert not hub.repos


def test_a_path_of_this_machine_in_the_card_is_refused(run, hub, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    card = folder / "README.md"
    card.write_text(card.read_text() + f"\nTrained on {folder.parent / 'photos'} alone.\n")
    code, out, err = run("push", folder, REPO)
    assert (code, out) == (2, "") and f"README.md names a folder of this machine, '{folder.parent}/photos'" in err
    assert not hub.requests


def test_nothing_of_this_machine_goes_up(run, hub, folder, tmp_path):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"_name_or_path": str(tmp_path / "base")}))
    assert run("push", folder, REPO, "--remote-code")[0] == 0
    for name, content in hub.files(REPO).items():
        assert str(tmp_path).encode() not in content and str(Path.home()).encode() + b"/" not in content, name


def test_what_must_not_go_up_is_not_sent(run, hub, folder):
    (folder / ".eval_results").mkdir()
    result = folder / ".eval_results" / "rec.yaml"
    result.symlink_to("/etc/hostname")
    assert ".eval_results/rec.yaml is a link to /etc/hostname" in run("push", folder, REPO)[2]
    result.unlink()
    result.write_text("source: /home/arthur/results")
    assert "rec.yaml names a folder of some machine, '/home/arthur/results'" in run("push", folder, REPO)[2]
    result.write_text("token: hf" + "_" + "aB" * 17)
    assert "rec.yaml holds a token of Hugging Face, in line 1" in run("push", folder, REPO)[2]
    assert not hub.repos
