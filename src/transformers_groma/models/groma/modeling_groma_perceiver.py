"""The perceiving parts of a Groma: what looks at images and embeds prompts, for words that are written elsewhere."""

from torch import nn

from .configuration_groma import GromaConfig
from .modeling_groma import GromaModel


class GromaPerceiver(GromaModel):
    """A Groma without the layers and the head of its language model: of that, only the token embeddings are loaded.

    It looks at images, encodes regions, decodes masks and embeds prompts, see `embed_prompt`, which a language server
    answers. It loads from the folder of a whole Groma, whose other weights are not read.

    Example:

    ```python
    >>> from transformers_groma.models.groma.modeling_groma_perceiver import GromaPerceiver

    >>> perceiver = GromaPerceiver.from_pretrained("hub_configs/groma-tiny")
    >>> [name for name, _ in perceiver.language_model.named_parameters()]
    ['embed_tokens.weight']

    ```"""

    # A whole Groma has more: the language model's layers and its head.
    _keys_to_ignore_on_load_unexpected = [r".*"]

    def __init__(self, config: GromaConfig):
        super().__init__(config)
        # While a model is loaded, what it holds has no memory yet: what is taken out here never gets any.
        _keep_input_embeddings(self.language_model)


def _keep_input_embeddings(language_model: nn.Module) -> None:
    """Take everything out of a base language model but the way to its token embeddings."""
    embeddings = language_model.get_input_embeddings()
    path = next(name for name, module in language_model.named_modules() if module is embeddings)
    parent = language_model
    for name in path.split("."):
        for other in [child for child in parent._modules if child != name]:
            parent._modules[other] = None
        for table in (parent._parameters, parent._buffers):
            for other in list(table):
                table[other] = None
        parent = getattr(parent, name)


__all__ = ["GromaPerceiver"]
