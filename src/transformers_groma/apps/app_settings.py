"""Settings of the app: the model it speaks for, and the limits of what people may send."""

from dataclasses import dataclass

from ..images import MAX_IMAGE_PIXELS

# The long side of the copy of an image that the browser shows.
SHOWN_SIDE = 1600


@dataclass(frozen=True)
class AppSettings:
    """What the app says about its model, and its limits.

    Args:
        model_name (`str`): as the page names it.
        knows_shapes_only (`bool`): whether it is groma-tiny or glamm-tiny, which only know drawn scenes of coloured
            shapes. The page says so and has scenes as examples.
        max_pixels (`int`): width times height of an image, at most `images.MAX_IMAGE_PIXELS`.
        max_upload_mb (`int`): size of an image file in megabytes.
        max_users (`int`): how many questions are answered at the same time.
        max_waiting (`int`): how many questions may wait.
        max_question_length (`int`): characters of a question.
        max_new_tokens (`int`): tokens of an answer.

    Raises:
        ValueError: a limit that is not positive, or more pixels than the package reads.

    Example:
    >>> AppSettings("groma-7b").max_waiting
    32
    """

    model_name: str
    knows_shapes_only: bool = False
    max_pixels: int = 25_000_000
    max_upload_mb: int = 20
    max_users: int = 8
    max_waiting: int = 32
    max_question_length: int = 1000
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.startswith("max_") and (not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if self.max_pixels > MAX_IMAGE_PIXELS:
            raise ValueError(
                f"`max_pixels` is {self.max_pixels}, but no more than {MAX_IMAGE_PIXELS} are read. Pass at most that, "
                "or raise `transformers_groma.images.MAX_IMAGE_PIXELS`."
            )

    def engine_options(self) -> dict[str, int]:
        """Arguments of `Engine` that fit these limits: questions wait in the engine, which says when too many do."""
        return {"max_batch_size": self.max_users, "max_waiting": self.max_waiting}


__all__ = ["SHOWN_SIDE", "AppSettings"]
