"""The files of a model: known names, shards listed in the index, and no path out of the folder."""

import json
import os
from pathlib import Path

import pytest

from transformers_groma.model_files import (
    INDEX_FILE,
    KNOWN_FILES,
    base_of_adapter,
    checked_file,
    model_files,
    read_json,
    shard_names,
)

STRANGERS = (".env", "optimizer.pt", "training_args.bin", "pytorch_model.bin", "id_rsa", "own.py", "extra.safetensors")


def names(folder: Path) -> list[str]:
    return [path.name for path in model_files(folder)]


def write_index(folder: Path, *shards: object) -> None:
    weight_map = {str(number): shard for number, shard in enumerate(shards)}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


def test_known_files_only(tmp_path):
    for name in (*KNOWN_FILES, *STRANGERS):
        (tmp_path / name).write_text("{}")
    (tmp_path / ".git").mkdir()
    (tmp_path / "checkpoint-5").mkdir()
    write_index(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"x")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert names(tmp_path) == sorted([*KNOWN_FILES, *shards])
    assert shard_names(tmp_path) == shards


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "/key.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "C:key.safetensors",
        ".hidden.safetensors",
        "key.pem",
        "x\0.safetensors",
        "..",
        "",
    ],
)
def test_shards_that_are_not_files_beside_the_index(tmp_path, shard):
    (tmp_path / "good.safetensors").write_bytes(b"x")
    write_index(tmp_path, "good.safetensors", shard)
    with pytest.raises(ValueError, match="names .* which is not a safetensors file beside it"):
        model_files(tmp_path)


def test_indexes_that_cannot_be_read(tmp_path):
    for content, message in (
        ("no", "is not JSON"),
        ("[]", "holds a JSON list, not an object"),
        ("{}", "no `weight_map`"),
        ('{"weight_map": [1]}', "no `weight_map`"),
        ('{"weight_map": {"a": 1}}', "no `weight_map`"),
        ('{"weight_map": {"a": "a.safetensors", "b": null}}', "no `weight_map`"),
        ("[" * 100_000, "is not JSON"),
    ):
        (tmp_path / INDEX_FILE).write_text(content)
        with pytest.raises(ValueError, match=message):
            model_files(tmp_path)
    write_index(tmp_path, "gone.safetensors")
    with pytest.raises(ValueError, match=r"gone\.safetensors is missing or is not a file"):
        model_files(tmp_path)


def test_links(tmp_path):
    """Links within a folder are followed, links out of it refused; the Hub's cache is made of links to its blobs."""
    secret = tmp_path / "secret.txt"
    secret.write_text("key")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "inside").write_text("{}")
    (folder / "config.json").symlink_to("inside")
    assert names(folder) == ["config.json"]
    for target in (secret, "../secret.txt", tmp_path / "model2", "nowhere"):
        link = folder / "README.md"
        link.symlink_to(target)
        with pytest.raises(ValueError, match=r"README\.md is (a link to .* outside of the folder|missing)"):
            model_files(folder)
        link.unlink()

    (folder / ".git").mkdir()
    for target in (".env", ".git/README.md", "optimizer.pt", "README.json"):
        (folder / target).write_text("key")
        link = folder / "README.md"
        link.symlink_to(target)
        with pytest.raises(ValueError, match=r"README\.md is a link to .*, which is not a file of a model"):
            model_files(folder)
        link.unlink()
    (folder / "docs").mkdir()
    (folder / "docs" / "card.md").write_text("card")
    (folder / "README.md").symlink_to("docs/card.md")
    assert names(folder) == ["README.md", "config.json"]

    snapshot = tmp_path / "models--org--m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--org--m" / "blobs"
    blobs.mkdir()
    (blobs / "1").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    assert names(snapshot) == ["config.json"]
    (snapshot / "README.md").symlink_to(secret)
    with pytest.raises(ValueError, match="outside of the folder"):
        model_files(snapshot)


def test_what_is_not_a_file(tmp_path):
    (tmp_path / "config.json").mkdir()
    os.mkfifo(tmp_path / "README.md")
    for name in ("config.json", "README.md"):
        with pytest.raises(ValueError, match="is missing or is not a file"):
            checked_file(tmp_path, name)


def test_json_objects(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not JSON"):
        read_json(tmp_path / "a.json")


def test_the_model_of_an_adapter(tmp_path):
    assert base_of_adapter(tmp_path) is None and base_of_adapter("org/groma-7b") is None
    adapter = tmp_path / "adapter_config.json"
    adapter.write_text('{"base_model_name_or_path": "org/groma-7b"}')
    assert base_of_adapter(tmp_path) == "org/groma-7b"
    for content, message in (("{}", "does not say which model"), ("[]", "holds a JSON list"), ("{", "is not JSON")):
        adapter.write_text(content)
        with pytest.raises(ValueError, match=message):
            base_of_adapter(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # a whole model, whatever lies beside it
    assert base_of_adapter(tmp_path) is None


def test_a_remedy_of_ones_own(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not JSON .*\. Download it again\.$"):
        read_json(tmp_path / "a.json", "Download it again.")
