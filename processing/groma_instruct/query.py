"""Asks a vision model about the selected images, at any OpenAI-compatible endpoint.

Every answer is in `answers.jsonl` before the next one is handled: an interrupted run resumes, and no answer is paid
for twice.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processing.groma_instruct import files
from processing.groma_instruct.answers import Answer, current_answers
from processing.groma_instruct.context import build_messages
from processing.groma_instruct.selection import SelectedImage
from transformers_groma._jsonl import JsonlLog, read_jsonl
from transformers_groma.data.image_files import read_image_bytes
from transformers_groma.data.left_out import DATA_ERRORS, SkipRecord
from transformers_groma.endpoints.asking import AskingFiles, AskingReport, Budget, ask_all
from transformers_groma.endpoints.client import RequestError
from transformers_groma.endpoints.endpoint import Endpoint
from transformers_groma.endpoints.replies import Reply


def query_images(
    selection: Sequence[SelectedImage],
    images: Path,
    output: Path,
    endpoint: Endpoint,
    *,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    budget: Budget | None = None,
) -> AskingReport:
    """Ask about the images that have no answer yet.

    Writes `answers.jsonl`, `costs.jsonl`, `failures.jsonl` (why images got no answer, of all runs) and
    `cost_summary.json` into `output`.

    Args:
        selection (`Sequence[SelectedImage]`): the images.
        images (`Path`): folder of the images.
        output (`Path`): the work folder.
        endpoint (`Endpoint`): where to ask.
        concurrency (`int`): requests at the same time.
        requests_per_minute (`float`, *optional*): at most this many, retries included.
        budget (`Budget`, *optional*): prices, and what all runs of the folder together may cost.

    Returns:
        `AskingReport`: the outcome.

    Raises:
        EndpointError: the endpoint cannot be used like this; answers so far are kept.
        KeyboardInterrupt: after the requests that were under way are in the files.
    """
    answered = current_answers(read_jsonl(output / files.ANSWERS), selection)
    todo = {selected["image_id"]: selected for selected in selection if selected["image_id"] not in answered}
    questions: dict[str, Callable[[], list[dict[str, Any]]]] = {
        name: partial(_messages, selected, images) for name, selected in todo.items()
    }
    log = JsonlLog(output / files.ANSWERS)

    def keep(name: str, reply: Reply) -> None:
        log.write(
            Answer(
                image_id=name,
                boxes_xyxy=todo[name]["boxes_xyxy"],
                model=reply.model,
                text=reply.text,
                finish_reason=reply.finish_reason,
                refusal=reply.refusal,
            )
        )

    try:
        return ask_all(
            questions,
            endpoint,
            keep,
            AskingFiles.in_folder(output, name="image_id"),
            answered=len(answered),
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            budget=budget,
            unit="image",
        )
    finally:
        log.close()


def _messages(selected: SelectedImage, images: Path) -> list[dict[str, Any]]:
    try:
        return build_messages(selected, read_image_bytes(images / selected["file_name"]))
    except (SkipRecord, *DATA_ERRORS) as error:
        raise RequestError(f"{selected['file_name']}: {error}") from error
