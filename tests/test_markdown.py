"""Foreign names in Markdown appear unchanged, and none of them acts as markup."""

import json
from types import SimpleNamespace

import pytest

from transformers_groma.evaluation.benchmarks.rec import BENCHMARK
from transformers_groma.evaluation.reports.report import Results, markdown_report
from transformers_groma.markdown import code_span, escape_markdown, one_line, python_string
from transformers_groma.training.model_card import write_model_card

HOSTILE = "a|b\n# c `d` <script>x</script> [e](http://f) *g* \x1b[31m ![h](i) &lt; ```\r\n| j |"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("org/my_model-7b v1.0", "org/my_model-7b v1.0"),
        (0.001, "0.001"),
        (None, "None"),
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("a\nb\r\n\tc\u2028d", "a b c d"),
        ("`x`", "\\`x\\`"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[a](b)", "\\[a\\](b)"),
        ("*a* _b_ __c__ d_e", "\\*a\\* \\_b\\_ \\_\\_c\\_\\_ d_e"),
        ("~~a~~ $b$", "\\~\\~a\\~\\~ \\$b\\$"),
        ("https://a.b www.c.d", "https:\\//a.b www\\.c.d"),
        ("\x1b[31m\x00\u202e", "\ufffd\\[31m\ufffd\ufffd"),
    ],
)
def test_escaped(text, escaped):
    assert escape_markdown(text) == escaped


def test_code():
    assert code_span("a_b*c") == "`a_b*c`"
    assert code_span("a`b") == "`` a`b ``" and code_span("```") == "```` ``` ````"
    assert code_span("a``b`c") == "``` a``b`c ```" and code_span("a`b``c") == "``` a`b``c ```"
    assert code_span("a|b\nc") == "`a\\|b c`" and code_span("") == "" == code_span(" \n")
    for text in (HOSTILE, 'x"); evil("', "a\\"):
        literal = python_string(text)
        assert "\n" not in literal and "`" not in literal
        assert json.loads(literal) == text == eval(literal)


def test_one_line():
    assert one_line(" a \n b\x07 ") == "a b\ufffd" and one_line(5) == "5"


def cells(line: str) -> list[str]:
    """The cells of a line of a table, as GitHub splits it."""
    return line.replace("\\|", "").strip("|").split("|")


def test_report():
    settings = {"model": HOSTILE, "dataset": HOSTILE, "split": "a|b", "rows": 1, "versions": {"x|y\n": HOSTILE}}

    report = markdown_report(BENCHMARK, Results("rec", {}, settings, 1, 1.0, True), ["a](b) <i>.png"])
    assert "<script>" not in report and "\x1b" not in report and "![h](i)" not in report
    table = report[report.index("| setting |") :].splitlines()
    assert len(table) == 2 + 5 and all(len(cells(line)) == 2 for line in table)
    assert "(a%5D%28b%29%20%3Ci%3E.png)" in report


def test_model_card(tmp_path):
    arguments = SimpleNamespace(hub_model_id=None, output_dir=str(tmp_path / "x|`y` <b>"))
    for name in (
        "learning_rate",
        "weight_decay",
        "lr_scheduler_type",
        "warmup_steps",
        "num_train_epochs",
        "max_steps",
    ):
        setattr(arguments, name, "a|b")
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "max_grad_norm", "optim"):
        setattr(arguments, name, "<i>")
    for name in ("seed", "bf16", "fp16"):
        setattr(arguments, name, 1)
    trainer = SimpleNamespace(
        args=arguments,
        state=SimpleNamespace(log_history=[{"eval_|x": 0.5}], global_step=3),
        card_details={"base_model": "org/m`o", "datasets": [(HOSTILE, 3)], "recipe": {"max|tokens": HOSTILE}},
    )
    for kind in ("chat", "detector"):
        write_model_card(tmp_path, trainer, kind)
        text = (tmp_path / "README.md").read_text()
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert tables and all(len(cells(line)) == 2 for line in tables)
        assert "# x\\|\\`y\\` &lt;b&gt;\n" in text and "`` org/m`o ``" in text
        assert '"x|\\u0060y\\u0060 <b>"' in text and "\x1b" not in text
        assert "<script>" not in text.replace(code_span(HOSTILE), "")
