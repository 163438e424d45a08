"""Makes commands start and end sooner: no garbage collection where there is no garbage.

Importing torch and transformers and loading a model makes a million objects, all of which stay. Python would go
through them again and again in search of garbage, and once more at the end of the process: together a third of the
time of `groma chat` with a small model.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Whether this process runs one command and ends. Tests and programs run several in theirs.
_ends_soon = False


@contextmanager
def starting() -> Iterator[None]:
    """Collect no garbage while modules are imported and a model is loaded.

    In a process that runs one command, what is there afterwards is never looked at again.

    Example:
    >>> with starting():
    ...     print(gc.isenabled())
    False
    >>> gc.isenabled()
    True
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        keep_all()
        if was_enabled:
            gc.enable()


def own_process() -> None:
    """Note that this process runs one command and ends: nobody waits for its memory."""
    global _ends_soon
    _ends_soon = True


def keep_all() -> None:
    """Never search what is there now for garbage, if this process ends after its command."""
    if _ends_soon:
        gc.freeze()


__all__ = ["keep_all", "own_process", "starting"]
