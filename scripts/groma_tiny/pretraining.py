"""The training loop for what groma-tiny learns before Groma's three stages."""

import argparse
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma._files import write_file

MAX_GRAD_NORM = 1.0
LOG_STEPS, SAVE_STEPS = 20, 200


@dataclass(frozen=True)
class Schedule:
    """A learning rate schedule: warm-up, plateau, and a cosine to zero.

    Args:
        learning_rate (`float`): learning rate of the plateau.
        steps (`int`): steps of the training.
        warmup_steps (`int`): steps of the warm-up, at the start.
        decay_steps (`int`): steps of the cosine, at the end.
    """

    learning_rate: float
    steps: int
    warmup_steps: int
    decay_steps: int

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        left = (self.steps - step) / self.decay_steps
        return self.learning_rate * (0.5 - 0.5 * math.cos(math.pi * min(1.0, left)))


class Pretraining:
    """Trains a module with Muon for the matrices of its layers and AdamW for the rest; resumes from its checkpoint.

    Args:
        module (`nn.Module`): the module to train.
        layers (`str`): what the names of parameters inside layers contain.
        schedule (`Schedule`): the learning rate.
        folder (`Path`): output folder, with the checkpoint until the end.
        slower (`Mapping[str, float]`, *optional*): by the start of their names, parameters that learn at this share of
            the learning rate.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: str,
        schedule: Schedule,
        folder: Path,
        slower: Mapping[str, float] | None = None,
    ):
        # By whether Muon trains them and their share of the learning rate.
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
        for name, weight in module.named_parameters():
            share = next((share for start, share in (slower or {}).items() if name.startswith(start)), 1.0)
            groups.setdefault((weight.ndim == 2 and layers in name, share), []).append(weight)
        by_muon, by_adamw = (
            [{"params": weights, "share": share} for (muon, share), weights in groups.items() if muon == wanted]
            for wanted in (True, False)
        )
        rate = schedule.learning_rate
        self.optimizers = [
            torch.optim.Muon(by_muon, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(by_adamw, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.module = module
        self.schedule = schedule
        self.checkpoint = folder / "checkpoint.pt"
        self.first_step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint, weights_only=True)
            self.first_step = saved["step"]
            module.load_state_dict(saved["module"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)

    def run(self, loss_of: Callable[[int], tuple[Tensor, Mapping[str, float]]], description: str) -> None:
        """Train to the end.

        Args:
            loss_of (`Callable`): gives the loss of a step, and metrics to log with it.
            description (`str`): label of the progress bar.
        """
        steps = self.schedule.steps
        progress = tqdm(
            range(self.first_step, steps), initial=self.first_step, total=steps, desc=description, unit="step"
        )
        history: list[dict[str, float]] = []
        for step in progress:
            loss, metrics = loss_of(step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), MAX_GRAD_NORM)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.schedule.rate(step) * group["share"]
                optimizer.step()
                optimizer.zero_grad()
            history.append({"loss": loss.item(), **metrics})
            if (step + 1) % LOG_STEPS == 0:
                last = history[-LOG_STEPS:]
                means = (f"{name} {sum(one[name] for one in last) / len(last):.4f}" for name in last[0])
                progress.write(f"step {step + 1}: {', '.join(means)}")
            if (step + 1) % SAVE_STEPS == 0:
                self._save(step + 1)

    def finish(self, model: GromaForConditionalGeneration, processor: GromaProcessor) -> None:
        """Write the whole model with its processor, then remove the checkpoint."""
        model.save_pretrained(self.checkpoint.parent)
        processor.save_pretrained(self.checkpoint.parent)
        self.checkpoint.unlink(missing_ok=True)

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_file(self.checkpoint, buffer.getvalue())


def base_and_output(description: str) -> tuple[Path, Path]:
    """Read the two folders on the command line: the untrained model, and the output folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE", type=Path, help="folder of the untrained model")
    parser.add_argument(
        "output", metavar="OUTPUT", type=Path, help="folder of the result, and of the checkpoint on the way"
    )
    arguments = parser.parse_args()
    return arguments.base, arguments.output
