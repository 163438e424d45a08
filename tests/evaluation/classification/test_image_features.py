"""Features on disk: each view is encoded once, a killed run resumes, and no other setting finds them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from transformers_groma.evaluation.classification import image_features
from transformers_groma.evaluation.classification.dataset_reading import read_labelled_images
from transformers_groma.evaluation.classification.image_features import FeatureFolder, ViewSet, whole_image
from transformers_groma.evaluation.classification.view_plans import random_views
from transformers_groma.zero_shot.dual_encoder import DualEncoder

from .samples import CASES, image_folder

IDENTITY = {"model_sha256": "m", "dataset_fingerprint": "d"}


class CountingEncoder(DualEncoder):
    """Counts the images that it sees, and is killed before it has seen more than a number of them."""

    def __init__(self, encoder: DualEncoder, most: int = 10**6) -> None:
        super().__init__(encoder.model, _Processor(encoder))
        self.seen, self.most = 0, most

    def encode_images(self, images, name=str):
        def counted():
            for image in images:
                if self.seen == self.most:
                    raise KeyboardInterrupt
                self.seen += 1
                yield image

        return super().encode_images(counted(), name)


class _Processor:
    def __init__(self, encoder: DualEncoder) -> None:
        self.image_processor, self.tokenizer = encoder.image_processor, encoder.tokenizer


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(image_features, "IMAGES_PER_FILE", 4)


@pytest.fixture
def images(folder):
    return read_labelled_images(folder)


@pytest.fixture
def sets():
    return [whole_image(), random_views("random-0", 3, 0, (0.5, 0.9)), random_views("random-1", 3, 1, (0.5, 0.9))]


def features_of(batches, name: str) -> torch.Tensor:
    return torch.cat([batch.views[name].features for batch in batches])


def test_all_views_go_through_the_encoder_once(tmp_path, images, encoder, sets):
    counting = CountingEncoder(encoder)
    first = FeatureFolder(tmp_path, images, counting, sets, IDENTITY)
    batches = list(first.batches())
    assert [batch.numbers for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert counting.seen == first.encoded == 11 * 7
    again = list(FeatureFolder(tmp_path, images, counting, sets, IDENTITY).batches())
    assert counting.seen == 77, "nothing is encoded twice"
    for name in ("whole", "random-0", "random-1"):
        assert torch.equal(features_of(batches, name), features_of(again, name))
    more = [*sets, random_views("random-2", 2, 2, (0.5, 0.9))]
    list(FeatureFolder(tmp_path, images, counting, more, IDENTITY).batches())
    assert counting.seen == 77 + 11 * 2, "a new set of views leaves the others"


def test_they_are_those_of_the_encoder(tmp_path, images, encoder, sets):
    batches = list(FeatureFolder(tmp_path, images, encoder, sets, IDENTITY).batches())
    boxes = torch.cat([batch.views["random-1"].xyxy for batch in batches])
    for number in (0, 6, 10):
        image = images.image(number)
        crops = [image, *(image.crop(box) for box in boxes[number].tolist())]
        expected = encoder.encode_images(crops)
        assert torch.allclose(features_of(batches, "whole")[number, 0], expected[0], atol=1e-6)
        assert torch.allclose(features_of(batches, "random-1")[number], expected[1:], atol=1e-6)


@pytest.mark.parametrize("killed_at", [0, 30, 60])
def test_a_killed_run_resumes(tmp_path, images, encoder, sets, killed_at):
    counting = CountingEncoder(encoder, most=killed_at)
    with pytest.raises(KeyboardInterrupt):
        list(FeatureFolder(tmp_path, images, counting, sets, IDENTITY).batches())
    counting = CountingEncoder(encoder)
    resumed = list(FeatureFolder(tmp_path, images, counting, sets, IDENTITY).batches())
    finished = killed_at // 28 * 28  # images come four at a time, with seven views each
    assert counting.seen == 77 - finished
    straight = list(FeatureFolder(tmp_path / "straight", images, encoder, sets, IDENTITY).batches())
    assert torch.equal(features_of(resumed, "random-1"), features_of(straight, "random-1"))


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {**IDENTITY, "model_sha256": "other"}},
        {"identity": {**IDENTITY, "dataset_fingerprint": "other"}},
        {"stored_dtype": "float16"},
        {"views": random_views("random-0", 3, 5, (0.5, 0.9))},
        {"views": random_views("random-0", 3, 0, (0.1, 0.9))},
        {"views": random_views("random-0", 4, 0, (0.5, 0.9))},
    ],
)
def test_another_setting_never_finds_them(tmp_path, images, encoder, sets, change):
    counting = CountingEncoder(encoder)
    list(FeatureFolder(tmp_path, images, encoder, sets[:2], IDENTITY).batches())
    views = change.pop("views", sets[1])
    arguments = {"identity": IDENTITY, **change}
    list(FeatureFolder(tmp_path, images, counting, [sets[0], views], **arguments).batches())
    count = views.settings["count"]
    assert counting.seen == 11 * (count if not change else 1 + count)


def test_a_file_that_is_damaged_or_another_is_written_again(tmp_path, images, encoder, sets):
    list(FeatureFolder(tmp_path, images, encoder, sets[:2], IDENTITY).batches())
    [one] = tmp_path.glob("random-0-*")
    first, second, _ = sorted(one.glob("*.safetensors"))
    straight = load_file(first)["features"].clone()
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(next(iter(sorted(tmp_path.glob("whole-*/*.safetensors")))).read_bytes())
    counting = CountingEncoder(encoder)
    list(FeatureFolder(tmp_path, images, counting, sets[:2], IDENTITY).batches())
    assert counting.seen == 2 * 4 * 3 and torch.equal(load_file(first)["features"], straight)


def test_half_precision_on_disk(tmp_path, images, encoder, sets):
    whole, half = (
        list(FeatureFolder(tmp_path / dtype, images, encoder, sets, IDENTITY, dtype).batches())
        for dtype in ("float32", "float16")
    )
    difference = (features_of(whole, "random-0") - features_of(half, "random-0")).abs().max()
    assert 0 < difference < 5e-4
    assert features_of(half, "random-0").dtype == torch.float32


def test_images_with_other_numbers_of_views(tmp_path, images, encoder):
    none, two = torch.zeros(0, 4, dtype=torch.int64), torch.tensor([[0, 0, 9, 9], [2, 2, 30, 30]])
    some = ViewSet("some", {"kind": "some"}, lambda group: [none, *[two] * (len(group) - 1)])
    [first, *_] = FeatureFolder(tmp_path, images, encoder, [whole_image(), some], IDENTITY).batches()
    views = first.views["some"]
    assert views.is_padding.tolist() == [[True, True], [False, False], [False, False], [False, False]]
    assert (views.features[0] == 0).all() and views.features[1:].norm(dim=-1).allclose(torch.ones(3, 2))


def test_images_that_cannot_be_read_are_told(tmp_path, encoder, sets):
    folder = image_folder(tmp_path / "data", {"a": 3, "b": 2})
    (folder / "a" / "1.png").write_bytes(b"no image")
    batches = list(FeatureFolder(tmp_path / "out", read_labelled_images(folder), encoder, sets, IDENTITY).batches())
    assert [batch.numbers for batch in batches] == [[0, 2, 3], [4]]
    assert list(batches[0].unreadable) == [1] and len(batches[0].views["whole"].features) == 3
    again = FeatureFolder(tmp_path / "out", read_labelled_images(folder), encoder, sets, IDENTITY).batch_with(3)
    assert again.numbers == [0, 2, 3] and again.unreadable == batches[0].unreadable


def test_features_that_are_not_finite_name_their_image(tmp_path, images, sets):
    encoder = DualEncoder.from_pretrained(CASES / "clip_b2_c4" / "model", device="cpu")
    with torch.no_grad():
        encoder.model.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite for cloud/0.png, view 0 of 'whole'"):
        list(FeatureFolder(tmp_path, images, encoder, sets, IDENTITY).batches())


def test_too_little_space(tmp_path, images, encoder, sets, monkeypatch):
    folder = FeatureFolder(tmp_path, images, encoder, sets, IDENTITY)
    folder.check_space(24)
    monkeypatch.setattr(image_features.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match="the features need some 0.0 GB, and .* has 0.0 GB free"):
        folder.check_space(24)


def test_the_folder_says_what_it_holds(tmp_path, images, encoder, sets):
    FeatureFolder(tmp_path, images, encoder, sets, IDENTITY)
    [path] = tmp_path.glob("random-1-*/settings.json")
    described = json.loads(path.read_text())
    assert described["views"] == {"kind": "random", "count": 3, "seed": 1, "bounds": [0.5, 0.9]}
    assert described["model_sha256"] == "m" and described["images"] == 11


def test_views_do_not_depend_on_what_is_beside_an_image(tmp_path, images, encoder, sets):
    all_images = list(FeatureFolder(tmp_path / "all", images, encoder, sets, IDENTITY).batches())
    some = list(FeatureFolder(tmp_path / "some", images.spread(3), encoder, sets, IDENTITY).batches())
    numbers = [images.image_ids.index(name) for name in images.spread(3).image_ids]
    boxes = torch.cat([batch.views["random-0"].xyxy for batch in all_images])
    assert torch.equal(boxes[numbers], some[0].views["random-0"].xyxy)
