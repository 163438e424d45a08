"""Pushing contents: one commit, branches, tags, pull requests, and errors that come before anything is sent."""

import re

import pytest
from huggingface_hub import HfApi, constants

from transformers_groma.hub_errors import HubError
from transformers_groma.publishing.contents import Contents
from transformers_groma.publishing.upload import Destination, check_destination, upload

from ..hub_client import use_hub
from ..hub_repository import Account
from ..hub_server import TOKEN, LoopbackHub, _Handler

REPO = "me/thing"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(user="me", organizations=("team",)) as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        hub.accounts["hf_other"] = Account("other")
        hub.accounts["hf_reads"] = Account("me", role="read")
        yield hub


@pytest.fixture
def contents(tmp_path) -> Contents:
    (tmp_path / "weights").write_bytes(b"w" * 3000)
    files = {"README.md": b"# A card", "a/b.json": b"{}", "model.safetensors": tmp_path / "weights"}
    return Contents("model", files, replaces=("*.safetensors",))


def push(contents: Contents, repo_id: str = REPO, **options):
    to = Destination(repo_id, **options)
    check_destination(contents, to)
    return upload(contents, to, progress=False)


def test_one_commit_with_the_files_and_nothing_else(hub, contents):
    pushed = push(contents, message="First")
    assert (pushed.url, pushed.revision) == (f"{hub.url}/{REPO}", None)
    files = hub.files(REPO)
    assert {*files} == {"README.md", "a/b.json", "model.safetensors", ".gitattributes"}
    assert files["model.safetensors"] == b"w" * 3000
    assert [commit.title for commit in hub.repos["model", REPO].commits.values()] == ["initial commit", "First"]
    assert hub.repos["model", REPO].at("main").sha == pushed.commit


def test_weights_of_the_push_before_are_replaced_and_other_files_stay(hub, contents):
    push(Contents("model", {"model-00001-of-00002.safetensors": b"1", "notes.md": b"n"}))
    push(contents)
    assert {*hub.files(REPO)} == {"README.md", "a/b.json", "model.safetensors", "notes.md", ".gitattributes"}


def test_an_interrupted_push_sends_only_what_is_missing(hub, contents):
    push(contents)
    count = len(hub.requests)
    push(Contents("model", {**contents.files, "README.md": b"# Another"}))
    assert not [request for request in hub.requests[count:] if request.startswith("PUT /objects/")]
    assert hub.files(REPO)["README.md"] == b"# Another"


def test_a_cut_upload_is_a_sentence_and_the_next_push_completes_it(hub, contents, monkeypatch):
    whole = _Handler._body

    def cut(handler: _Handler) -> bytes:
        if not handler.path.startswith("/objects/"):
            return whole(handler)
        handler.rfile.read(1000)
        handler.connection.close()
        raise ConnectionResetError

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(hub._server, "handle_error", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(_Handler, "_body", cut)
        with pytest.raises(
            HubError, match=r"cannot be reached \(.*then push again; what has arrived is not sent twice"
        ):
            push(contents)
    assert {*hub.files(REPO)} == {".gitattributes"}
    push(contents)
    assert hub.files(REPO)["model.safetensors"] == b"w" * 3000


def test_of_two_pushes_at_once_one_is_refused(hub, contents, monkeypatch):
    """Otherwise the weights of both would stay."""
    upload_folder = HfApi.upload_folder
    other = Contents("model", {"model-00001-of-00001.safetensors": b"1"}, replaces=("*.safetensors",))

    def after_another(api: HfApi, **options):
        monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
        push(other)
        return upload_folder(api, **options)

    push(contents)
    monkeypatch.setattr(HfApi, "upload_folder", after_another)
    with pytest.raises(HubError, match="somebody else pushed to the model me/thing at the same time, .* push again"):
        push(contents)
    assert {name for name in hub.files(REPO) if name.endswith(".safetensors")} == {*other.files}
    push(contents)
    assert {name for name in hub.files(REPO) if name.endswith(".safetensors")} == {"model.safetensors"}


def test_branch_and_tag(hub, contents):
    push(Contents("model", {"README.md": b"# Old"}))
    pushed = push(contents, branch="next", tag="v2")
    assert (pushed.url, pushed.revision) == (f"{hub.url}/{REPO}/tree/v2", "v2")
    assert hub.files(REPO)["README.md"] == b"# Old"
    assert hub.files(REPO, revision="next") == hub.files(REPO, revision="v2")
    assert hub.files(REPO, revision="v2")["README.md"] == b"# A card"
    with pytest.raises(HubError, match="has a tag 'v2' already"):
        push(contents, tag="v2")
    with pytest.raises(HubError, match="'v2' is a tag of me/thing"):
        push(contents, branch="v2")


def test_a_branch_beside_main(hub):
    """Kernels are found on a branch of their version."""
    push(Contents("kernel", {"build.toml": b""}, branch="v1"))
    assert "build.toml" in hub.files(REPO, "kernel") and "build.toml" in hub.files(REPO, "kernel", "v1")


def test_a_pull_request_to_the_repository_of_others(hub, contents, monkeypatch):
    push(contents)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    pushed = push(Contents("model", {"README.md": b"# Better"}), create_pr=True)
    assert (pushed.url, pushed.revision) == (f"{hub.url}/{REPO}/discussions/1", "refs/pr/1")
    assert hub.files(REPO)["README.md"] == b"# A card"
    assert hub.files(REPO, revision="refs/pr/1")["README.md"] == b"# Better"
    with pytest.raises(HubError, match="there is no model 'me/none' to open a pull request in"):
        push(contents, "me/none", create_pr=True)


def test_private_and_organizations(hub, contents):
    push(contents, "team/thing", private=True)
    assert hub.repos["model", "team/thing"].private
    push(contents)
    assert not hub.repos["model", REPO].private
    with pytest.raises(HubError, match=re.escape(f"exists and is public: make it private in {hub.url}/{REPO}/setti")):
        push(contents, private=True)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "without a token: log in with `hf auth login`"),
        ("hf_reads", "the token 'loopback' of me only reads"),
        ("hf_unknown", "the Hub does not know your token, log in with"),
        ("hf_other", "other, the account of your token, may not push to 'me': push to other/…, or open a pull"),
    ],
)
def test_tokens_that_may_not_push(hub, contents, monkeypatch, token, words):
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(HubError, match=words):
        push(contents)
    assert not hub.repos


def test_a_name_that_another_type_has(hub, contents):
    push(Contents("dataset", {"README.md": b""}))
    assert check_destination(contents, Destination(REPO)) == [
        "me/thing is a dataset on the Hub too; the model gets a page of its own"
    ]


def test_no_connection(contents, monkeypatch, tmp_path):
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(HubError, match="cannot be reached .*: check the connection, proxy and HF_ENDPOINT"):
        push(contents)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, so nothing can be pushed"):
        push(contents)


def test_the_hub_refuses_in_the_middle(hub, contents, monkeypatch):
    """A token with rights that `whoami` does not tell, as fine-grained ones."""
    to = Destination(REPO)
    check_destination(contents, to)
    hub.accounts[TOKEN] = Account("me", role="read")
    with pytest.raises(HubError, match="may not write to 'me' on the Hub .*does not have the permission"):
        upload(contents, to, progress=False)


@pytest.mark.parametrize("name", ["thing", "a/b/c", "me/", "me/a b", "me/-a", "me/a--b", "me/a..b", "me/" + "a" * 96])
def test_names_that_the_hub_does_not_take(name):
    with pytest.raises(ValueError, match="is not a name on the Hub|characters, and the Hub takes at most 96"):
        Destination(name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"branch": "a b"}, "--branch 'a b' is not a name for git"),
        ({"tag": "../x"}, "--tag '../x' is not"),
        ({"tag": "v1/"}, "--tag 'v1/' is not"),
        ({"create_pr": True, "tag": "v1"}, "leave out --branch and --tag"),
        ({"create_pr": True, "branch": "next"}, "leave out --branch and --tag"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        Destination(REPO, **options)


@pytest.mark.parametrize("name", ["me/thing.git", "me/thing.ipynb", "me/a\u00fcb"])
def test_names_that_only_the_server_would_refuse(name):
    with pytest.raises(ValueError, match="Hub"):
        Destination(name)


def test_a_tag_is_not_a_branch(hub, contents):
    for options in ({"tag": "main"}, {"tag": "v1", "branch": "v1"}):
        with pytest.raises(ValueError, match="is the name of the branch as well"):
            Destination(REPO, **options)
    with pytest.raises(ValueError, match="--branch 'a{40}' is the hash of a commit"):
        Destination(REPO, branch="a" * 40)
    push(contents, branch="next")
    with pytest.raises(HubError, match="has a branch 'next': pass another name for the tag"):
        push(contents, tag="next")


def test_a_model_that_is_needed_must_be_on_the_hub(hub, contents, tmp_path):
    adapter = Contents("model", contents.files, needs=("org/base",))
    with pytest.raises(HubError, match="there is no model 'org/base' on the Hub"):
        push(adapter)
    assert not hub.repos
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    hub.add_repo("org/base", tmp_path / "base")
    push(adapter)
    assert "model.safetensors" in hub.files(REPO)
