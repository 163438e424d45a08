"""The tokenizer of glamm-tiny: pieces learned from shapes' sentences, and GLaMM's tokens."""

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from scripts.groma_tiny.build import SENTENCES, build_text_tokenizer
from transformers_groma.models.glamm.tokenization_glamm import GLAMM_TOKENS, add_glamm_tokens

VOCAB_SIZE = 1104  # before GLaMM's own tokens
GLAMM_SENTENCES = """
A chat between a curious human and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the human's questions.
USER: The  provides an overview of the picture.
Please segment the small red triangle in this image. Sure, it is . Sure, they are .
Can you segment the large blue star in this image?
What is the yellow cross in this image? Please output segmentation mask.
Can you provide me with a detailed description of the region in the picture marked by ?
Could you please give me a detailed description of the image?
Could you please give me a short description of the image?
Please respond with interleaved     segmentation masks for the corresponding parts of the answer.
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of glamm-tiny. A space before a token of GLaMM's is part of it, which saves pieces."""
    tokenizer = build_text_tokenizer(SENTENCES + GLAMM_SENTENCES.lstrip(), VOCAB_SIZE)
    tokenizer.add_tokens([AddedToken(token, lstrip=True, normalized=False) for token in GLAMM_TOKENS])
    add_glamm_tokens(tokenizer)
    return tokenizer
