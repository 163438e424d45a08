"""Files of precomputed regions: each image once, and copies that know their source."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Image

from transformers_groma.data.columns import CONVERSATION_FEATURES
from transformers_groma.training import proposal_files
from transformers_groma.training.proposal_files import Proposals, image_batches, is_finished, pixel_maker, write_copy

from .precomputed import image_file, image_row, text_row, write_files
from .rows import training_processor


@pytest.fixture
def source(tmp_path):
    """A repeated image, and a row without one."""
    first, second, third = (image_file(seed) for seed in range(3))
    rows = [image_row("a", first), text_row(), image_row("b", second), image_row("a2", first), image_row("c", third)]
    [path] = write_files(tmp_path / "data", rows).glob("*.parquet")
    return path


def key(seed: int) -> bytes:
    return hashlib.sha256(image_file(seed)).digest()


@pytest.mark.parametrize("read_at_once", [2, 100])
def test_each_image_is_read_once(source, monkeypatch, read_at_once):
    monkeypatch.setattr(proposal_files, "COPIED_ROWS", read_at_once)
    batches = list(image_batches(source, 2))
    assert [[image.key for image in batch.images] for batch in batches] == [[key(0), key(1)], [key(2)]]
    assert [batch.num_rows for batch in batches] == [3, 2]
    assert batches[1].images[0].name == f"{source}, row 4 (image_id 'c')"
    assert [len(batch.images) for batch in image_batches(source, 3)] == [3, 0]


def test_a_batch_becomes_pixels(source):
    image_processor = training_processor().image_processor
    make_pixels = pixel_maker(image_processor, Image(decode=False))
    [batch] = image_batches(source, 5)
    made = make_pixels(batch)
    assert made.keys == [key(0), key(1), key(2)] and made.num_rows == 5 and len(made.pixel_values) == 3
    empty = make_pixels(batch._replace(images=[]))
    assert (empty.keys, empty.pixel_values, empty.num_rows) == ([], None, 5)
    broken = batch.images[1]._replace(stored={"bytes": b"no image", "path": None})
    with pytest.raises(ValueError, match=r"row 2 \(image_id 'b'\): the image cannot be read .* Remove the row"):
        make_pixels(batch._replace(images=[broken]))


def test_a_copy_has_the_proposals_of_each_image(source, tmp_path):
    """Rows without an image have none; a copy is finished while it is whole and its source is the same."""
    target = tmp_path / "copy.parquet"
    assert not is_finished(source, target)
    found = {
        key(seed): Proposals(np.full((seed, 4), seed, np.float32), np.full(seed, 0.5, np.float32)) for seed in range(3)
    }
    write_copy(source, target, CONVERSATION_FEATURES, found)
    table = pq.read_table(target)
    assert [len(boxes) for boxes in table["proposal_boxes"].to_pylist()] == [0, 0, 1, 0, 2]
    assert table["proposal_boxes"].to_pylist()[4] == [[2.0] * 4] * 2
    assert table["proposal_scores"].to_pylist() == [[], [], [0.5], [], [0.5, 0.5]]
    assert is_finished(source, target)
    whole = target.read_bytes()
    target.write_bytes(whole[:-1])
    assert not is_finished(source, target)
    target.write_bytes(whole)
    source.write_bytes(source.read_bytes() + b"x")
    with pytest.raises(ValueError, match="is a copy of other rows"):
        is_finished(source, target)
    (tmp_path / ".copy.source.json").unlink()
    with pytest.raises(ValueError, match="does not say what it is a copy of"):
        is_finished(source, target)
