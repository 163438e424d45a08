"""LLaVA-Bench in miniature, for `make evaluate-tiny`: test scenes, and a program as the judge.

    python -m scripts.groma_tiny.llava_bench --output output/groma-tiny \\
        [--model hub_configs/groma-tiny] [--rows 500] [--card MODEL_DIR]

The truth about synthetic scenes is known, so the judge need not be a language model: the score of an answer, 0 to 10,
is the F1 of its words and the reference's. The judge speaks OpenAI's chat completions on this machine, and `groma
evaluate llava-bench` asks it like any other. Its scores compare with those of no other judge.
"""

import argparse
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm import tqdm

from transformers_groma import cli
from transformers_groma.cli.arguments import positive
from transformers_groma.evaluation.benchmarks.llava_bench_files import LLAVA_BENCH_FEATURES
from transformers_groma.shapes.rows import ShapesOptions
from transformers_groma.shapes.scenes import Scene
from transformers_groma.shapes.wording import words

JUDGE = "right-words"
MODEL = Path(__file__).parents[2] / "hub_configs" / "groma-tiny"
SEED = 1000
# The kinds of questions that are answered in words, and their category in LLaVA-Bench.
CATEGORIES = {
    "exists": "conv",
    "color": "conv",
    "shape": "conv",
    "region-caption": "conv",
    "grounded-caption": "detail",
    "count": "complex",
    "neighbor": "complex",
}
ARTICLES = {"a", "an", "the"}
MAX_SCORE = 10
_ANSWERS = re.compile(r"\[Assistant (\d)\]\n(.*?)\n\n\[End of Assistant \1\]", re.DOTALL)


def bench_rows(count: int) -> Iterator[dict[str, Any]]:
    """Questions about test scenes, each about a scene of its own.

    Args:
        count (`int`): how many.

    Yields:
        `dict`: the columns of `LLAVA_BENCH_FEATURES`, boxes `xyxy` in pixels.
    """
    options = ShapesOptions("chat", seed=SEED, split="test", evaluation=True)
    asked = ((index, *options.conversation(index)) for index in itertools.count())
    in_words = (found for found in asked if found[2][0].kind in CATEGORIES)
    for index, scene, (exchange,) in itertools.islice(in_words, count):
        row = options.row(index)
        yield {
            **row,
            "source": "shapes-llava-bench",
            "category": CATEGORIES[exchange.kind],
            "question_id": row["image_id"],
            "context": scene_context(scene),
        }


def scene_context(scene: Scene) -> str:
    """Describe a scene to a judge that sees no image: objects and their boxes, `xyxy`, as fractions of the image."""
    return "\n".join(
        f"{words(item.attributes)}: {[round(value / scene.image_size, 3) for value in item.box_xyxy]}"
        for item in scene.objects
    )


def word_score(answer: str, reference: str) -> float:
    """Score an answer from 0 to 10 by the F1 of its words, without articles and punctuation.

    Args:
        answer (`str`): the answer to score.
        reference (`str`): the true answer.

    Returns:
        `float`: 10 for the same words in any order.

    Example:
    >>> word_score("A small red circle.", "A small green circle.")
    6.67
    """
    found, right = (
        Counter(word for word in re.findall(r"\w+", text.lower()) if word not in ARTICLES)
        for text in (answer, reference)
    )
    common = (found & right).total()
    return round(MAX_SCORE * 2 * common / (found.total() + right.total()), 2) if common else 0.0


def judge(messages: Sequence[dict[str, str]]) -> str:
    """Answer as judges are asked to: with both scores.

    Args:
        messages (`Sequence[dict]`): the request of `groma evaluate llava-bench`.

    Returns:
        `str`: two numbers; the first is the score of the reference.
    """
    answers = dict(_ANSWERS.findall(messages[-1]["content"]))
    return f"{MAX_SCORE} {word_score(answers['2'], answers['1']):g}"


class JudgeHandler(BaseHTTPRequestHandler):
    """The judge as an OpenAI-compatible server."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": judge(request["messages"])}
        body = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": JUDGE,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay silent about single requests."""


@contextmanager
def running_judge() -> Iterator[str]:
    """Run the judge in a thread of its own.

    Yields:
        `str`: the base URL of its endpoint.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), JudgeHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def main(argv: Sequence[str] | None = None) -> int:
    """Make the questions, and ask the model and the judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="questions go to test/, metrics to metrics/ in it")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--rows", type=positive(int), default=500)
    parser.add_argument("--card", type=Path, help="write the metrics into the model card there")
    arguments = parser.parse_args(argv)
    if arguments.card is not None and not arguments.card.is_dir():
        parser.error(f"--card {str(arguments.card)!r} is not a folder: pass a model's folder.")
    dataset = arguments.output / "test" / "shapes-llava-bench"
    dataset.mkdir(parents=True, exist_ok=True)
    rows = list(tqdm(bench_rows(arguments.rows), total=arguments.rows, desc="questions", unit="row"))
    path = dataset / "test-00000-of-00001.parquet"
    # Masks of the scenes are not among the columns of this benchmark.
    columns = [{name: row[name] for name in LLAVA_BENCH_FEATURES} for row in rows]
    Dataset.from_list(columns, features=LLAVA_BENCH_FEATURES).to_parquet(path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)
    with running_judge() as address:
        command = ["evaluate", "llava-bench", "--model", arguments.model, "--dataset", dataset, "--gallery", 24]
        command += ["--output", arguments.output / "metrics" / "llava-bench", "--judge", JUDGE, "--base-url", address]
        command += [] if arguments.card is None else ["--card", arguments.card]
        return cli.main([str(word) for word in command])


if __name__ == "__main__":
    raise SystemExit(main())
