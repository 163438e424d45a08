"""Stage 2, alignment: region encoder, projector and new tokens learn to talk to the language model (section 3.4).

    groma train alignment --config hub_configs/recipes/alignment.yaml --output_dir output/alignment

Options after the YAML file override its values. On several processes or machines:

    accelerate launch --config_file hub_configs/accelerate/fsdp2.yaml \\
        -m transformers_groma.training.alignment --config …
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
    """Model and data of stage 2.

    Args:
        model_name_or_path (`str`): folder or Hub name of a whole Groma model.
        pad_to_multiple_of (`int`, *optional*): round up the length of batches; fewer lengths are fewer compilations
            with `torch_compile`.
    """

    model_name_or_path: str = field(default="", metadata={"help": "Folder or Hub name of a complete Groma model."})
    pad_to_multiple_of: int | None = field(
        default=None, metadata={"help": "Pad batches to a multiple of this length."}
    )


@alone_in_its_output
def train(script_args: AlignmentArguments, training_args: TrainingArguments) -> GromaTrainer:
    """Run stage 2 with given arguments.

    Args:
        script_args (`AlignmentArguments`): model and data.
        training_args (`TrainingArguments`): all that `Trainer` takes.

    Returns:
        `GromaTrainer`: after training, with the model saved.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    refuse_hub_token(training_args)
    choose_parts(script_args, ALIGNMENT_PARTS, training_args.weight_decay)

    ################
    # Model & Processor
    ################
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
    trainer = GromaTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        rows_per_image=script_args.rows_per_image,
    )
    trainer.card_details = card_details(script_args.model_name_or_path, script_args, train_dataset)
    trainer.train(
        resume_from_checkpoint=last_checkpoint(training_args.output_dir, training_args.resume_from_checkpoint)
    )

    # Save and push to Hub
    trainer.save_and_push()
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 2 from a command line.

    Args:
        argv (`Sequence[str]`, *optional*): the command line without the program's name; `sys.argv[1:]` by default.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    script_args, training_args = parse_arguments(
        (AlignmentArguments, TrainingArguments), argv, "groma train alignment", __doc__.splitlines()[0]
    )
    train(script_args, training_args)


if __name__ == "__main__":
    main()
