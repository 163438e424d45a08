"""Which table a zero-shot run makes: methods, views, scores, repeats; checked when it is named."""

from dataclasses import dataclass

from ...zero_shot.methods import METHODS
from ...zero_shot.released_protocol import DRAWN_VIEWS, POOL_SIZE, REPEATS
from ...zero_shot.scores import SCORES
from ...zero_shot.view_sources import VIEW_SOURCES
from ...zero_shot.views import BOUNDS, RELEASED_BOUNDS, check_count
from .image_features import STORED_DTYPES
from .published_accuracy import PUBLISHED


@dataclass(frozen=True)
class TableOptions:
    """Which table a run makes.

    Args:
        methods (`tuple[str, ...]`, *optional*): names of `METHODS`; by default all that can run.
        views (`tuple[str, ...]`): kinds of views of `"wca"`: `"random"`, `"grid"`, `"regions"`, `"both"`.
        scores (`tuple[str, ...]`): scores of `"wca"`: `"paper"`, `"released"`.
        view_count (`int`): random views of an image in each repeat, and views of the grid.
        seed (`int`): the first seed, of random views and random texts.
        seeds (`int`): how many seeds, each a repeat.
        released (`bool`): the released protocol: repeats are draws, with replacement, from one pool of random views.
        pool (`int`): with `released`, how many views of an image are encoded.
        draws (`int`): with `released`, how often is drawn.
        bounds (`(float, float)`, *optional*): sides of random views, as shares of the shorter side of the image; 0.5
            and 0.9 by default, and 0.1 and 0.9 with `released`.
        image_temperature, text_temperature (`float`, *optional*): of the weights; the encoder's own by default.
        stored_dtype (`str`): of the features on disk, `"float32"` or `"float16"`.
        gallery (`int`): how many errors to draw.
        published (`str`, *optional*): name of a dataset in `PUBLISHED`, to print its accuracies beside.
    """

    methods: tuple[str, ...] | None = None
    views: tuple[str, ...] = ("random",)
    scores: tuple[str, ...] = ("paper",)
    view_count: int = DRAWN_VIEWS
    seed: int = 0
    seeds: int = 3
    released: bool = False
    pool: int = POOL_SIZE
    draws: int = REPEATS
    bounds: tuple[float, float] | None = None
    image_temperature: float | None = None
    text_temperature: float | None = None
    stored_dtype: str = "float32"
    gallery: int = 0
    published: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("methods", METHODS), ("views", VIEW_SOURCES), ("scores", SCORES)):
            wrong = [value for value in getattr(self, name) or () if value not in known]
            if wrong:
                raise ValueError(f"`{name}` must be of {', '.join(map(repr, known))}, got {wrong[0]!r}.")
        for name, known in (("stored_dtype", STORED_DTYPES), ("published", (None, *PUBLISHED))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, known))}, got {getattr(self, name)!r}."
                )
        for name in ("view_count", "seeds", "pool", "draws"):
            check_count(getattr(self, name), name)

    @property
    def all_seeds(self) -> range:
        """The seeds of the repeats."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def view_bounds(self) -> tuple[float, float]:
        """Sides of random views."""
        return self.bounds or (RELEASED_BOUNDS if self.released else BOUNDS)


__all__ = ["TableOptions"]
