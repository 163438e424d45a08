"""`groma describe-labels`: has a chat model describe labels, for zero-shot classification."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import write_file
from .._words import counted, quoted
from .arguments import CommandError, add_command, errors_of, positive
from .endpoint_arguments import add_endpoint_arguments
from .label_arguments import LABELS_HELP, labels_of
from .output import note

if TYPE_CHECKING:
    from ..endpoints.asking import AskingReport, Budget
    from ..endpoints.endpoint import Endpoint
    from ..zero_shot.describing import Described, DescribingFiles, DescribingPlan

# As in `zero_shot.describing`, repeated so that `--help` need not import it.
ANSWERS_EACH = 10
TEMPERATURE = 0.99
MAX_TOKENS = 80
_NAMED_AT_MOST = 5


def add_describe_labels(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "describe-labels",
        run_describe_labels,
        "have a chat model describe labels, for zero-shot classification",
        "groma describe-labels cat,dog,crane --endpoint http://localhost:8000/v1 --model some-model "
        "--output animals.json\n"
        "         groma describe-labels birds.txt --about 'a species of bird' --model gpt-4o-mini --output birds.json",
    )
    parser.add_argument("labels", metavar="LABELS", help=f"{LABELS_HELP}; or a folder with a folder for each class")
    parser.add_argument("--model", metavar="NAME", required=True, help="name of the model that is asked")
    parser.add_argument(
        "--output",
        metavar="FILE.json",
        type=Path,
        required=True,
        help="the descriptions, in CuPL's format; the answers are kept beside it, and the same command again resumes",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.json; answers beside it are kept")
    what = parser.add_argument_group("what is asked")
    what.add_argument(
        "--about", metavar="TEXT", help="what the labels are, such as 'a species of bird', where names mean more"
    )
    what.add_argument(
        "--questions",
        metavar="FILE",
        type=Path,
        help="JSON list of questions with {} where the name goes (default: five about looks and surroundings)",
    )
    what.add_argument(
        "--answers",
        metavar="N",
        type=positive(int),
        default=ANSWERS_EACH,
        help="answers to each question, each a request of its own (default: %(default)s)",
    )
    what.add_argument(
        "--min-sentences",
        metavar="N",
        type=positive(int),
        default=1,
        help="a label with fewer sentences is an error (default: %(default)s)",
    )
    what.add_argument(
        "--temperature",
        metavar="T",
        type=temperature,
        default=TEMPERATURE,
        help="high, so that answers differ (default: %(default)s)",
    )
    what.add_argument(
        "--max-tokens",
        metavar="N",
        type=positive(int),
        default=MAX_TOKENS,
        help="longest answer; a sentence that it cuts off is left out (default: %(default)s)",
    )
    what.add_argument(
        "--stop",
        metavar="TEXT",
        action="append",
        help="end an answer before this text, as CuPL does at '.'; repeat it",
    )
    what.add_argument(
        "--options",
        metavar="JSON",
        type=json_object,
        default={},
        help="further fields of the request; null leaves one out, as in "
        """'{"max_tokens": null, "max_completion_tokens": 2000}' for a model that thinks first""",
    )
    add_endpoint_arguments(parser.add_argument_group("where, and for how much"), "all runs together")


def temperature(text: str) -> float:
    """A sampling temperature as endpoints take it."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 2")
    return value


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r:.100} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r:.100} must be a JSON object")
    return value


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


def run_describe_labels(arguments: argparse.Namespace) -> None:
    """`groma describe-labels`: ask what is not answered yet, and write the descriptions."""
    labels = labels_of(arguments.labels, "LABELS")
    _check_output(arguments)
    if arguments.answers > 1 and arguments.temperature == 0:
        raise CommandError("--temperature 0 gives the same answer each time: pass --answers 1, or a higher one.")
    try:
        from ..endpoints.client import EndpointError
        from ..zero_shot.describing import DescribingFiles, ask_about_labels, read_described
    except ImportError as error:
        raise CommandError(str(error)) from error
    plan = _plan(arguments, labels)
    endpoint, budget = _endpoint(arguments)
    files = DescribingFiles.of(arguments.output)
    with errors_of("--output"):
        described = read_described(plan, files, endpoint)
    _check_replaced(arguments, described)
    report = None
    if described.unanswered:
        open_questions = sum(described.unanswered.values())
        note(f"{counted(open_questions, 'question')} to ask about {counted(len(described.unanswered), 'label')}")
        try:
            with errors_of("--output"):
                report = ask_about_labels(
                    plan,
                    files,
                    endpoint,
                    concurrency=arguments.concurrency,
                    requests_per_minute=arguments.requests_per_minute,
                    budget=budget,
                )
        except KeyboardInterrupt:
            note(f"the answers so far are in {files.answers}: run the same command again to resume")
            raise
        except EndpointError as error:
            raise _named_as_here(error) from error
        note(report.summary("questions"))
        described = read_described(plan, files, endpoint)
    _check_described(arguments, described, report, files)
    if not arguments.output.exists() or arguments.output.read_bytes() != described.content:
        write_file(arguments.output, described.content)
    for line in _notes(described, files):
        note(line)
    print(f"{arguments.output}: {described.summary()}", flush=True)


def _check_output(arguments: argparse.Namespace) -> None:
    output = arguments.output
    if output.suffix != ".json":
        raise CommandError(f"--output {str(output)!r} must be a file whose name ends with .json: pass another name.")
    if output.is_dir():
        raise CommandError(f"--output {str(output)!r} is a folder: pass a file in it.")
    source = Path(arguments.labels)
    if output.exists() and source.exists() and output.samefile(source):
        raise CommandError(f"--output {str(output)!r} is the file of LABELS, which would be lost: pass another one.")


def _check_replaced(arguments: argparse.Namespace, described: "Described") -> None:
    """Refuse to replace a file that says something else, before anything is paid for."""
    output = arguments.output
    if not output.exists() or arguments.overwrite:
        return
    with errors_of("--output"):
        if described.unanswered or output.read_bytes() != described.content:
            raise CommandError(
                f"--output {str(output)!r} exists, and would be replaced: pass --overwrite, or another file."
            )


def _plan(arguments: argparse.Namespace, labels: list[str]) -> "DescribingPlan":
    from ..zero_shot.describing import QUESTIONS, DescribingPlan
    from ..zero_shot.label_texts import read_templates

    with errors_of("--questions"):
        questions = QUESTIONS if arguments.questions is None else read_templates(arguments.questions)
    with errors_of("what is asked"):
        return DescribingPlan(labels, questions, arguments.answers, arguments.about)


def _endpoint(arguments: argparse.Namespace) -> "tuple[Endpoint, Budget]":
    from ..endpoints.asking import Budget
    from ..endpoints.endpoint import Endpoint, read_api_key

    options = {"temperature": arguments.temperature, "max_tokens": arguments.max_tokens}
    options |= {"stop": arguments.stop} if arguments.stop else {}
    options |= arguments.options
    for name in ("model", "messages", "stream", "n"):
        if name in options:
            raise CommandError(f"--options cannot set {name!r}, which this command sets itself: leave it out.")
    options = {name: value for name, value in options.items() if value is not None}
    try:
        key = read_api_key(arguments.api_key_env, arguments.base_url)
        endpoint = Endpoint(arguments.model, arguments.base_url, key, options=options)
        return endpoint, Budget(arguments.price_in, arguments.price_out, arguments.max_cost)
    except ValueError as error:  # it names the option
        raise _named_as_here(error) from error


def _named_as_here(error: Exception) -> CommandError:
    """An error of an endpoint, which has two names for its address."""
    return CommandError(str(error).replace("--base-url", "--endpoint"))


def _check_described(
    arguments: argparse.Namespace, described: "Described", report: "AskingReport | None", files: "DescribingFiles"
) -> None:
    """Refuse to write a file with labels that lack descriptions, or one of a run that ended early."""
    open_questions = sum(described.unanswered.values())
    if report is not None and open_questions and (report.stopped or report.over_budget):
        why = report.stopped.rstrip(".") or f"the next request could exceed --max-cost {arguments.max_cost:g}"
        remedy = "run the same command again to resume" if report.stopped else "pass a higher one to go on"
        raise CommandError(
            f"ended early, as {why}. Without an answer: {counted(open_questions, 'question')} about "
            f"{counted(len(described.unanswered), 'label')}, so {arguments.output} is not written: "
            f"{remedy}; answers are kept."
        )
    lacking = described.labels_below(arguments.min_sentences)
    if not lacking:
        return
    named = ", ".join(f"{label!r} has {number}" for label, number in list(lacking.items())[:_NAMED_AT_MOST])
    named += f" and {len(lacking) - _NAMED_AT_MOST} more" if len(lacking) > _NAMED_AT_MOST else ""
    if any(label in described.unanswered for label in lacking):
        remedy = f"run the same command again to ask what failed; {files.asking.failures} says why"
    elif described.cut:
        remedy = "pass a larger --max-tokens, which cut answers off, and another --output"
    else:
        remedy = f"see what {files.answers} holds, and pass more --answers, other --questions or a smaller "
        remedy += "--min-sentences"
    raise CommandError(
        f"{len(lacking)} of {counted(len(described.texts), 'label')} {'has' if len(lacking) == 1 else 'have'} too few "
        f"sentences: {named}, at least {arguments.min_sentences} are needed ({counted(described.empty, 'answer')} "
        f"held none), so {arguments.output} is not written. To mend it, {remedy}."
    )


def _notes(described: "Described", files: "DescribingFiles") -> list[str]:
    """What deserves a look, though the file is written."""
    notes = []
    if described.unanswered:
        named = quoted(list(described.unanswered))
        notes.append(
            f"without an answer: {counted(sum(described.unanswered.values()), 'question')}, about {named}: "
            f"{files.asking.failures} says why; the same command with --overwrite asks them again"
        )
    if described.empty:
        notes.append(f"{counted(described.empty, 'answer')} held no sentence")
    if described.unused:
        notes.append(f"{counted(described.unused, 'answer')} in {files.answers} are to other questions or labels")
    return notes


__all__ = ["add_describe_labels"]
