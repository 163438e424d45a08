"""Options of loading: every command that loads a model has them, hands them on, and refuses what cannot work."""

import argparse
import sys

import pytest
import torch

from transformers_groma import loading
from transformers_groma.cli.arguments import CommandError, add_model_arguments, loading_options
from transformers_groma.cli.models import checked_device
from transformers_groma.loading_options import LoadingOptions

from .samples import SHORT, TINY

SCENE = TINY.parents[1] / "docs" / "images" / "scene.png"
COMMANDS = (
    "ask",
    "caption",
    "describe",
    "locate",
    "segment",
    "chat",
    "propose",
    "evaluate",
    "annotate",
    "app",
    "serve",
    "demo",
)
FLAGS = ("--dtype", "--quantization", "--attn", "--compile", "--offload", "--wide-products")


def options_of(*words: str) -> LoadingOptions:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    return loading_options(parser.parse_args(words))


def test_the_arguments_become_one_value():
    assert options_of() == LoadingOptions()
    words = ("--dtype", "bfloat16", "--quantization", "int8", "--attn", "eager", "--compile")
    assert options_of(*words) == LoadingOptions("bfloat16", "int8", "eager", compile=True)
    assert options_of("--offload") == LoadingOptions(offload=True)
    assert options_of("--wide-products", "plain") == LoadingOptions(wide_products="plain")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_them(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0 and all(f"{flag} " in out or f"{flag}]" in out for flag in FLAGS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--offload", "--quantization", "4bit"),
            "--quantization 4bit and --offload exclude each other, as quantized weights are not read back from disk: "
            "leave one of them out.",
        ),
        (
            ("--offload", "--compile"),
            "--compile and --offload exclude each other, as compiled layers cannot wait for their weights: leave one "
            "of them out.",
        ),
        (
            ("--attn", "flash_attention_2", "--dtype", "float32"),
            "--attn flash_attention_2 computes in half precision and --dtype float32 does not: pass --dtype bfloat16.",
        ),
        (
            ("--attn", "flash_attention_2"),
            "--attn flash_attention_2 needs a CUDA GPU, and the device is 'cpu': pass --attn sdpa.",
        ),
        (
            ("--wide-products", "float32", "--dtype", "float32"),
            "--wide-products float32 is for weights in half precision, and --dtype float32 loads none: leave one of "
            "them out.",
        ),
    ],
)
def test_what_cannot_work_ends_before_anything_slow(run, monkeypatch, words, message):
    monkeypatch.setattr(loading, "load_model", None)
    code, out, err = run("caption", SCENE, "--model", TINY, "--device", "cpu", *words)
    assert (code, out, err) == (2, "", f"groma caption: error: {message}\n")


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (("--quantization", "4bit"), "bitsandbytes"),
        (("--quantization", "8bit"), "bitsandbytes"),
        (("--quantization", "int8"), "torchao"),
        (("--quantization", "int8"), "accelerate"),
        (("--offload",), "accelerate"),
    ],
)
def test_a_missing_package_is_named(run, monkeypatch, words, package):
    monkeypatch.setattr(loading, "load_model", None)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = run("ask", SCENE, "What is it?", "--model", TINY, "--device", "cpu", *words)
    assert code == 2 and f"{' '.join(words)} needs the package {package}: pip install " in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [("--quantization", "3bit"), ("--attn", "paged"), ("--dtype", "int8")])
def test_unknown_values_are_named(run, words):
    code, _, err = run("caption", SCENE, *words)
    assert code == 2 and len(err.splitlines()) == 1 and f"invalid choice: '{words[1]}'" in err


def test_devices_and_compilers(monkeypatch):
    mps, cuda = torch.device("mps"), torch.device("cuda")
    with pytest.raises(ValueError, match=r"`quantization='4bit'` has no kernels for the device 'mps': pass"):
        loading.check_loading(LoadingOptions(quantization="4bit"), mps)
    loading.check_loading(LoadingOptions(quantization="int8"), mps)
    with pytest.raises(ValueError, match=r"`attn='flash_attention_3'` needs a package of FlashAttention"):
        loading.check_loading(LoadingOptions(attn="flash_attention_3"), cuda)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ValueError, match="needs the package triton on the device 'cuda'"):
        loading.check_loading(LoadingOptions(compile=True), cuda)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CommandError, match=r"--compile needs a C\+\+ compiler, and no-such-compiler is not found"):
        checked_device("cpu", LoadingOptions(compile=True))


def test_regions_need_no_language_model(run):
    """So options of the language model change nothing, which is said; regions are the same."""
    expected = run("propose", SCENE, "--model", TINY, "--json")
    code, out, err = run("propose", SCENE, "--model", TINY, "--json", "--quantization", "4bit")
    assert (code, out) == expected[:2]
    assert err == "finding regions needs no language model, so --quantization changes nothing\n"
    assert run("propose", SCENE, "--model", TINY, "--json", "--attn", "eager")[0] == 0


@pytest.mark.parametrize("words", [("--quantization", "int8"), ("--offload",), ("--attn", "eager")])
def test_a_question_with_each(run, words):
    expected = run("caption", SCENE, "--model", TINY, "--brief", *SHORT)[:2]
    assert run("caption", SCENE, "--model", TINY, "--brief", *SHORT, *words)[:2] == expected
