"""Datasets by name, and mixtures of them."""

import re

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PilImage

from transformers_groma.data.columns import CONVERSATION_FEATURES, check_dataset, features_of, text_part
from transformers_groma.data.mixtures import (
    DatasetSpec,
    load_mixture,
    load_rows,
    parse_dataset_spec,
    parse_weighted_spec,
    split_of_file,
)


def rows(name: str, count: int) -> Dataset:
    """Conversations in words, numbered."""
    messages = [{"role": role, "content": [text_part("Hi")]} for role in ("user", "assistant")]
    return Dataset.from_list(
        [
            {"image": None, "image_id": f"{name}{i}", "boxes_xyxy": [], "messages": messages, "source": name}
            for i in range(count)
        ],
        features=CONVERSATION_FEATURES,
    )


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three datasets in the current folder: `a` in shards, `b` in one file with a `validation` split, `c.parquet`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    rows("a", 6).to_parquet("a/train-00000-of-00002.parquet")
    rows("A", 4).to_parquet("a/train-00001-of-00002.parquet")
    rows("x", 3).to_parquet("a/train_extra.parquet")
    rows("b", 20).to_parquet("b/train.parquet")
    rows("v", 5).to_parquet("b/validation.parquet")
    rows("tA", 2).to_parquet("b/testA-00000-of-00001.parquet")
    rows("tB", 3).to_parquet("b/testB-00000-of-00001.parquet")
    rows("c", 7).to_parquet("c.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/vg", ("data/vg", "train", 1.0)),
        ("data/vg:0.2", ("data/vg", "train", 0.2)),
        ("data/vg:1", ("data/vg", "train", 1.0)),
        ("data/vg:1e-2", ("data/vg", "train", 0.01)),
        ("data/vg@validation", ("data/vg", "validation", 1.0)),
        ("org/name@test.A:.5", ("org/name", "test.A", 0.5)),
        ("/data/refcoco+", ("/data/refcoco+", "train", 1.0)),
        ("C:/data/vg:0.5", ("C:/data/vg", "train", 0.5)),
        ("C:\\data\\vg", ("C:\\data\\vg", "train", 1.0)),
        ("data@home/vg", ("data@home/vg", "train", 1.0)),
    ],
)
def test_specs(text, expected):
    assert parse_dataset_spec(text) == DatasetSpec(*expected)


@pytest.mark.parametrize(
    "text", ["", "data/vg:", "data/vg:half", "data/vg:0,5", "data/vg@", "data/vg@a b", "data/vg:nan"]
)
def test_what_is_not_a_spec(text):
    with pytest.raises(ValueError, match=f"^{re.escape(repr(text))} is not a dataset: write PATH"):
        parse_dataset_spec(text)


@pytest.mark.parametrize("ratio", ["0", "-0.5", "1.5", "inf"])
def test_bad_ratio(ratio):
    with pytest.raises(ValueError, match=f"ratio of 'data/vg:{ratio}' must be above 0 and at most 1, got {ratio}"):
        parse_dataset_spec(f"data/vg:{ratio}")


def test_default_split():
    assert parse_dataset_spec("data/vg", "validation").split == "validation"
    assert parse_dataset_spec("data/vg@train", "validation").split == "train"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.parquet", "train"),
        ("train-00000-of-00002.parquet", "train"),
        ("train-00000-of-00002-4f2a.parquet", "train"),
        ("train-3.parquet", "train"),
        ("val-unseen-00000-of-00001.parquet", "val-unseen"),
        ("test.dev.parquet", "test.dev"),
    ],
)
def test_split_of_file(name, split):
    assert split_of_file(name) == split


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("a", [*(f"a{i}" for i in range(6)), *(f"A{i}" for i in range(4))]),
        ("a@train_extra", ["x0", "x1", "x2"]),
        ("b@validation", [f"v{i}" for i in range(5)]),
        ("b@testA", ["tA0", "tA1"]),
        ("c.parquet", [f"c{i}" for i in range(7)]),
    ],
)
def test_rows_of_a_split(data, spec, names):
    """All its shards in order, and no other split whose name begins alike."""
    assert load_rows(parse_dataset_spec(spec))["image_id"][:] == names


def test_missing_split(data):
    with pytest.raises(
        FileNotFoundError, match="b has no files test-.*splits found: testA, testB, train, validation. Name"
    ):
        load_rows(parse_dataset_spec("b@test"))
    (data / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="splits found: none"):
        load_rows(parse_dataset_spec("empty"))


@pytest.mark.parametrize("path", ["/nowhere", "/nowhere/data", "data/of/mine"])
def test_missing_path(data, path):
    with pytest.raises(
        FileNotFoundError, match=f"^{path} does not exist. Give a folder with Parquet files, a file, or a Hub"
    ):
        load_rows(parse_dataset_spec(path))


@pytest.mark.parametrize("path", ["data/vgg", "vgg"])
def test_a_mistyped_folder_is_looked_for_on_the_hub(data, path, monkeypatch):
    """The error names both: a reader may have meant either."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileNotFoundError, match=f"^{path} is neither a folder nor a file here .*, and not available on the Hub: "
    ):
        load_rows(parse_dataset_spec(path))


def test_mixture_keeps_the_order_of_datasets(data):
    assert load_mixture(["c.parquet", "b@testA", "a@train_extra"], "conversation")["source"][:] == [
        *["c"] * 7,
        *["tA"] * 2,
        *["x"] * 3,
    ]
    assert len(load_mixture(["b"], "conversation", default_split="validation")) == 5


def test_ratio_takes_other_rows_with_another_seed(data):
    def chosen(*specs: str, seed: int = 0) -> list[str]:
        return load_mixture(specs, "conversation", seed)["image_id"][:]

    first = chosen("b:0.5")
    assert len(first) == 10
    assert first == sorted(set(first), key=lambda name: int(name[1:]))
    assert first == chosen("b:0.5")
    assert first != chosen("b:0.5", seed=1)
    # The whole of another dataset in front changes nothing but the draw of the second; two halves are not the same
    # half.
    assert len({tuple(chosen("b:0.5", "b:0.5")[part]) for part in (slice(10), slice(10, 20))}) == 2
    assert chosen("b:0.13", "c.parquet")[3:] == [f"c{i}" for i in range(7)]
    assert len(chosen("b@testA:0.01")) == 1


def test_no_dataset():
    with pytest.raises(ValueError, match="No dataset was given"):
        load_mixture([], "conversation")


def test_wrong_columns(data):
    Dataset.from_dict({"text": ["a"]}).to_parquet("wrong.parquet")
    with pytest.raises(ValueError, match=r"^wrong.parquet: A conversation dataset needs the column 'image'"):
        load_mixture(["c.parquet", "wrong.parquet"], "conversation")


def test_other_columns_are_dropped_and_images_decoded(data):
    """A dataset whose images are left as bytes can be mixed with others."""
    image = PilImage.new("RGB", (3, 2), "red")
    features = Features({**CONVERSATION_FEATURES, "image": Image(decode=False), "note": Value("string")})
    row = {**rows("d", 1)[0], "note": "x"}
    Dataset.from_list([{**row, "image": image}], features=Features({**features, "image": Image()})).cast(
        features
    ).to_parquet("d.parquet")
    mixed = load_mixture(["c.parquet", "d.parquet"], "conversation")
    assert set(mixed.column_names) == set(CONVERSATION_FEATURES)
    assert mixed[7]["image"].size == (3, 2)
    assert mixed[0]["image"] is None


def test_crowds_of_detection_rows_are_kept(tmp_path):
    """Also beside a dataset that knows none, whose rows have null then."""
    one = {"image": PilImage.new("RGB", (9, 9)), "image_id": "1", "boxes_xyxy": [[1, 1, 5, 5]], "source": "coco"}
    crowds = {"crowd_boxes_xyxy": [[2, 2, 8, 8]]}
    for name, row in (("plain", one), ("crowded", one | crowds)):
        (tmp_path / name).mkdir()
        dataset = Dataset.from_list([row], features=features_of(row, "detection"))
        dataset.to_parquet(tmp_path / name / "train.parquet")
    mixture = load_mixture([str(tmp_path / "plain"), str(tmp_path / "crowded")], "detection")
    assert mixture["crowd_boxes_xyxy"] == [None, [[2, 2, 8, 8]]]
    assert check_dataset(mixture, "detection") == 2
    assert "crowd_boxes_xyxy" not in load_mixture([str(tmp_path / "plain")], "detection").features


@pytest.mark.parametrize("with_masks_first", [True, False])
def test_masks_are_kept_beside_datasets_without_them(tmp_path, with_masks_first):
    one = {"image": PilImage.new("RGB", (3, 2)), "image_id": "1", "boxes_xyxy": [[0, 0, 1, 2]], "source": "coco"}
    masks = [{"size": [2, 3], "counts": "024"}]
    for name, row in (("plain", one), ("masked", one | {"masks": masks})):
        (tmp_path / name).mkdir()
        dataset = Dataset.from_list([row], features=features_of(row, "detection"))
        dataset.to_parquet(tmp_path / name / "train.parquet")
    names = ["masked", "plain"] if with_masks_first else ["plain", "masked"]
    mixture = load_mixture([str(tmp_path / name) for name in names], "detection")
    assert mixture["masks"] == ([masks, None] if with_masks_first else [None, masks])
    assert check_dataset(mixture, "detection") == 2
    assert "masks" not in load_mixture([str(tmp_path / "plain")], "detection").features


def test_precomputed_proposals_on_all_or_none(data):
    proposals = {"proposal_boxes": List(List(Value("float32"), length=4)), "proposal_scores": List(Value("float32"))}
    row = {**rows("p", 1)[0], "proposal_boxes": [[0.5, 0.5, 1, 1]], "proposal_scores": [0.5]}
    Dataset.from_list([row], features=Features({**CONVERSATION_FEATURES, **proposals})).to_parquet("p.parquet")
    assert load_mixture(["p.parquet"], "conversation")[0]["proposal_scores"] == [0.5]
    with pytest.raises(ValueError, match="precomputed regions and others have none.* precompute-regions"):
        load_mixture(["p.parquet", "c.parquet"], "conversation")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("data/psg", ("data/psg", "train", 1.0)),
        ("data/psg:9", ("data/psg", "train", 9.0)),
        ("data/psg@val:0.5", ("data/psg", "val", 0.5)),
        ("org/name@test", ("org/name", "test", 1.0)),
    ],
)
def test_weighted_specs(spec, expected):
    assert parse_weighted_spec(spec) == expected


@pytest.mark.parametrize("spec", ["data/psg:0", "data/psg:-1", "data/psg:inf"])
def test_weights_are_above_zero(spec):
    with pytest.raises(ValueError, match=f"The weight of '{spec}' must be above 0"):
        parse_weighted_spec(spec)


@pytest.mark.parametrize("spec", ["", "data/psg:often", "data/psg:nan", "data/psg@:2"])
def test_bad_weighted_specs(spec):
    with pytest.raises(ValueError, match=f"'{spec}' is not a dataset: write PATH"):
        parse_weighted_spec(spec)
