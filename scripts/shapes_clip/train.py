"""Trains shapes-clip, a very small CLIP, on scenes of coloured shapes with captions, in about 25 minutes on two cores.

    python -m scripts.shapes_clip.train OUTPUT [--steps 3000] [--batch-size 128]

transformers' own `CLIPModel`, its own contrastive loss, and its `Trainer` with AdamW. An interrupted run resumes from
its last checkpoint. OUTPUT then holds a dual encoder as any other: it loads with `AutoModel` and `AutoProcessor`.
"""

import argparse
import shutil
from pathlib import Path

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from .build import build_model, build_processor
from .data import CaptionedViews, Collator

STEPS, BATCH_SIZE = 3000, 128
LEARNING_RATE, WARMUP_STEPS = 2e-3, 100
SAVE_STEPS = 250


def train(output: str | Path, steps: int = STEPS, batch_size: int = BATCH_SIZE, seed: int = 0) -> Path:
    """Train the encoder and write it with its processor.

    Args:
        output (`str` or `Path`): output folder, with the checkpoints until the end.
        steps (`int`): steps of the training.
        batch_size (`int`): images and captions of a step.
        seed (`int`): of weights, views and captions.

    Returns:
        `Path`: `output`.
    """
    output = Path(output)
    checkpoints = output / "checkpoints"
    processor = build_processor()
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        # The data set says which classes are in a batch together.
        train_sampling_strategy="sequential",
        optim="adamw_torch",
        learning_rate=LEARNING_RATE,
        adam_beta2=0.98,
        weight_decay=0.01,
        warmup_steps=min(WARMUP_STEPS, steps // 4),
        lr_scheduler_type="cosine",
        logging_steps=min(50, steps),
        save_steps=SAVE_STEPS,
        save_total_limit=1,
        remove_unused_columns=False,
        # A second core draws scenes. One worker, which keeps a scene for its second view.
        dataloader_num_workers=1,
        dataloader_prefetch_factor=4,
        use_cpu=True,
        report_to="none",
        seed=seed,
    )
    trainer = Trainer(
        model=build_model(processor, seed),
        args=arguments,
        train_dataset=CaptionedViews(steps, batch_size, seed),
        data_collator=Collator(processor),
    )
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.model.save_pretrained(output)
    processor.save_pretrained(output)
    shutil.rmtree(checkpoints)
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "output", metavar="OUTPUT", type=Path, help="folder of the model, and of checkpoints until then"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train(given.output, given.steps, given.batch_size, given.seed)
