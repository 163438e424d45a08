"""Asks a chat model many questions concurrently, within a budget, and records each answer as it comes.

An interrupted run has kept what it paid for. The caller keeps the answers; beside them there are three files: what
each answer cost, why questions failed, and the sums.
"""

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .._files import write_file
from .._jsonl import JsonlLog, read_jsonl
from .client import ChatClient, EndpointError, RateLimiter, RequestError, Stopped
from .endpoint import Endpoint
from .replies import Reply

# If this many questions in a row fail, each with its retries, the endpoint is down or misused, and the run ends.
MAX_FAILURES_IN_A_ROW = 10

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class AskingFiles:
    """The files in which a run records the outcomes of its questions.

    Args:
        costs (`Path`): JSON lines, one for each answer: name of the question, model, tokens, cost and time.
        failures (`Path`): JSON lines, one for each failure of a question, in all runs: its name, why, and when.
        summary (`Path`): JSON, the sums of `costs`.
        name (`str`): the key of a question's name in them.

    Example:
    >>> AskingFiles.in_folder("work", prefix="review_").costs.name
    'review_costs.jsonl'
    """

    costs: Path
    failures: Path
    summary: Path
    name: str = "name"

    @classmethod
    def in_folder(cls, folder: str | os.PathLike, prefix: str = "", name: str = "name") -> "AskingFiles":
        """The usual files in a folder.

        Args:
            folder (`str` or `Path`): output folder, made if needed.
            prefix (`str`): start of each file's name.
            name (`str`): the key of a question's name.

        Returns:
            `AskingFiles`: `costs.jsonl`, `failures.jsonl` and `cost_summary.json`.
        """
        folder = Path(folder)
        names = ("costs.jsonl", "failures.jsonl", "cost_summary.json")
        return cls(*(folder / f"{prefix}{file}" for file in names), name=name)


@dataclass(frozen=True)
class Budget:
    """Prices of tokens and the largest cost, in any currency.

    Args:
        price_in, price_out (`float`): price of a million prompt and completion tokens.
        max_cost (`float`, *optional*): a run ends before all runs with the same files together cost more. A request is
            assumed to cost as much as the most expensive one so far, and the first one is sent alone.

    Raises:
        ValueError: `max_cost` without prices, or a value that is negative or not finite.

    Example:
    >>> Budget(price_in=2.5, price_out=10.0).cost(prompt_tokens=1000, completion_tokens=100)
    0.0035
    """

    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for option, value in (
            ("--price-in", self.price_in),
            ("--price-out", self.price_out),
            ("--max-cost", 0.0 if self.max_cost is None else self.max_cost),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{option} must not be negative, infinite or NaN, got {value}.")
        if self.max_cost is not None and self.price_in == 0 and self.price_out == 0:
            raise ValueError("--max-cost needs --price-in and --price-out, the prices of a million tokens.")

    def cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> float:
        """The cost of an answer; tokens that the endpoint does not count cost nothing.

        Args:
            prompt_tokens, completion_tokens (`int`, *optional*): as the endpoint counts them.

        Returns:
            `float`: the cost.
        """
        return ((prompt_tokens or 0) * self.price_in + (completion_tokens or 0) * self.price_out) / 1_000_000


@dataclass
class AskingReport:
    """The outcome of a run.

    Args:
        total (`int`): questions of all runs.
        answered (`int`): those that have an answer now.
        new (`int`): those that this run got an answer to.
        failed (`int`): questions that this run got no answer to.
        retries (`int`): requests that were tried again.
        over_budget (`bool`): whether it ended because the next request could exceed the largest cost.
        stopped (`str`): another reason why it ended early; empty if it did not.
        cost (`float`): cost of all runs with the same files.
    """

    total: int = 0
    answered: int = 0
    new: int = 0
    failed: int = 0
    retries: int = 0
    over_budget: bool = False
    stopped: str = ""
    cost: float = 0.0

    def summary(self, things: str) -> str:
        """Sum up the run in one line.

        Args:
            things (`str`): what the questions are about, in the plural.

        Returns:
            `str`: the line.

        Example:
        >>> AskingReport(total=10, answered=4, new=3, failed=1, retries=2, cost=0.5).summary("images")
        '3 new answers, 4 of 10 images answered; 1 failed, 2 requests tried again; cost of all runs 0.5000'
        """
        line = f"{self.new} new answers, {self.answered} of {self.total} {things} answered"
        line += f"; {self.failed} failed, {self.retries} requests tried again; cost of all runs {self.cost:.4f}"
        if self.over_budget:
            line += "; ended, as the next request could exceed --max-cost"
        return f"{line}; stopped: {self.stopped}" if self.stopped else line


def ask_all(
    questions: Mapping[str, Callable[[], Messages]],
    endpoint: Endpoint,
    keep: Callable[[str, Reply], None],
    files: AskingFiles,
    *,
    answered: int = 0,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    budget: Budget | None = None,
    unit: str = "question",
) -> AskingReport:
    """Ask all questions that have no answer yet.

    Args:
        questions (`Mapping[str, Callable]`): by name, a function that makes the messages of the question (OpenAI chat
            format), called when its turn comes. If it raises `RequestError`, only this question fails.
        endpoint (`Endpoint`): where to ask.
        keep (`Callable[[str, Reply], None]`): writes an answer down; called in the calling thread, as soon as the
            answer is there.
        files (`AskingFiles`): where costs and failures are noted.
        answered (`int`): questions answered in earlier runs, for the progress bar and the report.
        concurrency (`int`): requests at the same time.
        requests_per_minute (`float`, *optional*): at most this many, retries included.
        budget (`Budget`, *optional*): prices and the largest cost.
        unit (`str`): what a question is about, for the progress bar.

    Returns:
        `AskingReport`: the outcome.

    Raises:
        ValueError: `concurrency` is below 1.
        EndpointError: the endpoint refuses every question; answers so far are kept.
        KeyboardInterrupt: raised again once the requests that were under way are in the files.
    """
    if concurrency < 1:
        raise ValueError(f"`concurrency` must be at least 1, got {concurrency}.")
    todo = deque(questions)
    stop = threading.Event()
    client = ChatClient(endpoint, RateLimiter(requests_per_minute), stop)
    total = answered + len(questions)
    with (
        _Ledger(files, keep, budget or Budget(), AskingReport(total, answered)) as ledger,
        tqdm(total=total, initial=answered, desc="ask", unit=unit) as progress,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        pending: dict[Future[Reply], str] = {}
        try:
            while (todo or pending) and not ledger.report.stopped:
                while todo and len(pending) < concurrency and ledger.affordable(len(pending)):
                    name = todo.popleft()
                    pending[pool.submit(_ask, client, questions[name])] = name
                # Nothing is under way, so no cost will become known that would make the next request affordable.
                if not pending:
                    ledger.report.over_budget = True
                    break
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    progress.update(ledger.enter(pending.pop(future), future))
                progress.set_postfix(
                    cost=f"{ledger.report.cost:.4f}", failed=ledger.report.failed, retries=client.retries
                )
        finally:
            # However the loop ended: requests under way are paid for, so they are waited for and written down; those
            # that only wait for their turn raise `Stopped`.
            stop.set()
            wait(pending)
            for future, name in pending.items():
                # An `EndpointError` is on its way out of the loop already; this is another thread's copy of it.
                if not isinstance(future.exception(), EndpointError):
                    ledger.enter(name, future)
            ledger.report.retries = client.retries
            write_cost_summary(files)
    return ledger.report


def write_cost_summary(files: AskingFiles) -> dict[str, Any]:
    """Add up the costs of all runs and write the sums.

    Args:
        files (`AskingFiles`): `costs` is read and `summary` written.

    Returns:
        `dict`: number of answers, tokens and cost.
    """
    costs = read_jsonl(files.costs)
    summary = {
        "answers": len(costs),
        "prompt_tokens": sum(cost["prompt_tokens"] or 0 for cost in costs),
        "completion_tokens": sum(cost["completion_tokens"] or 0 for cost in costs),
        "cost": math.fsum(cost["cost"] for cost in costs),
    }
    write_file(files.summary, (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def _ask(client: ChatClient, make_messages: Callable[[], Messages]) -> Reply:
    return client.ask(make_messages())


class _Ledger:
    """Records the outcome of each request and adds up the costs."""

    def __init__(
        self, files: AskingFiles, keep: Callable[[str, Reply], None], budget: Budget, report: AskingReport
    ) -> None:
        self._name = files.name
        self._keep = keep
        self._budget = budget
        spent = [cost["cost"] for cost in read_jsonl(files.costs)]
        self._highest_cost = max(spent, default=None)
        self._costs, self._failures = JsonlLog(files.costs), JsonlLog(files.failures)
        self._failures_in_a_row = 0
        self.report = report
        self.report.cost = math.fsum(spent)

    def __enter__(self) -> "_Ledger":
        return self

    def __exit__(self, *error: object) -> None:
        self._costs.close()
        self._failures.close()

    def affordable(self, pending: int) -> bool:
        """Whether one more request beside the pending ones would stay within the largest cost; see `Budget`."""
        if self._budget.max_cost is None:
            return True
        if self._highest_cost is None:
            return pending == 0
        return self.report.cost + (pending + 1) * self._highest_cost <= self._budget.max_cost

    def enter(self, name: str, future: Future[Reply]) -> int:
        """Record the outcome of a request; returns the number of new answers, 1 or 0."""
        try:
            reply = future.result()
        except Stopped:
            return 0
        except RequestError as error:
            self._failures.write({self._name: name, "error": str(error), "time": _now()})
            self.report.failed += 1
            self._failures_in_a_row += 1
            if self._failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                self.report.stopped = f"{MAX_FAILURES_IN_A_ROW} in a row failed, the last with: {error}"
            return 0
        self._failures_in_a_row = 0
        cost = self._budget.cost(reply.prompt_tokens, reply.completion_tokens)
        # The cost first: if the process is killed between the two, the money is spent anyway.
        self._costs.write(
            {
                self._name: name,
                "model": reply.model,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "cost": cost,
                "time": _now(),
            }
        )
        self._keep(name, reply)
        self._highest_cost = max(cost, self._highest_cost or 0.0)
        self.report.cost += cost
        self.report.new += 1
        self.report.answered += 1
        if self._budget.max_cost is not None and reply.prompt_tokens is None:
            self.report.stopped = "the endpoint does not count tokens, so --max-cost cannot be kept"
        return 1


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


__all__ = ["AskingFiles", "AskingReport", "Budget", "ask_all", "write_cost_summary"]
