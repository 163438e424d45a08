"""The tokens of the markup of both families: phrase and region marks, placeholders, proxy tokens."""

# What Groma adds to the vocabulary of its language model, before the proxy tokens <r0>, <r1>, … The order is that of
# the released checkpoints; <sep>, <img> and </img> are unused there.
GROMA_MARKUP_TOKENS: tuple[str, ...] = (
    "[PAD]",
    "<sep>",
    "<img>",
    "</img>",
    "<roi>",
    "</roi>",
    "<p>",
    "</p>",
    "<image>",
    "<region>",
    "<refer_box>",
    "<ground_box>",
    "<refer_feat>",
    "[grounding]",
)

# What GLaMM adds. The order is that of the released checkpoints, where the image has no token of its own and <point>
# is unused.
GLAMM_MARKUP_TOKENS: tuple[str, ...] = ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>")

PAD_TOKEN = "[PAD]"
IMAGE_TOKEN = "<image>"
REGION_MARK = "<region>"
REFER_BOX_TOKEN = "<refer_box>"
GROUND_BOX_TOKEN = "<ground_box>"
GROUNDING_TOKEN = "[grounding]"
IMAGE_START = "<im_start>"
IMAGE_END = "<im_end>"
REGION_TOKEN = "<bbox>"
UNUSED_TOKEN = "<point>"
SEGMENT_TOKEN = "[SEG]"

PHRASE_START = "<p>"
PHRASE_END = "</p>"
REGION_START = "<roi>"
REGION_END = "</roi>"


def proxy_token(region_id: int) -> str:
    """The token that denotes a region in text.

    Args:
        region_id (`int`): number of the region.

    Returns:
        `str`: the proxy token.

    Raises:
        ValueError: if `region_id` is negative.

    Example:
    >>> from transformers_groma.markup import proxy_token
    >>> proxy_token(4)
    '<r4>'
    """
    if region_id < 0:
        raise ValueError(f"`region_id` must be non-negative, got {region_id}.")
    return f"<r{int(region_id)}>"
