"""Nothing that opens somebody's account goes up."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transformers_groma.publishing.contents import Contents
from transformers_groma.publishing.secrets import check_no_secrets

# In parts, so that scanners of this repository find none.
SECRETS = {
    "a token of Hugging Face": "hf" + "_" + "aB" * 17,
    "a token of GitHub": "ghp" + "_" + "a1" * 18,
    "a key of a language model's service": "sk" + "-proj-" + "a1" * 20,
    "a key of AWS": "AKIA" + "A1" * 8,
    "a private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
}


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_named_and_not_repeated(tmp_path, what):
    path = tmp_path / "config.json"
    path.write_text(f'{{\n  "key": "{SECRETS[what]}"\n}}\n')
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match=f"config.json holds {what}, in line 2. Remove it there") as error:
            check_no_secrets(Contents("model", {"README.md": b"# Mine", "config.json": source}))
        assert SECRETS[what] not in str(error.value)


@pytest.mark.parametrize("what", SECRETS)
def test_texts_of_datasets_are_searched_in_all_columns(tmp_path, what):
    said = f"my key is {SECRETS[what]}"
    for rows in (
        {"text": ["a", said]},
        {"turns": [[{"role": "user", "content": said}]]},
        {"tags": [None, ["a", said]]},
    ):
        pq.write_table(pa.table({"id": [*range(len(next(iter(rows.values()))))], **rows}), tmp_path / "rows")
        with pytest.raises(
            ValueError, match=f"train.parquet holds {what}, in its column '{next(iter(rows))}'"
        ) as error:
            check_no_secrets(Contents("dataset", {"train.parquet": tmp_path / "rows"}))
        assert SECRETS[what] not in str(error.value)
    pq.write_table(pa.table({"text": ["hf_token, sk-learn"], "image": [said.encode()]}), tmp_path / "rows")
    check_no_secrets(Contents("dataset", {"train.parquet": tmp_path / "rows"}))


def test_words_that_only_look_like_it(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + SECRETS["a key of AWS"].encode())
    text = b"hf_hub_download, hf_token=hf_..., sk-learn, risk-averse, AKIA, ghp_, a PRIVATE KEY, shf_" + b"a" * 40
    check_no_secrets(Contents("model", {"README.md": text, "model.safetensors": tmp_path / "model.safetensors"}))
