"""Asking a vision model about the selected images: any endpoint that speaks OpenAI's chat completions.

Every answer is in `answers.jsonl` before the next one is handled, so that a run that was killed goes on where it stopped
and no answer is paid for twice.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from processing.groma_instruct import files
from processing.groma_instruct.answers import Answer, Cost, current_answers, write_cost_summary
from processing.groma_instruct.endpoint import (
    Asker,
    Endpoint,
    EndpointError,
    RateLimiter,
    Reply,
    RequestError,
    Stopped,
)
from processing.groma_instruct.selection import SelectedImage

# So many images in a row that failed, each with its retries, are no accident: the endpoint is down or misused.
MAX_FAILURES_IN_A_ROW = 10


@dataclass
class QueryReport:
    """What became of a run.

    Args:
        selected (`int`): images to ask about, over all runs.
        answered (`int`): of them, those with an answer now.
        new (`int`): of them, those that this run asked.
        failed (`int`): images that this run got no answer for.
        retries (`int`): requests that were tried again.
        over_budget (`bool`): whether it ended because the next request could exceed the largest cost.
        stopped (`str`): why else it ended before its end; empty if it did not.
        cost (`float`): of all runs of the folder.
    """

    selected: int = 0
    answered: int = 0
    new: int = 0
    failed: int = 0
    retries: int = 0
    over_budget: bool = False
    stopped: str = ""
    cost: float = 0.0


def query_images(
    selection: Sequence[SelectedImage],
    images: Path,
    output: Path,
    endpoint: Endpoint,
    *,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    price_in: float = 0.0,
    price_out: float = 0.0,
    max_cost: float | None = None,
) -> QueryReport:
    """Ask about the images that have no answer yet.

    Writes `answers.jsonl`, `costs.jsonl`, `failures.jsonl` (why images got no answer, of all runs) and
    `cost_summary.json` into `output`.

    Args:
        selection (`Sequence[SelectedImage]`): the images.
        images (`Path`): folder of the pictures.
        output (`Path`): the work folder.
        endpoint (`Endpoint`): where to ask.
        concurrency (`int`): requests at the same time.
        requests_per_minute (`float`, *optional*): at most so many, retries included.
        price_in, price_out (`float`): of a million prompt and completion tokens.
        max_cost (`float`, *optional*): the run ends before all runs of the folder together cost more, as far as can be
            told: a request is taken to cost as much as the dearest so far, and the first one goes alone.

    Returns:
        `QueryReport`: what became of it.

    Raises:
        EndpointError: the endpoint cannot be used like this; answers so far are kept.
        KeyboardInterrupt: after the requests that were under way are in the files.
    """
    answered = current_answers(files.read_jsonl(output / files.ANSWERS), selection)
    todo = deque(selected for selected in selection if selected["image_id"] not in answered)
    stop = threading.Event()
    asker = Asker(endpoint, RateLimiter(requests_per_minute), stop)
    with (
        _Ledger(output, len(selection), len(answered), price_in, price_out, max_cost) as ledger,
        tqdm(total=len(selection), initial=len(answered), desc="query", unit="image") as progress,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        pending: dict[Future[Reply], SelectedImage] = {}
        try:
            while (todo or pending) and not ledger.report.stopped:
                while todo and len(pending) < concurrency and ledger.affordable(len(pending)):
                    selected = todo.popleft()
                    pending[pool.submit(asker.ask, selected, images)] = selected
                if not pending:
                    ledger.report.over_budget = True
                    break
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    progress.update(ledger.enter(pending.pop(future), future))
                progress.set_postfix(
                    cost=f"{ledger.report.cost:.4f}", failed=ledger.report.failed, retries=asker.retries
                )
        finally:
            # Requests under way are paid for and waited for; those that only wait for their turn give up.
            stop.set()
            wait(pending)
            for future, selected in pending.items():
                if not isinstance(future.exception(), EndpointError):
                    ledger.enter(selected, future)
            ledger.report.retries = asker.retries
            write_cost_summary(output)
    return ledger.report


class _Ledger:
    """Writes down what became of each request, and keeps count."""

    def __init__(
        self, output: Path, selected: int, answered: int, price_in: float, price_out: float, max_cost: float | None
    ) -> None:
        self._prices = price_in, price_out
        self._max_cost = max_cost
        spent = [cost["cost"] for cost in files.read_jsonl(output / files.COSTS)]
        self._dearest = max(spent, default=None)
        self._answers, self._costs, self._failures = (
            files.JsonlLog(output / name) for name in (files.ANSWERS, files.COSTS, files.FAILURES)
        )
        self._failures_in_a_row = 0
        self.report = QueryReport(selected, answered, cost=math.fsum(spent))

    def __enter__(self) -> "_Ledger":
        return self

    def __exit__(self, *error: object) -> None:
        for log in (self._answers, self._costs, self._failures):
            log.close()

    def affordable(self, pending: int) -> bool:
        """Whether one more request beside the pending ones stays within the largest cost, as far as can be told."""
        if self._max_cost is None:
            return True
        if self._dearest is None:
            return pending == 0
        return self.report.cost + (pending + 1) * self._dearest <= self._max_cost

    def enter(self, selected: SelectedImage, future: Future[Reply]) -> int:
        """Write down a request that has ended; the number of new answers, 1 or 0."""
        try:
            reply = future.result()
        except Stopped:
            return 0
        except RequestError as error:
            self._failures.write({"image_id": selected["image_id"], "error": str(error), "time": _now()})
            self.report.failed += 1
            self._failures_in_a_row += 1
            if self._failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                self.report.stopped = f"{MAX_FAILURES_IN_A_ROW} images in a row failed, the last with: {error}"
            return 0
        self._failures_in_a_row = 0
        cost = (
            (reply.prompt_tokens or 0) * self._prices[0] + (reply.completion_tokens or 0) * self._prices[1]
        ) / 1_000_000
        # The cost first: where a kill falls between the two, the money is gone all the same.
        self._costs.write(
            Cost(
                image_id=selected["image_id"],
                model=reply.model,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                cost=cost,
                time=_now(),
            )
        )
        self._answers.write(
            Answer(
                image_id=selected["image_id"],
                boxes_xyxy=selected["boxes_xyxy"],
                model=reply.model,
                text=reply.text,
                finish_reason=reply.finish_reason,
                refusal=reply.refusal,
            )
        )
        self._dearest = max(cost, self._dearest or 0.0)
        self.report.cost += cost
        self.report.new += 1
        self.report.answered += 1
        if self._max_cost is not None and reply.prompt_tokens is None:
            self.report.stopped = "the endpoint does not count tokens, so --max-cost cannot be kept"
        return 1


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def summary_line(report: QueryReport) -> str:
    """What a run did, in one line.

    Args:
        report (`QueryReport`): the run.

    Returns:
        `str`: the line.

    Example:
    >>> summary_line(QueryReport(selected=10, answered=4, new=3, failed=1, retries=2, cost=0.5))
    '3 new answers, 4 of 10 images answered; 1 failed, 2 requests tried again; cost of all runs 0.5000'
    """
    line = f"{report.new} new answers, {report.answered} of {report.selected} images answered"
    line += f"; {report.failed} failed, {report.retries} requests tried again; cost of all runs {report.cost:.4f}"
    if report.over_budget:
        line += "; ended, as the next request could exceed --max-cost"
    return f"{line}; stopped: {report.stopped}" if report.stopped else line
