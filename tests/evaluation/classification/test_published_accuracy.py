"""Published accuracies: what the paper's own rows of differences and averages say of them."""

import pytest

from transformers_groma.evaluation.classification.published_accuracy import CLASSES, PUBLISHED


def test_every_row_has_a_number_for_each_encoder():
    for name, table in PUBLISHED.items():
        assert all(len(row) == len(table.encoders) for row in table.rows.values()), name
        assert len(table.deviation) in (0, len(table.encoders)), name


def test_every_dataset_has_a_number_of_classes():
    assert list(CLASSES) == list(PUBLISHED)


def test_wca_is_the_best_of_each_column():
    for name, table in PUBLISHED.items():
        for column in range(len(table.encoders)):
            assert max(table.rows, key=lambda method: table.rows[method][column]) == "wca", name


@pytest.mark.parametrize(
    ("method", "average"), [("template", 59.09), ("ensemble", 60.91), ("cupl", 61.91), ("wca", 64.03)]
)
def test_the_printed_average_over_domain_shifts(method, average):
    shifted = ("imagenet-v2", "imagenet-r", "imagenet-sketch", "imagenet-a")
    values = [PUBLISHED["imagenet"].rows[method][1], *(PUBLISHED[name].rows[method][0] for name in shifted)]
    # The paper prints two digits; its average of CLIP is of numbers with more.
    assert sum(values) / 5 == pytest.approx(average, abs=0.011)
