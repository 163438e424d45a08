"""How a model is loaded, as one value: revision, dtype, quantization, attention, compilation and more."""

from dataclasses import dataclass, replace

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("4bit", "8bit", "int8")
# For a language model in half precision on a CUDA GPU, and for nothing else.
FLASH_ATTENTIONS = ("flash_attention_2", "flash_attention_3")
ATTENTIONS = ("eager", "sdpa", *FLASH_ATTENTIONS)
WIDE_PRODUCTS = ("auto", "float32", "plain")


@dataclass(frozen=True)
class LoadingOptions:
    """How a model is loaded. Every command has these options, and hands them on as this value.

    Quantization, compilation and offloading are for the language model; all that decides regions stays as it is.

    Args:
        dtype (`str`): of the weights: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for as they were saved; a
            `torch.dtype` becomes its name. Parts that decide regions and masks stay in float32.
        quantization (`str`, *optional*): of the language model: `"4bit"` (nf4 of bitsandbytes), `"8bit"` (LLM.int8 of
            bitsandbytes) or `"int8"` (weights only, of torchao).
        attn (`str`, *optional*): the attention implementation: `"eager"` or `"sdpa"` of all parts, or
            `"flash_attention_2"` or `"flash_attention_3"` of the language model.
        compile (`bool`): compile the language model in its first answers.
        offload (`bool`): keep what does not fit on the accelerator in CPU memory and on disk. On a machine without an
            accelerator, the layers of the language model stay on disk and are read when they are needed.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub; of an adapter, the adapter's.
        wide_products (`str`): how a CPU multiplies many rows (a prompt, an image) with weights in half precision:
            `"float32"`: in float32, a part of a layer's weights at a time; `"plain"`: as they are; `"auto"`: in
            float32 if the CPU has no units for that precision. Unless it is `"plain"`, many rows in float32 are
            multiplied with oneDNN where that is faster.

    Raises:
        ValueError: an unknown value, or options that exclude each other.

    Example:
    >>> LoadingOptions(dtype="bfloat16", quantization="4bit").quantization
    '4bit'
    """

    dtype: str = "auto"
    quantization: str | None = None
    attn: str | None = None
    compile: bool = False
    offload: bool = False
    revision: str | None = None
    wide_products: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))
        for name, known in (
            ("dtype", DTYPES),
            ("quantization", (None, *QUANTIZATIONS)),
            ("attn", (None, *ATTENTIONS)),
            ("wide_products", WIDE_PRODUCTS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}, got {value!r}.")
        for name in ("compile", "offload"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be True or False, got {getattr(self, name)!r}.")
        if self.revision is not None and not (isinstance(self.revision, str) and self.revision.strip()):
            raise ValueError(f"`revision` must be a branch, tag or commit, got {self.revision!r}.")
        if self.offload and self.quantization is not None:
            raise ValueError(
                f"`quantization={self.quantization!r}` and `offload=True` exclude each other, as quantized weights "
                "are not read back from disk: leave one of them out."
            )
        if self.offload and self.compile:
            raise ValueError(
                "`compile=True` and `offload=True` exclude each other, as compiled layers cannot wait for their "
                "weights: leave one of them out."
            )
        if self.wide_products == "float32" and self.dtype == "float32" and self.quantization is None:
            raise ValueError(
                "`wide_products='float32'` is for weights in half precision, and `dtype='float32'` loads none: leave "
                "one of them out."
            )
        if self.attn in FLASH_ATTENTIONS and self.dtype == "float32":
            raise ValueError(
                f"`attn={self.attn!r}` computes in half precision and `dtype='float32'` does not: pass "
                "`dtype='bfloat16'`."
            )

    @property
    def of_language_model(self) -> tuple[str, ...]:
        """The options that are set and change nothing in a model without a language model."""
        is_flash = self.attn in FLASH_ATTENTIONS
        names = ("quantization", *(["attn"] if is_flash else []), "compile", "offload")
        return tuple(name for name in names if getattr(self, name))

    def without_language_model(self) -> "LoadingOptions":
        """The same for a model without a language model."""
        attn = None if self.attn in FLASH_ATTENTIONS else self.attn
        return replace(self, quantization=None, attn=attn, compile=False, offload=False)


AS_SAVED = LoadingOptions()


__all__ = ["AS_SAVED", "ATTENTIONS", "DTYPES", "FLASH_ATTENTIONS", "QUANTIZATIONS", "WIDE_PRODUCTS", "LoadingOptions"]
