"""No link of a folder lets out what stays on this machine."""

import pytest

from transformers_groma.publishing.contents import Contents, check_links


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mine"
    (folder / "results").mkdir(parents=True)
    (folder / "README.md").write_text("# Mine")
    (folder / ".env").write_text("secret")
    (tmp_path / "key.pem").write_text("secret")
    return folder


@pytest.mark.parametrize(
    ("target", "words"), [("../../key.pem", "outside of"), ("../.env", "not pushed"), ("/etc/hostname", "outside of")]
)
def test_a_link_to_what_stays_is_refused(folder, target, words):
    (folder / "results" / "a.yaml").symlink_to(target)
    with pytest.raises(ValueError, match=rf"results/a\.yaml is a link to .*, which is {words}.* Put the file itself"):
        check_links(Contents("dataset", {"results/a.yaml": folder / "results" / "a.yaml"}), folder)


def test_a_folder_that_is_a_link_is_refused(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.yaml").write_text("")
    (folder / "more").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="more/a.yaml is a link"):
        check_links(Contents("space", {"more/a.yaml": folder / "more" / "a.yaml"}), folder)


def test_links_to_what_is_pushed_and_into_the_cache_stay(folder, tmp_path, monkeypatch):
    (folder / "LICENSE.md").symlink_to("README.md")
    files = {name: folder / name for name in ("README.md", "LICENSE.md")} | {"made.json": b"{}"}
    check_links(Contents("model", files), folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    check_links(Contents("model", {"README.md": tmp_path / "link" / "README.md"}), tmp_path / "link")

    snapshot = tmp_path / "models--org--x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--x" / "blobs").mkdir()
    (tmp_path / "models--org--x" / "blobs" / "123").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    check_links(Contents("model", {"config.json": snapshot / "config.json"}), snapshot)
