"""Settings of the server: the model's name, keys, and every limit."""

import math
from dataclasses import dataclass, field, fields

MEBIBYTE = 1024 * 1024
# Seconds after which a client that was sent away may ask again.
RETRY_AFTER = 1


@dataclass(frozen=True)
class ServerSettings:
    """Everything about a server but its engine.

    Args:
        model_name (`str`): what `/v1/models` lists and requests name.
        api_keys (`tuple[str, ...]`): the accepted bearer tokens; without any, everyone is let in.
        max_body_bytes (`int`): of one request.
        max_held_bytes (`int`): bodies and decoded images of all requests together.
        max_pixels (`int`): width times height of an image.
        max_messages, max_parts, max_regions, max_characters (`int`): of one conversation.
        max_mask_characters (`int`): of the masks of one request, in COCO's run-length encoding.
        max_new_tokens (`int`): the longest answer in tokens, also for requests that set no limit.
        max_requests_per_client (`int`, *optional*): at the same time, from one address.
        read_timeout (`float`): seconds for a request to arrive, headers or body.
        write_timeout (`float`): seconds for a client to take what is waiting for it.
        allow_image_urls (`bool`): whether to fetch images from http(s) URLs.
        image_url_ports (`tuple[int, ...]`): the ports that are fetched from.
        image_url_timeout (`float`): seconds that one image may take, with its redirects.
        max_redirects (`int`): of one image.
        cors_origins (`tuple[str, ...]`): origins whose web pages may ask; `"*"` for all.

    Raises:
        ValueError: a setting that the server could not work with.

    Example:
    >>> ServerSettings("groma-tiny", max_pixels=0)
    Traceback (most recent call last):
    ValueError: `max_pixels` must be positive, got 0.
    """

    model_name: str
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_body_bytes: int = 20 * MEBIBYTE
    max_held_bytes: int = 1024 * MEBIBYTE
    max_pixels: int = 25_000_000
    max_messages: int = 100
    max_parts: int = 200
    max_regions: int = 32
    max_characters: int = 50_000
    max_mask_characters: int = 1_000_000
    max_new_tokens: int = 512
    max_requests_per_client: int | None = None
    read_timeout: float = 30.0
    write_timeout: float = 30.0
    allow_image_urls: bool = False
    image_url_ports: tuple[int, ...] = (80, 443)
    image_url_timeout: float = 10.0
    max_redirects: int = 3
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.model_name.strip():
            raise ValueError("`model_name` is empty. Requests need a name for the model.")
        for setting in fields(self):
            value = getattr(self, setting.name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            least = 0 if setting.name == "max_redirects" else math.ulp(0.0)
            if is_number and not (least <= value < math.inf):
                raise ValueError(f"`{setting.name}` must be {'0 or ' if least == 0 else ''}positive, got {value}.")
        if self.max_held_bytes < self.most_bytes_of_one:
            raise ValueError(
                f"`max_held_bytes` is {self.max_held_bytes}, but one request may hold {self.most_bytes_of_one}: its "
                "body (`max_body_bytes`) and an image (`max_pixels`, 4 bytes each). Raise the one or lower the others."
            )

    @property
    def most_bytes_of_one(self) -> int:
        """What one request may hold: its body, an image as it was downloaded, and its pixels."""
        download = self.max_body_bytes if self.allow_image_urls else 0
        return self.max_body_bytes + download + 4 * self.max_pixels


__all__ = ["MEBIBYTE", "RETRY_AFTER", "ServerSettings"]
