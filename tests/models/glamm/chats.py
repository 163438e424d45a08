"""Messages, and a prompt in the form of the original."""

from PIL import Image

IMAGE = Image.new("RGB", (640, 480), "white")
BOX = [0, 0, 320, 240]
BOX_NORMALIZED = [0.25, 0.25, 0.5, 0.5]  # BOX as cxcywh
SYSTEM = (
    "<s>A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions. "
)
INTRO = "The <im_start><image><im_end> provides an overview of the picture.\n"


def question(*parts):
    return [{"role": "user", "content": list(parts)}]


def answer(*parts):
    return [{"role": "assistant", "content": list(parts)}]


def text(value):
    return {"type": "text", "text": value}


def region(box):
    return {"type": "region", "box": box}


def phrase(words, *boxes):
    return {"type": "phrase", "text": words, "boxes": list(boxes)}


def image_part():
    return {"type": "image", "image": IMAGE}


def original_form(processor, ids) -> list[int]:
    """Ids with the image as the original writes it: one -200."""
    image = processor.image_token_id
    return [
        -200 if token_id == image else token_id
        for index, token_id in enumerate(ids)
        if token_id != image or ids[index - 1] != image
    ]
