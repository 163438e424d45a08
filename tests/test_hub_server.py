"""The Hub on this machine answers `huggingface_hub` as the Hub does: revisions, errors, permissions, all types."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .hub_repository import Account
from .hub_server import TOKEN, LoopbackHub

REPO = "me/thing"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with LoopbackHub(user="me", organizations=("team",)) as hub:
        hub.accounts["hf_other"] = Account("other")
        hub.accounts["hf_reads"] = Account("me", role="read")
        yield hub


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=TOKEN)


def others(hub, token: str | bool = "hf_other") -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def upload(api: HfApi, content: str, path: str = "notes.txt", **options):
    return api.upload_file(path_or_fileobj=content.encode(), path_in_repo=path, repo_id=REPO, **options)


@pytest.mark.parametrize(
    ("repo_type", "options"), [("model", {}), ("dataset", {}), ("space", {"space_sdk": "gradio"}), ("kernel", {})]
)
def test_each_type_of_repository_is_created_filled_and_read(hub, api, tmp_path, repo_type, options):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags:\n- red\n---\n# Card\n")
    (folder / "sub" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    url = api.create_repo(REPO, repo_type=repo_type, **options)
    assert url == f"{hub.url}/{'' if repo_type == 'model' else repo_type + 's/'}{REPO}"
    commit = api.upload_folder(repo_id=REPO, folder_path=folder, repo_type=repo_type)
    info = api.repo_info(REPO, repo_type=repo_type)
    assert (info.sha, info.private) == (commit.oid, False)
    read = api.snapshot_download(REPO, repo_type=repo_type, cache_dir=tmp_path / "cache")
    assert Path(read, "sub", "model.safetensors").read_bytes() == bytes(range(256)) * 40
    assert hub.files(REPO, repo_type)["README.md"].startswith(b"---\ntags")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO, repo_type=repo_type, **options)
    api.create_repo(REPO, repo_type=repo_type, exist_ok=True, **options)
    assert "README.md" in hub.files(REPO, repo_type), "creating it again changes nothing"
    api.delete_repo(REPO, repo_type=repo_type)
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info(REPO, repo_type=repo_type)


def test_every_revision_has_its_own_files(hub, api, tmp_path):
    api.create_repo(REPO)
    first = upload(api, "one")
    api.create_tag(REPO, tag="v1.0")
    api.create_branch(REPO, branch="feature/next")
    second = upload(api, "two")
    upload(api, "three", revision="feature/next")
    expected = {"v1.0": "one", first.oid: "one", "main": "two", second.oid: "two", "feature/next": "three"}
    for revision, text in expected.items():
        path = api.hf_hub_download(REPO, "notes.txt", revision=revision, cache_dir=tmp_path)
        with open(path) as file:
            assert file.read() == text, revision
    assert [commit.title for commit in api.list_repo_commits(REPO)][-1] == "initial commit"
    assert [commit.commit_id for commit in api.list_repo_commits(REPO)][:2] == [second.oid, first.oid]
    refs = api.list_repo_refs(REPO)
    assert {branch.name: branch.target_commit for branch in refs.branches}["main"] == second.oid
    assert {tag.name: tag.target_commit for tag in refs.tags} == {"v1.0": first.oid}
    api.delete_tag(REPO, tag="v1.0")
    api.delete_branch(REPO, branch="feature/next")
    for revision in ("v1.0", "feature/next", first.oid[:7], "nowhere"):
        with pytest.raises(RevisionNotFoundError):
            api.hf_hub_download(REPO, "notes.txt", revision=revision, cache_dir=tmp_path, force_download=True)


def test_writing_to_what_is_not_a_branch(api):
    api.create_repo(REPO)
    api.create_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        upload(api, "text", revision="nowhere")
    with pytest.raises(RevisionNotFoundError):
        upload(api, "text", revision="v1")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")
    api.create_tag(REPO, tag="v1", exist_ok=True)
    with pytest.raises(BadRequestError):
        api.create_tag(REPO, tag="no spaces")


def test_a_pull_request_leaves_main_alone(hub, api):
    api.create_repo(REPO)
    before = api.repo_info(REPO).sha
    commit = upload(others(hub), "proposal", create_pr=True)
    assert (commit.pr_url, commit.pr_revision) == (f"{hub.url}/{REPO}/discussions/1", "refs/pr/1")
    assert api.repo_info(REPO).sha == before
    assert hub.files(REPO, revision="refs/pr/1")["notes.txt"] == b"proposal"
    assert [ref.ref for ref in api.list_repo_refs(REPO, include_pull_requests=True).pull_requests] == ["refs/pr/1"]


def test_a_commit_on_an_old_parent_is_refused_and_an_unchanged_file_is_not_sent(hub, api):
    api.create_repo(REPO)
    parent = upload(api, "one").oid
    upload(api, "two")
    with pytest.raises(HfHubHTTPError, match="412"):
        upload(api, "three", parent_commit=parent)
    weights = CommitOperationAdd("model.safetensors", b"w" * 5000)
    api.create_commit(REPO, [weights], commit_message="weights")
    count = len(hub.requests)
    again = CommitOperationAdd("model.safetensors", b"w" * 5000)
    api.create_commit(REPO, [again], commit_message="weights")
    assert not [
        request for request in hub.requests[count:] if "/commit/" in request or request.startswith("PUT /objects/")
    ]


def test_private_repositories_are_hidden_and_settings_open_them(hub, api, tmp_path):
    api.create_repo(REPO, private=True)
    upload(api, "secret")
    for token in ("hf_other", False):
        with pytest.raises(RepositoryNotFoundError):
            others(hub, token).hf_hub_download(REPO, "notes.txt", cache_dir=tmp_path)
        assert not list(others(hub, token).list_models(author="me"))
    assert [model.id for model in api.list_models(author="me")] == [REPO]
    api.update_repo_settings(REPO, private=False)
    assert others(hub, False).hf_hub_download(REPO, "notes.txt", cache_dir=tmp_path)


def test_gated_repositories_admit_some(hub, api, tmp_path):
    api.create_repo(REPO)
    upload(api, "weights")
    api.update_repo_settings(REPO, gated="manual")
    for token, status in (("hf_other", 403), (False, 401)):
        with pytest.raises(GatedRepoError) as error:
            others(hub, token).hf_hub_download(REPO, "notes.txt", cache_dir=tmp_path)
        assert error.value.response.status_code == status
    assert others(hub).repo_info(REPO).gated == "manual", "that it exists is public"
    hub.repos["model", REPO].admitted.add("other")
    assert others(hub).hf_hub_download(REPO, "notes.txt", cache_dir=tmp_path)
    others(hub).auth_check(REPO)


def test_tokens(hub, api):
    assert api.whoami()["name"] == "me" and [org["name"] for org in api.whoami()["orgs"]] == ["team"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        others(hub, "hf_unknown").whoami()
    for name in ("hf_other", "hf_reads"):
        with pytest.raises(HfHubHTTPError, match="403"):
            others(hub, name).create_repo(REPO)
    api.create_repo("team/thing")
    api.create_repo(REPO)
    with pytest.raises(HfHubHTTPError, match="403"):
        upload(others(hub), "text")
    with pytest.raises(HfHubHTTPError, match="403"):
        others(hub, "hf_reads").create_tag(REPO, tag="v1")


def test_what_is_not_there(api, tmp_path):
    api.create_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("me/nothing", "notes.txt", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info(REPO, repo_type="dataset")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "notes.txt", cache_dir=tmp_path)


def test_models_are_listed_by_author_name_and_tag(api):
    for name in ("me/red", "me/blue", "team/red"):
        api.create_repo(name)
    api.upload_file(path_or_fileobj=b"---\ntags:\n- hot\n---\n", path_in_repo="README.md", repo_id="me/red")
    assert [model.id for model in api.list_models(author="me")] == ["me/blue", "me/red"]
    assert [model.id for model in api.list_models(search="RED")] == ["me/red", "team/red"]
    assert [model.id for model in api.list_models(filter="hot")] == ["me/red"]
    assert not list(api.list_datasets())
