"""Stage 2, alignment: region encoder, projector and the new tokens learn to speak to the language model (paper section 3.4).

    groma train alignment --config hub_configs/recipes/alignment.yaml --output_dir output/alignment

Everything in the YAML file can be overridden behind it. On several processes, and several machines:

    accelerate launch --config_file hub_configs/accelerate/fsdp2.yaml -m transformers_groma.training.alignment --config
    …
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import TrainingArguments

from .arguments import parse_arguments, refuse_hub_token
from .collators import ConversationCollator
from .conversation_stage import (
    ConversationArguments,
    card_details,
    check_conversations,
    choose_parts,
    load_conversations,
    load_model,
)
from .outputs import alone_in_its_output, last_checkpoint
from .trainable import NEW_TOKENS
from .trainer import GromaTrainer

# What the paper trains in this stage.
ALIGNMENT_PARTS = ["region_encoder", "projector", NEW_TOKENS]


@dataclass
class AlignmentArguments(ConversationArguments):
    """Arguments of stage 2.

    Args:
        model_name_or_path (`str`): a whole Groma model.
        pad_to_multiple_of (`int`, *optional*): round the length of batches up; with `torch_compile` it saves
            compilations.
    """

    model_name_or_path: str = field(default="", metadata={"help": "Folder or Hub name of a whole Groma model."})
    pad_to_multiple_of: int | None = field(default=None, metadata={"help": "Round the length of batches up."})


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 2.

    Args:
        argv (`Sequence[str]`, *optional*): arguments without the program's name; those of the process by default.

    Raises:
        ValueError: arguments or data that do not fit, before training starts.
    """
    script_args, training_args = parse_arguments(
        (AlignmentArguments, TrainingArguments), argv, "groma train alignment", __doc__.splitlines()[0]
    )
    train(script_args, training_args)


@alone_in_its_output
def train(script_args: AlignmentArguments, training_args: TrainingArguments) -> GromaTrainer:
    """Run stage 2 with given arguments.

    Args:
        script_args (`AlignmentArguments`): model and data.
        training_args (`TrainingArguments`): all that `Trainer` takes.

    Returns:
        `GromaTrainer`: after its training, the model saved.

    Raises:
        ValueError: arguments or data that do not fit, before training starts.
    """
    refuse_hub_token(training_args)
    ################
    # Model & Processor
    ################
    choose_parts(script_args, ALIGNMENT_PARTS, training_args.weight_decay)
    model, processor = load_model(script_args.model_name_or_path, script_args, dtype="float32")

    ################
    # Dataset
    ################
    train_dataset, eval_dataset = load_conversations(script_args, model)
    collator = ConversationCollator(processor, script_args.max_tokens, script_args.pad_to_multiple_of)
    check_conversations(script_args, model, collator)

    ################
    # Training
    ################
    training_args.remove_unused_columns = False
    trainer = GromaTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
    )
    trainer.card_details = card_details(script_args.model_name_or_path, script_args, train_dataset)
    trainer.train(
        resume_from_checkpoint=last_checkpoint(training_args.output_dir, training_args.resume_from_checkpoint)
    )

    # Save and push to Hub
    trainer.save_and_push()
    return trainer


if __name__ == "__main__":
    main()
