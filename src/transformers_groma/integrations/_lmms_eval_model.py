"""The model class that lmms-eval loads for `--model groma`; `lmms_eval.py` points to it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ..data.columns import image_part
from ..data.conversations import to_messages
from ..images import upright
from ..model_files import ANSWERING_MODELS
from .lmms_eval import INSTALL, TaskQuestion, cut_at_stops, format_answer, read_question

try:
    from accelerate import Accelerator
    from lmms_eval.api.model import lmms
except ImportError as error:
    raise ImportError(INSTALL) from error

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance

# The settings of sampling that a task may choose; its other settings are for other models.
_SAMPLING = ("temperature", "top_p", "top_k")


class GromaForLmmsEval(lmms):
    """Groma or GLaMM as a model of lmms-eval, for tasks that generate text about one image or none.

    Args:
        pretrained (`str`): folder or name of the model on the Hub.
        revision (`str`, *optional*): revision of the model on the Hub.
        device (`str`, *optional*): where it runs; by default where accelerate puts the process.
        dtype (`str`): dtype of the weights; by default as they are saved.
        batch_size (`int`): requests at once.
        max_new_tokens (`int`): longest answer, if the task does not set it.

    Raises:
        ValueError: a model of another type.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int = 1,
        max_new_tokens: int = 256,
    ) -> None:
        super().__init__()
        # lmms-eval looks for the accelerator under this name, and splits the documents by rank and world size.
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = torch.device(device) if device else self.accelerator.device
        self.batch_size = int(batch_size)
        self._max_new_tokens = int(max_new_tokens)
        where = {"pretrained_model_name_or_path": pretrained, "revision": revision or "main"}
        model_type = AutoConfig.from_pretrained(**where).model_type
        if model_type not in ANSWERING_MODELS:
            raise ValueError(
                f"`pretrained` {pretrained!r} is of type {model_type!r}. Pass a model of type "
                f"{' or '.join(map(repr, ANSWERING_MODELS))}."
            )
        self._processor = AutoProcessor.from_pretrained(**where)
        self._model = AutoModelForImageTextToText.from_pretrained(**where, dtype=dtype)
        self._model.to(self.device).eval()

    def generate_until(self, requests: Sequence["Instance"]) -> list[str]:
        """Answer requests.

        Args:
            requests (`Sequence[Instance]`): their arguments are the question, the settings of generation, the function
                that gives a document's images, the number of the document, the task and the split.

        Returns:
            `list[str]`: answers as the tasks read them, in the order of the requests.

        Raises:
            ValueError: more than one image, or a video.
        """
        # Requests of the same settings can be answered together.
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(index)
        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="Groma", disable=self._rank != 0) as progress:
            for indices in groups.values():
                for start in range(0, len(indices), self.batch_size):
                    batch = indices[start : start + self.batch_size]
                    settings = requests[batch[0]].args[1]
                    texts = self._answer([requests[index] for index in batch], settings)
                    for index, text in zip(batch, texts, strict=True):
                        answers[index] = text
                        self.cache_hook.add_partial("generate_until", (requests[index].args[0], settings), text)
                    progress.update(len(batch))
        return answers

    def generate_until_multi_round(self, requests: Sequence["Instance"]) -> list[str]:
        """Not supported."""
        raise NotImplementedError("Groma in lmms-eval supports only single-round tasks (`generate_until`).")

    def loglikelihood(self, requests: Sequence["Instance"]) -> list[tuple[float, bool]]:
        """Not supported."""
        raise NotImplementedError("Groma in lmms-eval supports only generation tasks (`generate_until`).")

    def _answer(self, requests: Sequence["Instance"], settings: Mapping[str, Any]) -> list[str]:
        questions = [read_question(request.args[0], self._processor.question_wording) for request in requests]
        images = [self._image(request) for request in requests]
        inputs = self._processor.apply_chat_template(
            [_messages(question, image) for question, image in zip(questions, images, strict=True)],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # A benchmark's texts are a user's: what looks like a control token in them is plain text.
            sanitize_control_tokens=True,
            processor_kwargs={"padding": True},
        ).to(self.device)
        with torch.inference_mode():
            output = self._model.generate(**inputs, **self._generation(settings), return_dict_in_generate=True)
        sizes = [(image.height, image.width) for image in images if image is not None]
        answers = self._processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=sizes or None)
        texts = []
        for answer, question, image in zip(answers, questions, images, strict=True):
            width, height = (1, 1) if image is None else image.size
            text = format_answer(answer, question.answer_format, width, height)
            texts.append(cut_at_stops(text, settings.get("until")))
        return texts

    def _image(self, request: "Instance") -> Image.Image | None:
        _, _, doc_to_visual, doc_id, task, split = request.args
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        if len(visuals) > 1 or not all(isinstance(visual, Image.Image) for visual in visuals):
            kinds = ", ".join(type(visual).__name__ for visual in visuals)
            raise ValueError(
                f"Document {doc_id} of {task} shows {len(visuals)} things ({kinds}); Groma looks at one image. Leave "
                "this task out."
            )
        return upright(visuals[0]) if visuals else None

    def _generation(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a task as arguments of `generate`: greedy, unless it sets a temperature."""
        do_sample = (settings.get("temperature") or 0) > 0
        chosen = {
            "max_new_tokens": settings.get("max_new_tokens") or self._max_new_tokens,
            "num_beams": settings.get("num_beams") or 1,
            "do_sample": do_sample,
        }
        if do_sample:
            chosen |= {name: settings[name] for name in _SAMPLING if settings.get(name) is not None}
        return chosen


def _messages(question: TaskQuestion, image: Image.Image | None) -> list[dict[str, Any]]:
    parts = question.parts if image is None else [image_part(), *question.parts]
    return to_messages({"image": image, "boxes_xyxy": [], "messages": [{"role": "user", "content": parts}]})
