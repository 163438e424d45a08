"""The report of a dataset: what was left out, by reason, with examples."""

from transformers_groma.data.left_out import LeftOut
from transformers_groma.data.write_report import WriteReport


def test_reports_stay_small():
    report = WriteReport()
    for number in range(1000):
        report.skip(str(number), f"reason {number}")
    assert len(report.skipped) == 101 and len(report.examples) == 20
    assert sum(report.skipped.values()) == 1000
    assert report.summary().startswith("0 rows from 0 records; skipped 1000: other reasons (900), reason 0 (1), ")
    assert report.summary().endswith(", ...")
    report = WriteReport()
    report.skip("n" * 1000, "r" * 1000)
    assert report.examples == [("n" * 200, "r" * 1000)] and report.skipped == {"r" * 1000: 1}


def test_the_commonest_reasons_are_told_with_an_example():
    report = WriteReport()
    for number in range(11):
        for record in range(11 - number):
            report.skip(f"{record}.jpg", f"reason {number}", f"detail {record}")
    report.leave_out("a.jpg", LeftOut("box is empty", "box 3"))
    report.leave_out("b.jpg", LeftOut("box is empty: or not", "box 4"))
    lines = report.told()
    assert lines[:2] == [
        "reason 0 (11), for example 0.jpg: detail 0",
        "reason 1 (10), for example 0.jpg: detail 0",
    ]
    # Ten of them, how many others there are, and those of parts.
    assert (
        len(lines) == 13
        and lines[10] == "1 other reason (1)"
        and lines[9] == "reason 9 (2), for example 0.jpg: detail 0"
    )
    assert lines[11:] == [
        "box is empty (1), for example a.jpg: box 3",
        "box is empty: or not (1), for example b.jpg: box 4",
    ]
    assert len(report.examples) == 20
    assert report.summary().startswith("0 rows from 0 records; skipped 66: reason 0 (11), ")
    assert "reason 9 (2), ...; left out of records 2: box is empty (1), box is empty: or not (1)" in report.summary()
    few = WriteReport(rows=1, records=11, skipped={str(number): 1 for number in range(10)})
    assert few.summary().endswith("8 (1), 9 (1)")


def test_a_name_with_a_line_break_is_told_in_one_line():
    report = WriteReport()
    report.skip("a\nb.jpg", "not an image")
    assert report.told() == [r"not an image (1), for example 'a\nb.jpg'"]


def test_the_total_of_reports_has_examples_of_as_many_reasons_as_fit():
    many, one = WriteReport(rows=1, records=26), WriteReport(rows=2, records=3)
    for number in range(25):
        many.skip(f"{number}.jpg", "missing")
    one.skip("a.jpg", "broken")
    one.leave_out("b.jpg", LeftOut("box is empty"))
    total = WriteReport.total([many, one])
    assert (total.rows, total.records, total.skipped) == (3, 29, {"missing": 25, "broken": 1})
    assert total.parts == {"box is empty": 1}
    assert len(total.examples) == 20
    assert {("a.jpg", "broken"), ("b.jpg", "box is empty"), ("0.jpg", "missing")} <= set(total.examples)


def test_the_total_of_reports_has_the_first_examples_of_a_reason():
    first, second = WriteReport(), WriteReport()
    for number in range(20):
        first.skip(f"{number}.jpg", "missing")
        second.skip(f"{number}.png", "missing")
    assert WriteReport.total([first, second]).examples == first.examples
