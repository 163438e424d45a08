"""Runs one small forward and backward of each kernel under compute-sanitizer's memcheck."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from step import skip, step_arguments

CODE = """
import sys; sys.path.insert(0, {folder!r})
import torch
from build import benchmark_module, load_kernel
name = {name!r}
module, kernel = benchmark_module(name), load_kernel(name, "cuda")
if name == "ms-deform-attn":
    value, shapes, starts, locations, weights = module.make_inputs([(9, 7), (4, 3)], 33, "cuda")
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    kernel.ms_deform_attn(value, shapes, starts, locations, weights).sum().backward()
else:
    maps, rois = module.make_inputs("cuda")
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parts = [x[:, :40, :9, :11].contiguous(memory_format=memory_format).requires_grad_() for x in maps]
        sum(x.sum() for x in kernel.roi_align(parts, rois[:5], module.SCALES, 7, 2, True)).backward()
torch.cuda.synchronize()
"""


def main() -> None:
    results, device, _ = step_arguments(__doc__)
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if device != "cuda":
        skip("compute-sanitizer checks GPU code only")
    if tool is None:
        skip("compute-sanitizer is not installed")
    failed = False
    for name in ("ms-deform-attn", "roi-align"):
        code = CODE.format(folder=str(Path(__file__).resolve().parent), name=name)
        # torch's own allocator would hide accesses beyond a tensor.
        command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", code]
        process = subprocess.run(command, capture_output=True, text=True, env=environment())
        print(process.stdout[-2000:], process.stderr[-1000:])
        results.add(name, tool="memcheck", clean=process.returncode == 0)
        failed |= process.returncode != 0
    if failed:
        raise SystemExit("compute-sanitizer found errors")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


if __name__ == "__main__":
    main()
