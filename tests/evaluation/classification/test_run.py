"""A whole run: the table against plain NumPy, what is left out, resuming, and folders of other runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from transformers_groma.evaluation.classification import run
from transformers_groma.evaluation.classification.dataset_reading import read_labelled_images
from transformers_groma.evaluation.classification.run import classify_dataset
from transformers_groma.evaluation.classification.table_options import TableOptions
from transformers_groma.evaluation.classification.table_rows import TextFiles
from transformers_groma.evaluation.reports.report import read_results
from transformers_groma.zero_shot import CrossAlignmentClassifier
from transformers_groma.zero_shot.rgb_images import seed_of_image
from transformers_groma.zero_shot.views import random_squares

from .samples import image_folder, noise

OPTIONS = TableOptions(view_count=4, seeds=2)


@pytest.fixture
def table_of(folder, encoder, files, tmp_path):
    def table_of(options=OPTIONS, output=tmp_path / "out", data=folder, texts=files, **kwargs):
        images = kwargs.pop("images", None) or read_labelled_images(data)
        return classify_dataset(
            images, encoder, output, options, texts, progress=False, model_name="org/tiny", **kwargs
        )

    return table_of


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def test_the_table_is_that_of_plain_numpy(table_of, folder, encoder, files, tmp_path):
    options = replace(OPTIONS, scores=("paper", "released"))
    done = table_of(options)
    images = read_labelled_images(folder)
    names = images.classes.shown

    def encoded(texts):
        return encoder.encode_texts(texts).double().numpy()

    means = {
        "template": [unit(encoded([f"a photo of a {name}."]).mean(0)) for name in names],
        "ensemble": [unit(encoded([one.replace("{}", name) for one in files.templates]).mean(0)) for name in names],
        "cupl": [unit(encoded(files.descriptions[name]).mean(0)) for name in names],
    }
    wholes = [images.image(number) for number in range(len(images))]
    whole = encoder.encode_images(wholes).double().numpy()
    for method, classes in means.items():
        expected = ((whole @ np.stack(classes).T).argmax(1) == images.labels).mean()
        assert done.results.metrics[f"{method}.top1"] == pytest.approx(expected), method
    pooled = []
    for name in names:
        texts = encoded(files.descriptions[name])
        pooled.append(softmax(np.exp(2) * texts @ encoded([f"a photo of a {name}."])[0]) @ texts)
    right = {"paper": [], "released": []}
    for seed in (0, 1):
        sums = []
        for number, image in enumerate(wholes):
            squares = random_squares((image.height, image.width), 4, seed=seed_of_image(image, seed)).tolist()
            views = encoder.encode_images([image.crop(square) for square in squares]).double().numpy()
            sums.append(softmax(np.exp(4) * views @ whole[number]) @ views)
        right["paper"].append((np.stack(sums) @ np.stack(pooled).T).argmax(1) == images.labels)
        right["released"].append((unit(np.stack(sums)) @ unit(np.stack(pooled)).T).argmax(1) == images.labels)
    for score, repeats in right.items():
        tops = np.mean(repeats, axis=1)
        assert done.results.metrics[f"wca-random-{score}.top1"] == pytest.approx(tops.mean())
        assert done.results.metrics[f"wca-random-{score}.top1_std"] == pytest.approx(tops.std())
        by_class = [np.mean([repeat[images.labels == label].mean() for label in range(4)]) for repeat in repeats]
        assert done.results.metrics[f"wca-random-{score}.mean_per_class"] == pytest.approx(np.mean(by_class))
        shares = [line["predictions"][f"wca-random-{score}"]["right"] for line in lines_of(tmp_path / "out")]
        assert shares == pytest.approx(np.mean(repeats, axis=0))
    assert "template.top1_std" not in done.results.metrics and "waffle.top1_std" in done.results.metrics


def test_it_says_what_the_classifier_says(table_of, folder, encoder, files, tmp_path):
    """`groma classify` and the first repeat look at the same views and give the same probabilities."""
    table_of(replace(OPTIONS, methods=("wca",)))
    images = read_labelled_images(folder)
    classifier = CrossAlignmentClassifier.from_encoder(
        encoder, images.classes.shown, files.descriptions, views="random", view_count=4, seed=0
    )
    lines = lines_of(tmp_path / "out")
    for line, result in zip(lines, classifier.classify([images.image(number) for number in range(len(images))])):
        predicted = line["predictions"]["wca-random-paper"]
        assert predicted["label"] == result.label
        assert predicted["probability"] == pytest.approx(result.scores[0].probability, abs=1e-5)


def test_what_the_folder_holds(table_of, tmp_path, folder):
    done = table_of(replace(OPTIONS, gallery=3, published="dtd"))
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("results.json", "results.md", "per_class.json", "predictions.jsonl", "confusion.png"),
        *("gallery.html", "gallery", "features"),
    }
    assert read_results(out) == done.results and done.results.complete and done.results.asked == 11
    lines = lines_of(out)
    assert [line["image"] for line in lines] == read_labelled_images(folder).image_ids
    rows = [row.row.name for row in done.rows]
    assert rows == ["template", "ensemble", "dclip", "waffle", "cupl", "wca-random-paper"]
    assert all(list(line["predictions"]) == rows for line in lines)
    classes = json.loads((out / "per_class.json").read_text())
    assert [one["images"] for one in classes["classes"]] == [4, 2, 3, 2]
    assert classes["classes"][3]["given"] == "wooden_box" and classes["classes"][3]["name"] == "wooden box"
    for row in done.rows:
        share = np.mean([line["class"] == line["predictions"][row.row.name]["class"] for line in lines])
        assert np.mean(classes["top1_of_repeats"][row.row.name][0]) == pytest.approx(share)
    report = (out / "results.md").read_text()
    assert "| 49.39 ± 0.16 | 52.79 ± 0.17 | 61.78 ± 0.16 |" in report and "| 42.98 | 44.68 | 54.31 |" in report
    assert "published, not measured here" in report and "DTD" in report
    assert Image.open(out / "confusion.png").format == "PNG"
    assert "a place that decided" in (out / "gallery.html").read_text()


def test_no_view_is_encoded_twice_whatever_the_methods(table_of, monkeypatch, encoder, tmp_path):
    seen = []
    encode = type(encoder).encode_images
    monkeypatch.setattr(
        type(encoder), "encode_images", lambda self, images, **kwargs: encode(self, _noted(images, seen), **kwargs)
    )
    options = replace(OPTIONS, views=("random", "grid"), scores=("paper", "released"), gallery=2)
    table_of(options)
    assert len(seen) == 11 * (1 + 2 * 4 + 4)
    table_of(options)
    assert len(seen) == 11 * 13, "a finished run is scored again without the encoder"
    table_of(replace(options, seeds=3))
    assert len(seen) == 11 * 17, "another seed needs its own views alone"


def _noted(images, seen):
    for image in images:
        seen.append(image.size)
        yield image


def test_a_killed_run_resumes_with_the_same_results(table_of, monkeypatch, tmp_path):
    straight = table_of(output=tmp_path / "straight")
    add = run.DatasetScorer.add

    def killed(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.DatasetScorer, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        table_of()
    assert not read_results(tmp_path / "out").complete
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    monkeypatch.setattr(run.DatasetScorer, "add", add)
    assert table_of().results.metrics == straight.results.metrics
    assert lines_of(tmp_path / "out") == lines_of(tmp_path / "straight")


def test_a_folder_of_another_dataset_is_refused(table_of, tmp_path):
    table_of()
    other = image_folder(tmp_path / "other", {"cloud": 3, "red ball": 1, "striped tile": 2, "wooden_box": 5})
    noise(99).save(other / "cloud" / "0.png")
    with pytest.raises(ValueError, match="holds another run: `dataset_fingerprint` is"):
        table_of(data=other)


def test_the_released_protocol_draws_from_one_pool(table_of, tmp_path):
    done = table_of(
        replace(OPTIONS, released=True, pool=5, draws=6, scores=("released",), methods=("template", "wca"))
    )
    wca = done.rows[1]
    assert wca.row.repeats == 6 and wca.row.plan.draws.shape == (6, 4)
    assert len(list((tmp_path / "out" / "features").glob("pool-*"))) == 1
    settings = done.results.settings
    assert settings["released"] and settings["bounds"] == [0.1, 0.9]
    assert done.results.metrics["wca-random-released.top1"] == pytest.approx(wca.accuracy.top1.mean())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": ("clip",)}, "`methods` must be of 'template', .*, got 'clip'"),
        ({"views": ("none",)}, "`views` must be of 'random', .*, got 'none'"),
        ({"scores": ("cosine",)}, "`scores` must be of 'paper', 'released', got 'cosine'"),
        ({"published": "mnist"}, "`published` must be one of None, 'imagenet', .*, got 'mnist'"),
        ({"stored_dtype": "int8"}, "`stored_dtype` must be one of 'float32', 'float16', got 'int8'"),
        ({"seeds": 0}, "`seeds` must be a positive integer, got 0"),
    ],
)
def test_options_that_do_not_exist(wrong, message):
    with pytest.raises(ValueError, match=message):
        TableOptions(**wrong)


def test_regions_need_a_proposer(table_of):
    with pytest.raises(ValueError, match="Views of regions need a `proposer`"):
        table_of(replace(OPTIONS, views=("regions",)))


def test_what_cannot_run_is_said(table_of, files):
    done = table_of(texts=TextFiles())
    assert [row.row.name for row in done.rows] == ["template", "ensemble", "waffle", "wca-random-paper"]
    assert [text for text in done.notes if "did not run" in text] == [
        "the method 'dclip' did not run: it needs phrases by class, in the format of DCLIP",
        "the method 'cupl' did not run: it needs sentences by class, in the format of CuPL",
    ]
    assert "of templates" in done.rows[-1].row.title
    with pytest.raises(ValueError, match="the method 'cupl' cannot run: it needs sentences by class"):
        table_of(replace(OPTIONS, methods=("cupl", "wca")), texts=TextFiles(phrases=files.phrases))


def test_descriptions_of_other_classes_end_it_before_any_image(table_of, files, tmp_path):
    lacking = {name: texts for name, texts in files.descriptions.items() if name != "cloud"}
    with pytest.raises(ValueError, match="`descriptions` lack 1 of 4 labels: 'cloud'"):
        table_of(texts=TextFiles(lacking))
    with pytest.raises(ValueError, match="`phrases` lack 1 of 4 labels: 'cloud'"):
        table_of(texts=TextFiles(files.descriptions, lacking))
    assert not (tmp_path / "out").exists()


def test_texts_of_other_classes_are_told(table_of, files):
    more = {**files.descriptions, "ship": ["It sails."]}
    done = table_of(texts=TextFiles(more))
    [told] = [text for text in done.notes if "no class" in text]
    assert told == "a file of texts also has 1 class name of no class here: 'ship'"


def test_unreadable_images_are_counted(table_of, tmp_path):
    data = image_folder(tmp_path / "data", {"cloud": 2, "red ball": 1, "striped tile": 1, "wooden_box": 1})
    (data / "cloud" / "1.png").write_bytes(b"x")
    done = table_of(data=data)
    assert done.results.asked == 4 and sum(done.rows[0].accuracy.images) == 4
    [(reason, names)] = done.left_out.items()
    assert reason.startswith("image that cannot be read") and names == ["cloud/1.png"]
    assert "1 left out, image that cannot be read" in (tmp_path / "out" / "results.md").read_text()
    assert done.results.settings["left_out"] == {reason: 1}
    for path in data.rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match="none of the 5 images can be classified"):
        table_of(data=data, output=tmp_path / "none")


def test_classes_of_one_name(table_of, tmp_path):
    """As in Places365: a shared name counts as its first class, so the second can't be right."""
    data = image_folder(tmp_path / "data", {"a": 2, "b": 2, "c": 3})
    images = read_labelled_images(data, label_names=["church", "desert", "church"])
    done = table_of(images=images, texts=TextFiles())
    assert any("3 classes have 2 distinct names" in text for text in done.notes)
    for row in done.rows:
        assert (row.accuracy.by_class[:, 2] == 0).all() and 2 not in row.predicted
    assert {line["class"] for line in lines_of(tmp_path / "out")} == {0, 1, 2}


def test_the_gallery_has_the_most_confident_errors_first(table_of, tmp_path, folder):
    done = table_of(replace(OPTIONS, gallery=4))
    main = done.rows[-1]
    labels = read_labelled_images(folder).labels
    wrong = np.flatnonzero(main.predicted != labels)
    assert len(wrong), "the tiny encoder knows nothing of these images"
    worst = wrong[np.argmax(main.probability[wrong])]
    page = (tmp_path / "out" / "gallery.html").read_text()
    first = page[page.index("case-1") : page.index("case-2")]
    assert read_labelled_images(folder).image_ids[worst] in first
    assert f"{len(wrong)} error" in page and "place 1, 0." in first
