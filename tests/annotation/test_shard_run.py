"""One shard: batches are kept as they come, an interrupted run goes on after them, and broken images are left out."""

import io
import json

import pytest
from PIL import Image

from transformers_groma import images
from transformers_groma._output_errors import OutputError
from transformers_groma.annotation.prepared_images import prepare_image, upright_image
from transformers_groma.annotation.shard_run import ShardJob, run_shard
from transformers_groma.annotation.sources.image_folder import image_folder_shards
from transformers_groma.annotation.sources.source_images import FirstImages, SourceImage
from transformers_groma.annotation.tasks import AnnotationTasks
from transformers_groma.data.annotation_columns import AnnotatedImage
from transformers_groma.data.left_out import LeftOut, SkipRecord

from .samples import files_of, png, rows_of, write_photos


class Counting:
    """Annotates nothing, and notes what it was given."""

    tasks = AnnotationTasks(proposals=True)
    batch_size = 2

    def __init__(self, fails_at=None):
        self.batches, self.fails_at = [], fails_at

    def image_processor(self, images, return_tensors):
        return {"pixel_values": images}

    def annotate(self, images):
        if self.fails_at == len(self.batches):
            raise KeyboardInterrupt
        self.batches.append([image.source.image_id for image in images])
        return [AnnotatedImage(image.source.image_id, None, 1, 1, ()) for image in images]


def job(photos, output):
    (shard,) = image_folder_shards(photos, 100)
    return ShardJob(0, shard, output, 1)


def run(photos, output, annotator):
    return list(run_shard(job(photos, output), lambda: annotator))


def test_an_interrupted_shard_goes_on_after_its_last_batch(tmp_path):
    photos = write_photos(tmp_path / "photos", 7)
    (photos / "a.png").write_bytes(b"")
    first = Counting(fails_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", first)
    assert first.batches == [["more/s2.png", "more/s5.png"], ["s0.png", "s1.png"]]
    assert not files_of(tmp_path / "out")
    second = Counting()
    assert run(photos, tmp_path / "out", second) == [5, 7, 8]
    assert second.batches == [["s3.png", "s4.png"], ["s6.png"]]
    assert list(rows_of(tmp_path / "out")) == [name for batch in first.batches + second.batches for name in batch]
    run(photos, tmp_path / "whole", Counting())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    report = job(photos, tmp_path / "out").folder.report(0)
    assert (report.rows, report.records, report.skipped) == (7, 8, {"empty image file": 1})


def test_a_line_that_a_kill_cut_is_done_again(tmp_path):
    photos = write_photos(tmp_path / "photos", 5)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", Counting(fails_at=2))
    journal = job(photos, tmp_path / "out").folder.journal(0)
    journal.write_bytes(journal.read_bytes()[:-7])
    again = Counting()
    assert run(photos, tmp_path / "out", again) == [2, 4, 5]
    assert len(rows_of(tmp_path / "out")) == 5
    assert not journal.exists()


def test_a_damaged_journal_is_named(tmp_path):
    photos = write_photos(tmp_path / "photos", 1)
    journal = job(photos, tmp_path / "out").folder.journal(0)
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"\x00\x00\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged in line 1 .*Delete it: its shard begins again"):
        run(photos, tmp_path / "out", Counting())


def test_another_process_at_the_same_shard_stops_this_one(tmp_path):
    photos = write_photos(tmp_path / "photos", 3)
    first = run_shard(job(photos, tmp_path / "out"), Counting)
    next(first)
    with pytest.raises(OutputError, match="is being written by another process"):
        run(photos, tmp_path / "out", Counting())
    assert list(first) == [2, 3]


def test_a_shard_of_broken_images_has_a_file_without_rows(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")
    run(tmp_path / "photos", tmp_path / "out", Counting())
    assert rows_of(tmp_path / "out") == {}
    report = json.loads(next((tmp_path / "out" / ".annotate").glob("*.report.json")).read_text())
    assert report["left_out"] == [["a.png", "not an image", ""]]


def test_a_file_that_was_cut_is_not_finished(tmp_path):
    photos = write_photos(tmp_path / "photos", 2)
    run(photos, tmp_path / "out", Counting())
    folder = job(photos, tmp_path / "out").folder
    assert folder.report(0).rows == 2
    folder.shard(0).write_bytes(folder.shard(0).read_bytes()[:-1])
    assert folder.report(0) is None


def test_a_name_that_comes_twice_is_left_out(tmp_path):
    class Twice:
        name, count, state = "twice", 3, ""

        def images(self, start=0):
            return iter([SourceImage(name, None, png(0)) for name in ("a", "b", "a")][start:])

    for limit, rows in ((2, 2), (3, 2)):
        output = tmp_path / str(limit)
        list(run_shard(ShardJob(0, FirstImages(Twice(), limit), output, 1), Counting))
        assert len(rows_of(output)) == rows
    assert ShardJob(0, Twice(), output, 1).folder.report(0).skipped == {"an image of the same name came before": 1}


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty image file"),
        (b"text", "not an image"),
        (png(0)[:2000], "broken image"),
        (encoded(Image.new("RGB", (1, 9)), "PNG"), "too small to show anything"),
        (LeftOut("no image in its row"), "no image in its row"),
    ],
    ids=["empty", "text", "cut", "line", "none"],
)
def test_images_that_are_left_out(content, reason):
    with pytest.raises(SkipRecord, match=reason):
        upright_image(SourceImage("a", None, content))


def test_an_image_with_too_many_pixels_is_left_out(monkeypatch):
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 224 * 224 - 1)
    with pytest.raises(SkipRecord, match="image has too many pixels"):
        upright_image(SourceImage("a", None, png(0)))


def test_files_that_are_left_out(tmp_path):
    with pytest.raises(SkipRecord, match="missing image"):
        upright_image(SourceImage("a", None, tmp_path / "a.png"))
    with pytest.raises(SkipRecord, match="not a regular file"):
        upright_image(SourceImage("a", None, tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.new("CMYK", (8, 6)), "JPEG"),
        encoded(Image.new("I;16", (8, 6), 65535), "PNG"),
        encoded(Image.new("RGB", (8, 6)), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 6), "red")]),
        encoded(Image.new("RGBA", (8, 6)), "WEBP"),
        encoded(Image.new("P", (8, 6)), "PNG"),
    ],
    ids=["CMYK", "16 bit", "animated", "transparent", "palette"],
)
def test_images_of_other_kinds_become_rgb(content):
    image = upright_image(SourceImage("a", None, content))
    assert (image.mode, image.size) == ("RGB", (8, 6))


def test_images_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (8, 6)), "JPEG", exif=exif)
    assert upright_image(SourceImage("a", None, content)).size == (6, 8)


def test_regions_that_cannot_be_used_are_left_out_alone():
    source = SourceImage("a", None, png(0), [[1, 2, 30, 40], [300, 2, 400, 40], "cup"], ["x", "y", "z"])
    prepared = prepare_image(source, Counting().image_processor, AnnotationTasks(source_regions=True))
    assert [region.box for region in prepared.regions] == [[1.0, 2.0, 30.0, 40.0]]
    assert prepared.labels == ("x",)
    assert len(prepared.left_out) == 2
    assert all(part.reason.startswith("a region of the source: ") for part in prepared.left_out)
