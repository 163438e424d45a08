"""The temperatures of the weights by family of encoder: tuned for CLIP, the same and untuned for others."""

import math
from typing import NamedTuple


class Temperatures(NamedTuple):
    """What similarities are multiplied with before the softmax that makes weights of them.

    Args:
        image (`float`): for the views of an image.
        text (`float`): for the descriptions of a label.
        is_tuned (`bool`): whether the values were chosen for this family of encoder.
    """

    image: float
    text: float
    is_tuned: bool


# By `model_type`. The paper chose e⁴ and e² on OpenAI's CLIP. Nothing is published for other encoders, whose
# similarities have other ranges (those of SigLIP are much smaller), so that their values are a start, not a choice.
TEMPERATURES = {"clip": Temperatures(math.exp(4.0), math.exp(2.0), is_tuned=True)}
UNTUNED = Temperatures(math.exp(4.0), math.exp(2.0), is_tuned=False)


def default_temperatures(model_type: str) -> Temperatures:
    """The temperatures of an encoder where the caller names none.

    Args:
        model_type (`str`): of the encoder's configuration.

    Returns:
        `Temperatures`

    Example:
    >>> [round(value, 3) for value in default_temperatures("clip")[:2]], default_temperatures("siglip").is_tuned
    ([54.598, 7.389], False)
    """
    return TEMPERATURES.get(model_type, UNTUNED)


# Far beyond it a temperature times a cosine is infinite in float32, and weights are NaN. Long before, one view has all
# of the weight.
MAX_TEMPERATURE = 1e30


def check_temperature(value: float, name: str) -> float:
    """A temperature as a float, if it can be one.

    Args:
        value (`float`): what the caller passed.
        name (`str`): of the argument.

    Raises:
        ValueError: it is not a number above 0 and at most 1e30.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TEMPERATURE:
        raise ValueError(
            f"`{name}` must be a finite number above 0, got {value!r:.100} (1e30 at most); the paper has "
            f"{math.exp(4):.3f} for images and {math.exp(2):.3f} for texts."
        )
    return float(value)


__all__ = ["TEMPERATURES", "UNTUNED", "Temperatures", "check_temperature", "default_temperatures"]
