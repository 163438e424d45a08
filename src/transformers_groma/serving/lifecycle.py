"""What a server is doing as a whole: serving, or finishing what runs before it stops."""

from dataclasses import dataclass


@dataclass
class Lifecycle:
    """The state of a server, shared by its app and by what stops it.

    Attributes:
        draining (`bool`): whether it finishes what runs and refuses new requests.
        running (`int`): requests that are being answered, but for those that ask about the server itself.
    """

    draining: bool = False
    running: int = 0


__all__ = ["Lifecycle"]
