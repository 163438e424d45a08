"""Stage 3, instruction finetuning with TRL: the language model learns too, in full or with LoRA (section 3.4).

    groma train sft --config hub_configs/recipes/sft.yaml --output_dir output/sft
    groma train sft --config hub_configs/recipes/sft.yaml --use_peft --load_in_4bit --output_dir output/sft-lora

Options after the YAML file override its values. On several processes or machines:

    accelerate launch --config_file hub_configs/accelerate/fsdp2.yaml -m transformers_groma.training.sft --config …
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available
from trl import ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from ..models.groma.modeling_groma_base import VISUAL_PARTS
from ..models.modeling_adapters import pattern_of_parts
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
from .outputs import alone_in_its_output, checkpoint_to_resume
from .trainable import NEW_TOKENS, PARTS
from .trainer import GromaSFTTrainer

# What the paper trains in this stage.
SFT_PARTS = ["region_encoder", "projector", "language_model"]
# LoRA goes into the language model alone: these are all its linear layers, under any Llama-like names.
LORA_TARGET_MODULES = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class GromaSFTConfig(SFTConfig):
    """TRL's arguments, with activation checkpointing on under its current name; TRL's default uses the old one."""

    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "The former name of `activation_checkpointing`."}
    )

    def __post_init__(self):
        if self.activation_checkpointing is None and self.gradient_checkpointing is None:
            self.activation_checkpointing = True
        if self.bf16 is None and self.use_cpu:
            # TRL's default of bfloat16 is for GPUs; on a CPU it is not faster, and rounds more.
            self.bf16 = False
        super().__post_init__()


@alone_in_its_output
def train(script_args: ConversationArguments, training_args: SFTConfig, model_args: ModelConfig) -> GromaSFTTrainer:
    """Run stage 3 with given arguments.

    Args:
        script_args (`ConversationArguments`): data and trainable parts.
        training_args (`SFTConfig`): all that `SFTTrainer` takes.
        model_args (`ModelConfig`): model, LoRA, quantization.

    Returns:
        `GromaSFTTrainer`: after training, with the model (or its adapter) saved.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    refuse_hub_token(training_args)
    refuse_max_length(training_args)
    choose_parts(script_args, SFT_PARTS, training_args.weight_decay)
    peft_config = lora_config(model_args, script_args.trainable_parts)
    quantization_config = language_model_quantization(model_args)

    ################
    # Model & Processor
    ################
    model, processor = load_model(
        model_args.model_name_or_path,
        script_args,
        lora=peft_config is not None,
        dtype=model_args.dtype,
        revision=model_args.model_revision,
        attn_implementation=model_args.attn_implementation,
        quantization_config=quantization_config,
        device_map=None if quantization_config is None else {"": training_args.device},
    )

    ################
    # Dataset
    ################
    train_dataset, eval_dataset = load_conversations(script_args, model)
    collator = ConversationCollator(processor, script_args.max_tokens, training_args.pad_to_multiple_of)
    check_conversations(script_args, model, collator)

    ################
    # Training
    ################
    trainer = GromaSFTTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        rows_per_image=script_args.rows_per_image,
        peft_config=peft_config,
    )
    recipe = adapter_recipe(peft_config, model_args)
    trainer.card_details = card_details(model_args.model_name_or_path, script_args, train_dataset, **recipe)
    trainer.train(resume_from_checkpoint=checkpoint_to_resume(trainer))

    # Save and push to Hub
    trainer.save_and_push()
    return trainer


def refuse_max_length(args: SFTConfig) -> None:
    """Refuse TRL's `max_length`: it cuts token ids, which would leave images without their placeholders.

    Args:
        args (`SFTConfig`): the arguments of a training.

    Raises:
        ValueError: `max_length` is not TRL's default.
    """
    if args.max_length != SFTConfig.__dataclass_fields__["max_length"].default:
        raise ValueError(
            f"`max_length` is {args.max_length}, but it would cut prompts in the middle. Use `max_tokens`: longer "
            "conversations lose their last turns."
        )


def lora_config(model_args: ModelConfig, parts: Sequence[str]) -> PeftConfig | None:
    """LoRA for the language model; the other trainable parts, which are small, learn in full and are saved with it.

    Args:
        model_args (`ModelConfig`): `use_peft` and the settings of LoRA. Its `lora_target_modules` and
            `lora_modules_to_save` override Groma's own.
        parts (`Sequence[str]`): trainable parts; `language_model` must be among them.

    Returns:
        `PeftConfig`, *optional*: `None` without `use_peft`.

    Raises:
        ValueError: parts that cannot be trained with LoRA.
    """
    config = get_peft_config(model_args)
    if config is None:
        return None
    if NEW_TOKENS in parts:
        raise ValueError(
            f"`{NEW_TOKENS}` cannot be trained with LoRA. Leave it out of `trainable_parts`, or train it first, in "
            "stage 2."
        )
    if "language_model" not in parts:
        raise ValueError(
            f"`use_peft` puts LoRA into the language model, but `trainable_parts` are {', '.join(parts)}. Add "
            "`language_model`, or leave `use_peft` out."
        )
    if model_args.lora_target_modules is None:
        config.target_modules = LORA_TARGET_MODULES
    if model_args.lora_modules_to_save is None:
        config.modules_to_save = [PARTS[part].rpartition(".")[2] for part in parts if part != "language_model"]
    # Even targets such as "all-linear" leave the other parts alone: those learn in full or not at all.
    config.exclude_modules = pattern_of_parts(*VISUAL_PARTS)
    return config


def language_model_quantization(
    model_args: ModelConfig, visual_parts: Sequence[str] = VISUAL_PARTS
) -> BitsAndBytesConfig | None:
    """4 or 8 bits for the language model alone; the vision parts are small, and some of them learn in full.

    Args:
        model_args (`ModelConfig`): `load_in_4bit`, `load_in_8bit` and their settings.
        visual_parts (`Sequence[str]`): names of the other parts; Groma's by default.

    Returns:
        `BitsAndBytesConfig`, *optional*: `None` without either of them.

    Raises:
        ValueError: `use_peft` is missing; quantized weights cannot learn themselves.
        ImportError: bitsandbytes is not installed.
    """
    if not model_args.load_in_4bit and not model_args.load_in_8bit:
        return None
    argument = "load_in_4bit" if model_args.load_in_4bit else "load_in_8bit"
    if not model_args.use_peft:
        raise ValueError(f"`{argument}` needs `use_peft`: weights with so few bits cannot be trained themselves.")
    if not is_bitsandbytes_available():
        raise ImportError(f'`{argument}` needs bitsandbytes: pip install "transformers-groma[qlora]".')
    config = get_quantization_config(model_args)
    config.llm_int8_skip_modules = [*(f"model.{part}" for part in visual_parts), "lm_head"]
    return config


def adapter_recipe(peft_config: PeftConfig | None, model_args: ModelConfig) -> dict[str, Any]:
    """Details for the model card about LoRA and quantization.

    Args:
        peft_config (`PeftConfig`, *optional*): the adapter, if there is one.
        model_args (`ModelConfig`): `load_in_4bit` and `load_in_8bit`.

    Returns:
        `dict`: rows for the table of settings; empty where the language model learns in full.
    """
    recipe: dict[str, Any] = {}
    if peft_config is not None:
        recipe["LoRA"] = f"r {peft_config.r}, alpha {peft_config.lora_alpha}, dropout {peft_config.lora_dropout}"
    if model_args.load_in_4bit or model_args.load_in_8bit:
        recipe["bits of the language model"] = 4 if model_args.load_in_4bit else 8
    return recipe


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 3 from a command line.

    Args:
        argv (`Sequence[str]`, *optional*): the command line without the program's name; `sys.argv[1:]` by default.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    script_args, training_args, model_args = parse_arguments(
        (ConversationArguments, GromaSFTConfig, ModelConfig), argv, "groma train sft", __doc__.splitlines()[0]
    )
    train(script_args, training_args, model_args)


if __name__ == "__main__":
    main()
