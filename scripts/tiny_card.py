"""Cards of the tiny models: a template, the minutes of the training, and the metrics in the card's own metadata."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard
from transformers import PreTrainedModel

from transformers_groma.model_cards import fill_card


def fill_tiny_card(
    template: Path,
    name: str,
    model: PreTrainedModel,
    steps: Sequence[tuple[str, int]],
    headlines: Sequence[tuple[str, str, str]],
    results: Sequence[EvalResult],
) -> str:
    """Fill in the card of a tiny model. The table for readers repeats some of the metrics in the metadata.

    Args:
        template (`Path`): Markdown with fields.
        name (`str`): of the model.
        model (`PreTrainedModel`): the model.
        steps (`Sequence[tuple[str, int]]`): each step of its training, and the minutes it took.
        headlines (`Sequence[tuple[str, str, str]]`): for each row of the table dataset and metric, as they are named
            in the metadata, and what the metric says.
        results (`Sequence[EvalResult]`): metrics of `groma evaluate`; none right after a training.

    Returns:
        `str`: Markdown with metadata.

    Raises:
        KeyError: some results, but not all that the table shows.
    """
    values = {(result.dataset_type, result.metric_type): result.metric_value for result in results}
    card = ModelCard(
        fill_card(
            template,
            config=model.config,
            parameters=model.num_parameters(),
            steps=steps,
            metrics=[(meaning, values[dataset, metric]) for dataset, metric, meaning in headlines if values],
            rows=results[0].dataset_args["rows"] if results else None,
        )
    )
    if results:
        card.data.eval_results, card.data.model_name = list(results), name
    return str(card)


def measured_results(folder: Path) -> Sequence[EvalResult]:
    """The metrics in the metadata of a folder's card; none if it has no card, or was not evaluated.

    Args:
        folder (`Path`): folder of a model.
    """
    card = folder / "README.md"
    return (ModelCard.load(card).data.eval_results or ()) if card.exists() else ()
