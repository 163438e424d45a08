import shutil

from PIL import Image

from processing import sa1b

from .samples import read_report, read_rows, real_sample, write_json, write_picture


def test_annotation_files_beside_pictures_in_any_folder(tmp_path, capsys):
    for folder, number, boxes in [
        ("sa_000000", 2, [[1.0, 2.0, 30.0, 40.0], [5, 5, 0, 3]]),
        ("sa_000001", 1, [[0, 0, 9, 9]]),
    ]:
        write_picture(tmp_path / folder / f"sa_{number}.jpg", 60, 50)
        image = {"image_id": number, "width": 60, "height": 50, "file_name": f"sa_{number}.jpg"}
        mask = {"size": [50, 60], "counts": "T1"}
        annotations = [
            {"id": 3, "bbox": bbox, "area": 9, "segmentation": mask, "crop_box": [0, 0, 60, 50]} for bbox in boxes
        ]
        write_json(tmp_path / folder / f"sa_{number}.json", {"image": image, "annotations": annotations})
    write_json(tmp_path / "sa_000001" / "sa_3.json", {"image": {"image_id": 3}})
    (tmp_path / "sa_000001" / "sa_4.json").write_text('{"image": {"im')
    write_json(tmp_path / "notes.json", {})

    output = tmp_path / "rows"
    assert sa1b.main(["--images", str(tmp_path), "--output", str(output)]) == 0
    rows = read_rows(output, "detection")
    assert rows["image_id"] == ["2", "1"]
    assert rows["boxes_xyxy"] == [[[1.0, 2.0, 31.0, 42.0]], [[0.0, 0.0, 9.0, 9.0]]]
    assert rows["source"] == ["sa1b", "sa1b"]
    report = read_report(output)
    assert report["records"] == 4 and sum(report["skipped"].values()) == 2
    assert report["skipped"] == {"`annotations` is not a list": 1, "not a JSON file": 1}
    assert report["parts"] == {"box is empty: its width or height is zero or negative": 1}
    assert [name.split("/")[-1] for name, _ in report["examples"]] == ["sa_2.json", "sa_3.json", "sa_4.json"]

    assert sa1b.main(["--images", str(tmp_path / "nothing"), "--output", str(output)]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_real_annotations(tmp_path):
    """Real files, each with one of its annotations; white pictures of their size stand in for the photos."""
    for path in real_sample("sa1b").glob("*.json"):
        shutil.copy(path, tmp_path)
    for number, size in [(1, (1500, 2060)), (560, (2250, 1500))]:
        Image.new("1", size, 1).save(tmp_path / f"sa_{number}.jpg")
    output = tmp_path / "rows"
    assert sa1b.main(["--images", str(tmp_path), "--output", str(output)]) == 0
    rows = read_rows(output, "detection")
    assert rows["image_id"] == ["1", "560"]
    assert rows["boxes_xyxy"] == [[[866.0, 946.0, 998.0, 1145.0]], [[1167.0, 157.0, 1274.0, 286.0]]]
    assert read_report(output)["skipped"] == {"missing picture": 1}
