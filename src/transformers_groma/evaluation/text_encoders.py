"""Encoders of phrases from the Hub, to measure how alike two phrases are."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

# Phrases encoded in one call.
BATCH_SIZE = 64
# Longer phrases are cut, as in GLaMM's evaluation.
MAX_LENGTH = 512
REMEDY = "Pass an encoder, such as bert-base-uncased or a model of sentence-transformers."


class TextEncoder:
    """The similarity of phrases: the cosine of their embeddings, each the mean over the last states of its tokens.

    With `bert-base-uncased` it is that of GLaMM's evaluation. Models of sentence-transformers whose pooling is the
    mean, as `sentence-transformers/all-MiniLM-L6-v2`, give their own embeddings. Each phrase is encoded once.

    Args:
        name (`str` or `Path`): folder or Hub name of a model that `AutoModel` loads, with its tokenizer.
        device (`str` or `torch.device`): where it runs.

    Raises:
        OSError: there is no such model.
        ValueError: it encodes no text.
    """

    def __init__(self, name: str | os.PathLike, device: str | torch.device = "cpu") -> None:
        self.name = str(name)
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self._model = AutoModel.from_pretrained(name, dtype=torch.float32).to(device).eval()
        if self._tokenizer.pad_token is None:
            raise ValueError(f"{self.name} has no padding token, as is usual for models that write text. {REMEDY}")
        self._embeddings: dict[str, np.ndarray] = {}
        try:
            self._encode(["a phrase"])
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            # Tried now, and not after hours of answers.
            raise ValueError(
                f"{self.name} does not encode text by itself ({type(error).__name__}). {REMEDY}"
            ) from error

    def __call__(self, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """How alike the phrases of each pair are.

        Args:
            first, second (`Sequence[str]` of one length): the phrases of the pairs.

        Returns:
            `np.ndarray` of shape `(pairs,)`: cosines, -1..1.

        Raises:
            ValueError: not as many phrases in both.
        """
        if len(first) != len(second):
            raise ValueError(
                f"`second` must have one phrase for each of the {len(first)} in `first`, got {len(second)}."
            )
        self._encode([*first, *second])
        return np.array([self._embeddings[one] @ self._embeddings[other] for one, other in zip(first, second)])

    @torch.no_grad()
    def _encode(self, phrases: Sequence[str]) -> None:
        """Encode the phrases that are not known yet, and keep their embeddings, of length 1."""
        # Of one length together: less padding.
        new = sorted(set(phrases) - set(self._embeddings), key=lambda phrase: (len(phrase), phrase))
        for start in range(0, len(new), BATCH_SIZE):
            batch = new[start : start + BATCH_SIZE]
            inputs = self._tokenizer(
                batch, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
            )
            inputs = inputs.to(self._model.device)
            states = self._model(**inputs).last_hidden_state
            weights = inputs["attention_mask"][..., None].to(states.dtype)
            means = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
            means = torch.nn.functional.normalize(means, dim=-1).cpu().numpy().astype(np.float64)
            self._embeddings |= dict(zip(batch, means, strict=True))

    @property
    def _longest(self) -> int:
        return min(MAX_LENGTH, self._tokenizer.model_max_length)


__all__ = ["TextEncoder"]
