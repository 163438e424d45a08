#!/usr/bin/env python3
"""Builds one kernel of this folder with the compilers at hand, without Nix.

    python kernels/build_local.py kernels/roi-align
    python kernels/build_local.py kernels/roi-align --backend cuda --archs "8.0;9.0+PTX"
    python kernels/build_local.py kernels/roi-align --backend cuda --compile-only     # no GPU, no CUDA torch needed

The result is in `KERNEL_DIR/build/<variant>/`, where the `kernels` library looks for it
(`kernels.get_local_kernel(Path("kernels/roi-align"))`). A build whose sources did not change is kept.
Binaries made here fit this machine's libc: publish only what the official `kernel-builder` makes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFAULT_ARCHS = "8.0;8.6;8.9;9.0;10.0+PTX"

# What kernel-builder generates too. Here the library is loaded with torch.ops.load_library, so that no Python headers
# are needed to build it: REGISTER_EXTENSION has nothing to register.
REGISTRATION_H = """#pragma once
#define STABLE_TORCH_LIBRARY_EXPAND(NAME, MODULE) STABLE_TORCH_LIBRARY(NAME, MODULE)
#define STABLE_TORCH_LIBRARY_IMPL_EXPAND(NAME, DEVICE, MODULE) STABLE_TORCH_LIBRARY_IMPL(NAME, DEVICE, MODULE)
#define REGISTER_EXTENSION(NAME)
"""

OPS_PY = '''"""Loads the compiled operators. Written by build_local.py."""

import hashlib
from pathlib import Path

import torch

_library = Path(__file__).with_name("{library}")
# A truncated library kills the process when it is mapped and a foreign one fails obscurely: check before loading.
if not _library.is_file() or hashlib.sha256(_library.read_bytes()).hexdigest() != "{digest}":
    raise ImportError(f"{{_library}} is missing or damaged: build it again with kernels/build_local.py")
try:
    torch.ops.load_library(str(_library))
except OSError as error:
    raise ImportError(f"{{_library}} does not load on this machine: {{error}}") from error

ops = torch.ops.{namespace}


def add_op_namespace_prefix(op_name: str) -> str:
    return f"{namespace}::{{op_name}}"
'''


class BuildError(RuntimeError):
    """The kernel cannot be built; the message says why, or what to do."""


def read_build_toml(kernel_dir: Path) -> dict[str, Any]:
    path = kernel_dir / "build.toml"
    if not path.is_file():
        raise BuildError(f"{path} not found: {kernel_dir} is not a kernel directory")
    config = tomllib.loads(path.read_text())
    if "torch" not in config or "stable-abi" not in config["torch"]:
        raise BuildError(f"{path}: only kernels with [torch] and [torch.stable-abi] are built here")
    return config


def find_tool(name: str, variable: str) -> str:
    tool = os.environ.get(variable) or shutil.which(name)
    if not tool and name == "nvcc" and Path("/usr/local/cuda/bin/nvcc").exists():
        tool = "/usr/local/cuda/bin/nvcc"
    if not tool:
        raise BuildError(f"{name} not found: install it or point {variable} to it")
    return tool


def cuda_version(nvcc: str) -> str:
    output = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\d+\.\d+)", output).group(1)


def gencode_flags(archs: str) -> list[str]:
    """ "8.0;9.0+PTX" -> -gencode flags; "+PTX" adds code that newer GPUs compile for themselves."""
    flags = []
    for arch in filter(None, re.split(r"[;, ]+", archs)):
        match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", arch)
        if not match:
            raise BuildError(f"unknown GPU architecture {arch!r}: write for example '8.0;9.0+PTX'")
        number = match.group(1) + match.group(2)
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match.group(3):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def variant_name(backend: str, stable_abi: str, nvcc: str | None) -> str:
    target = "cpu" if backend == "cpu" else "cu" + cuda_version(nvcc).replace(".", "")
    machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    return f"torch-stable-abi{stable_abi.replace('.', '')}-{target}-{machine}-{platform.system().lower()}"


def source_files(kernel_dir: Path, config: dict[str, Any], backend: str) -> list[Path]:
    """Every source and header of the backend, in the order of build.toml."""
    names = list(config["torch"]["src"])
    sections = [section for section in config.get("kernel", {}).values() if section["backend"] == backend]
    if not sections:
        raise BuildError(f"{kernel_dir / 'build.toml'} has no kernel section for backend {backend!r}")
    for section in sections:
        names += section["src"]
    files = [kernel_dir / name for name in dict.fromkeys(names)]
    for file in files:
        if not file.is_file():
            raise BuildError(f"{file} is named in build.toml but does not exist")
    return files


def run(command: list[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise BuildError(f"{' '.join(command)}\n{result.stdout}")


def compile_library(
    sources: list[Path], library: Path, include: list[Path], defines: list[str], nvcc: str | None, archs: str
) -> None:
    """Compile each source and link the objects, which are placed beside the library."""
    import torch

    torch_dir = Path(torch.__file__).parent
    cxx = find_tool("g++", "CXX")
    flags = [*(f"-D{define}" for define in defines), *(f"-I{path}" for path in include)]
    flags += ["-isystem", str(torch_dir / "include"), "-std=c++17", "-O2", "-c"]
    # Error messages name source files: without the folders of this machine, which are nobody else's business.
    unnamed = [f"-ffile-prefix-map={folder}=." for folder in [torch_dir / "include", *include]]
    # -Wno-psabi: vectors wider than the base instruction set only pass between inlined functions.
    cpp = [cxx, *flags, *unnamed, "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
    if "clang" not in cxx:
        cpp += ["-ftree-vectorize", "-fvect-cost-model=dynamic"]  # -O3 without its long compile time
    compilers = {".cpp": cpp}
    if nvcc:
        cuda = [
            nvcc,
            *flags,
            *(f"-Xcompiler={flag}" for flag in unnamed),
            "-Xcompiler=-fPIC",
            "-Xcompiler=-fvisibility=hidden",
            "-ccbin",
            cxx,
        ]
        compilers[".cu"] = [*cuda, "--expt-relaxed-constexpr", "--threads=0", *gencode_flags(archs)]
    objects = {source: library.with_name(f"{source.name}.o") for source in sources if source.suffix in compilers}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, ([*compilers[file.suffix], str(file), "-o", str(o)] for file, o in objects.items())))
    # --no-as-needed: the linker would drop libtorch, in which the CUDA stream functions are looked up when loading.
    torch_libs = [f"-L{torch_dir / 'lib'}", "-ltorch", "-ltorch_cpu"]
    if nvcc:
        torch_libs = [f"-Xlinker={option}" for option in torch_libs]  # nvcc would note the folder in the library
        linker = [nvcc, "-shared", "-ccbin", cxx, "-Xlinker=--no-as-needed"]
    else:
        linker = [cxx, "-shared", "-Wl,--no-as-needed"]
    run([*linker, *map(str, objects.values()), *torch_libs, "-o", str(library)])


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time build a kernel; the next one, another test worker say, finds the build done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def swap_in(staged: Path, target: Path) -> None:
    """Put a finished build in place: a process that loads it meanwhile finds the old or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent))
        target.rename(old / target.name)
    staged.rename(target)
    if old:
        shutil.rmtree(old, ignore_errors=True)


def build(
    kernel_dir: Path,
    backend: str = "cpu",
    archs: str = DEFAULT_ARCHS,
    compile_only: bool = False,
    output_dir: Path | None = None,
) -> Path:
    """Build one kernel and return its variant folder (with `compile_only`: where it would be).

    Args:
        kernel_dir: folder with a build.toml.
        backend: "cpu", or "cuda", which contains the CPU operators too.
        archs: GPU architectures, as "8.0;9.0+PTX".
        compile_only: compile and link, and put nothing in place.
        output_dir: where `<variant>/` goes; `KERNEL_DIR/build` by default.
    """
    import torch

    kernel_dir = kernel_dir.resolve()
    config = read_build_toml(kernel_dir)
    name = config["general"]["name"].replace("-", "_")
    stable_abi = config["torch"]["stable-abi"][backend]
    sources = source_files(kernel_dir, config, backend)
    python_files = sorted((kernel_dir / "torch-ext" / name).glob("*.py"))
    nvcc = find_tool("nvcc", "NVCC") if backend == "cuda" else None
    variant = variant_name(backend, stable_abi, nvcc)
    target = (output_dir or kernel_dir / "build") / variant

    # Named after all that goes into it, a build is up to date if its name is. As the namespace of the operators the
    # name also lets two versions live in one process.
    digest = hashlib.sha256()
    for file in [*sources, *python_files, Path(__file__)]:
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    digest.update(f"{variant} {archs if nvcc else ''} {torch.__version__}".encode())
    namespace = f"_{name}_{'cuda' if nvcc else 'cpu'}_{digest.hexdigest()[:10]}"

    work_root = kernel_dir / ".build_local"
    with locked(work_root / f"{variant}.lock"):
        if not compile_only and is_current(target, namespace):
            return target
        with tempfile.TemporaryDirectory(prefix="work-", dir=work_root) as work_name:
            work = Path(work_name)
            # Libraries are kept by name: tests build into folders of their own, from the same sources.
            kept = work_root / f"{namespace}.so"
            if not kept.is_file():
                (work / "registration.h").write_text(REGISTRATION_H)
                major, minor = (int(part) for part in stable_abi.split("."))
                defines = [
                    f"TORCH_EXTENSION_NAME={namespace}",
                    "CUDA_KERNEL" if nvcc else "CPU_KERNEL",
                    # Use only what this version of the stable ABI has: the library then loads in every later torch.
                    f"TORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
                ]
                include = [kernel_dir, kernel_dir / "torch-ext", work]
                compile_library(sources, work / kept.name, include, defines, nvcc, archs)
                (work / kept.name).rename(kept)
            if not compile_only:
                staged = stage(work / variant, kept, python_files, config["general"], backend, archs)
                swap_in(staged, target)
    return target


def stage(
    folder: Path, library: Path, python_files: list[Path], general: dict[str, Any], backend: str, archs: str
) -> Path:
    """Fill a new folder with what the `kernels` library loads, and return it."""
    folder.mkdir()
    shutil.copyfile(library, folder / library.name)
    for file in python_files:
        shutil.copyfile(file, folder / file.name)
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    (folder / "_ops.py").write_text(OPS_PY.format(library=library.name, digest=digest, namespace=library.stem))
    metadata = {
        "name": general["name"],
        "id": library.stem,
        "version": general["version"],
        "license": general["license"],
        "python-depends": [],
        "backend": {"type": backend, **({"archs": archs.split(";")} if backend == "cuda" else {})},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    return folder


def is_current(target: Path, namespace: str) -> bool:
    """Whether `target` holds an undamaged build of these sources."""
    try:
        same = json.loads((target / "metadata.json").read_text())["id"] == namespace
        expected = re.search(r'"([0-9a-f]{64})"', (target / "_ops.py").read_text()).group(1)
        library = (target / f"{namespace}.so").read_bytes()
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return same and hashlib.sha256(library).hexdigest() == expected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel_dir", type=Path, metavar="KERNEL_DIR")
    parser.add_argument("--backend", choices=("cpu", "cuda"), help="default: cuda where torch has CUDA, else cpu")
    parser.add_argument("--archs", default=DEFAULT_ARCHS, help=f"GPU architectures (default: {DEFAULT_ARCHS})")
    parser.add_argument("--compile-only", action="store_true", help="compile and link, put nothing in place")
    args = parser.parse_args()
    import torch

    backend = args.backend or ("cuda" if torch.version.cuda else "cpu")
    try:
        path = build(args.kernel_dir, backend, args.archs, args.compile_only)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"compiled for {path.name}" if args.compile_only else path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
