"""Stage 3, instruction finetuning with TRL: the language model learns too, in full or with LoRA (paper section 3.4).

    groma train sft --config hub_configs/recipes/sft.yaml --output_dir output/sft
    groma train sft --config hub_configs/recipes/sft.yaml --use_peft --load_in_4bit --output_dir output/sft-lora

Everything in the YAML file can be overridden behind it. On several processes, and several machines:

    accelerate launch --config_file hub_configs/accelerate/fsdp2.yaml -m transformers_groma.training.sft --config …
"""

from collections.abc import Sequence

from accelerate import PartialState
from trl import ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from .arguments import parse_arguments
from .collators import ConversationCollator
from .conversation_stage import ConversationArguments, card_details, last_checkpoint, load_conversations, load_model
from .trainer import GromaSFTTrainer

# What the paper trains in this stage.
SFT_PARTS = ["region_encoder", "projector", "language_model"]
# LoRA goes into the language model alone; these are all its linear layers, by any Llama-like name.
LORA_TARGET_MODULES = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
# Trained in full beside LoRA: they are small.
LORA_MODULES_TO_SAVE = ["region_encoder", "multi_modal_projector"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 3.

    Args:
        argv (`Sequence[str]`, *optional*): arguments without the program's name; those of the process by default.

    Raises:
        ValueError: arguments or data that do not fit, before training starts.
    """
    script_args, training_args, model_args = parse_arguments(
        (ConversationArguments, SFTConfig, ModelConfig), argv, "groma train sft", __doc__.splitlines()[0]
    )
    train(script_args, training_args, model_args)


def train(script_args: ConversationArguments, training_args: SFTConfig, model_args: ModelConfig) -> GromaSFTTrainer:
    """Run stage 3 with given arguments.

    Args:
        script_args (`ConversationArguments`): data and trainable parts.
        training_args (`SFTConfig`): all that `SFTTrainer` takes.
        model_args (`ModelConfig`): model, LoRA, quantization.

    Returns:
        `GromaSFTTrainer`: after its training, the model (or its adapter) saved.

    Raises:
        ValueError: arguments or data that do not fit, before training starts.
    """
    ################
    # Model & Processor
    ################
    quantization_config = get_quantization_config(model_args)
    loading = (
        {}
        if quantization_config is None
        else {
            "quantization_config": quantization_config,
            "device_map": {"": PartialState().local_process_index},
        }
    )
    model, processor = load_model(
        model_args.model_name_or_path,
        script_args,
        SFT_PARTS,
        dtype=model_args.dtype,
        revision=model_args.model_revision,
        attn_implementation=model_args.attn_implementation,
        **loading,
    )
    peft_config = get_peft_config(model_args)
    if peft_config is not None and model_args.lora_target_modules is None:
        peft_config.target_modules = LORA_TARGET_MODULES
    if peft_config is not None and model_args.lora_modules_to_save is None:
        peft_config.modules_to_save = LORA_MODULES_TO_SAVE

    ################
    # Dataset
    ################
    train_dataset, eval_dataset = load_conversations(script_args)

    ################
    # Training
    ################
    training_args.remove_unused_columns = False
    # The collator does all of it, and keeps the boxes.
    training_args.dataset_kwargs = {"skip_prepare_dataset": True}
    training_args.max_length = None
    trainer = GromaSFTTrainer(
        model=model,
        args=training_args,
        data_collator=ConversationCollator(processor, script_args.max_tokens, training_args.pad_to_multiple_of),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        peft_config=peft_config,
    )
    trainer.card_details = card_details(model, model_args.model_name_or_path, script_args, train_dataset)
    trainer.train(
        resume_from_checkpoint=last_checkpoint(training_args.output_dir, training_args.resume_from_checkpoint)
    )

    # Save and push to Hub
    trainer.save_model()
    trainer.create_model_card()
    if training_args.push_to_hub:
        trainer.push_to_hub()
    return trainer


if __name__ == "__main__":
    main()
