"""Says what the machine of a benchmark is: its processor, the instruction sets that matter, and threads."""

import platform
from pathlib import Path

import torch

# What decides how fast products of matrices are, as Linux calls it.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def machine() -> str:
    """The processor, its instruction sets, and how many threads torch uses, in one line."""
    name, flags = platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        name, flags = fields.get("model name", name), fields.get("flags", "")
    found = [flag for flag in INSTRUCTION_SETS if flag in flags.split()]
    return f"{name}, {' '.join(found) or torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    print(machine())
