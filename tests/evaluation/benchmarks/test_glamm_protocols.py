"""What GLaMM's protocols draw, and which rows of an image they take."""

from transformers_groma.evaluation.benchmarks.glamm_protocols import draw_expressions, rows_by_image


def rows_of(**counts: int) -> list[dict]:
    return [{"source": "refcoco", "image_id": image} for image, count in counts.items() for _ in range(count)]


def test_three_expressions_of_an_image_in_the_order_of_the_draw():
    rows = rows_of(a=7, b=2, c=3, d=4)
    drawn = draw_expressions(rows)
    assert [len(indices) for indices in drawn] == [3, 2, 3, 3]
    assert all(len(set(indices)) == len(indices) for indices in drawn)
    assert sorted(drawn[1]) == [7, 8] and sorted(drawn[2]) == [9, 10, 11]
    # Not always the first ones, and not always in the order of the rows.
    many = draw_expressions(rows_of(**{f"image {number}": 5 for number in range(20)}))
    assert {index % 5 for indices in many for index in indices} == set(range(5))
    assert any(indices != sorted(indices) for indices in many)


def test_the_draw_for_an_image_depends_on_its_own_rows_alone():
    alone, among = draw_expressions(rows_of(a=7)), draw_expressions(rows_of(b=3, a=7))
    assert [index + 3 for index in alone[0]] == among[1]
    other = [{**row, "source": "refcocog"} for row in rows_of(a=7)]
    both = draw_expressions([*rows_of(a=7), *other])
    assert len(both) == 2 and both[0] == alone[0]


def test_images_without_a_name_are_all_different():
    rows = [{"source": "a", "image_id": ""}] * 3
    assert list(rows_by_image(rows).values()) == [[0], [1], [2]]
    assert draw_expressions(rows) == [[0], [1], [2]]
    assert draw_expressions([]) == []
