"""Messages, and the text that Groma's chat template writes before them."""

BOX = [0, 0, 320, 240]
BOX_NORMALIZED = [0.25, 0.25, 0.5, 0.5]  # BOX of a 640x480 image as cxcywh
INTRO = (
    "USER: Here is an image with region crops from it. Image: <image>. "
    "ASSISTANT: Thank you for the image! How can I assist you with it?</s>"
)
SYSTEM = (
    "<s>A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def question(*parts):
    return [{"role": "user", "content": list(parts)}]


def text(value):
    return {"type": "text", "text": value}
