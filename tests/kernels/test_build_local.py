"""The builder: builds are complete, damaged ones are never loaded, and the sources stay publishable."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracked_files import tracked_files

from .collect import KERNELS_DIR, TAKES_CPU_BUILDS, load_file

kernels = pytest.importorskip("kernels", reason="the kernels library is not installed")
build_local = load_file(KERNELS_DIR / "build_local.py")
KERNELS = ["ms-deform-attn", "roi-align"]
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="g++ not found: no kernel can be built here")


def module_name(kernel):
    return kernel.replace("-", "_")


@pytest.fixture
def built(tmp_path) -> Path:
    """A build of roi-align that a test may damage; the library is the one that earlier tests compiled."""
    return build_local.build(KERNELS_DIR / "roi-align", "cpu", output_dir=tmp_path / "build")


def rename(built, name):
    """Another name for the build's Python modules: else Python takes those of a build loaded before."""
    metadata = built / "metadata.json"
    metadata.write_text(re.sub(r'"id": "\w+"', f'"id": "{name}"', metadata.read_text()))


@needs_compiler
def test_layout_and_reuse(built):
    assert re.fullmatch(r"torch-stable-abi211-cpu-\w+-linux", built.name)
    metadata = kernels.variants.parse_variant(built.name)
    assert metadata.variant_str == built.name
    (library,) = built.glob("*.so")
    before = library.stat().st_mtime_ns
    assert build_local.build(KERNELS_DIR / "roi-align", "cpu", output_dir=built.parent) == built
    assert library.stat().st_mtime_ns == before
    assert sorted(p.name for p in built.parent.iterdir()) == [built.name]  # nothing of the staging is left
    assert {p.name for p in built.iterdir()} >= {"__init__.py", "_ops.py", "metadata.json", "layers.py", "autograd.py"}


@needs_compiler
def test_damaged_library_is_not_loaded_but_rebuilt(built):
    """Mapping a truncated library would kill the process."""
    rename(built, "damaged")
    (library,) = built.glob("*.so")
    library.write_bytes(library.read_bytes()[:5000])
    with pytest.raises(ImportError, match="missing or damaged"):
        kernels.get_local_kernel(built)
    library.unlink()
    with pytest.raises(ImportError, match="missing or damaged"):
        kernels.get_local_kernel(built)
    build_local.build(KERNELS_DIR / "roi-align", "cpu", output_dir=built.parent)
    assert callable(kernels.get_local_kernel(built).roi_align)


@needs_compiler
def test_foreign_library_is_refused(built):
    """A library of another machine: the digest fits, the loader says no, and we say where it comes from."""
    rename(built, "foreign")
    (library,) = built.glob("*.so")
    content = bytearray(library.read_bytes())
    content[18:20] = (0x00F3).to_bytes(2, "little")  # e_machine: RISC-V
    library.write_bytes(content)
    ops = built / "_ops.py"
    digest = build_local.hashlib.sha256(content).hexdigest()
    ops.write_text(re.sub(r'"[0-9a-f]{64}"', f'"{digest}"', ops.read_text()))
    with pytest.raises(ImportError, match="does not load on this machine"):
        kernels.get_local_kernel(built)


@needs_compiler
def test_variant_of_another_machine_is_not_chosen(built):
    built.rename(built.with_name("torch-stable-abi211-cpu-riscv64-linux"))
    with pytest.raises(FileNotFoundError):
        kernels.get_local_kernel(built.parent)


@needs_compiler
@pytest.mark.skipif(not TAKES_CPU_BUILDS, reason="a CUDA build of torch loads no build for the CPU")
def test_failed_build_says_why_and_keeps_the_old_one(tmp_path):
    kernel = tmp_path / "roi-align"
    shutil.copytree(
        KERNELS_DIR / "roi-align", kernel, ignore=shutil.ignore_patterns("build", ".build_local", "__pycache__")
    )
    (kernel / ".build_local").mkdir()
    for library in (KERNELS_DIR / "roi-align" / ".build_local").glob("*.so"):  # else everything is compiled again
        shutil.copy(library, kernel / ".build_local")
    built = build_local.build(kernel, "cpu")
    binding = kernel / "torch-ext" / "torch_binding.cpp"
    binding.write_text(binding.read_text() + "\nthis is not C++;\n")
    with pytest.raises(build_local.BuildError, match=r"torch_binding\.cpp"):
        build_local.build(kernel, "cpu")
    assert callable(kernels.get_local_kernel(kernel).roi_align)
    assert kernels.get_local_kernel(kernel).__file__ == str(built / "__init__.py")


def test_clear_messages(tmp_path, monkeypatch):
    with pytest.raises(build_local.BuildError, match="not a kernel directory"):
        build_local.build(tmp_path, "cpu")
    with pytest.raises(build_local.BuildError, match="unknown GPU architecture 'sm_90'"):
        build_local.gencode_flags("8.0;sm_90")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build_local.BuildError, match="g\\+\\+ not found"):
        build_local.find_tool("g++", "CXX")


def test_gencode_flags():
    assert build_local.gencode_flags("8.0;9.0+PTX") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@needs_compiler
@pytest.mark.parametrize("kernel", KERNELS)
def test_cuda_sources_compile(kernel):
    if not shutil.which("nvcc"):
        pytest.skip("nvcc not found: the CUDA sources are not compiled here")
    command = [sys.executable, KERNELS_DIR / "build_local.py", KERNELS_DIR / kernel]
    command += ["--backend", "cuda", "--archs", "8.0;9.0", "--compile-only"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "compiled for torch-stable-abi211-cu" in result.stdout


@pytest.mark.parametrize("kernel", KERNELS)
def test_build_toml(kernel):
    """What the official builder reads: known fields, every header listed, CPU sources in the CUDA variant too."""
    from kernels._rust import Build  # validates like kernel-builder

    Build.open(KERNELS_DIR / kernel)
    config = build_local.read_build_toml(KERNELS_DIR / kernel)
    cpu, cuda = (
        {
            p.relative_to(KERNELS_DIR / kernel).as_posix()
            for p in build_local.source_files(KERNELS_DIR / kernel, config, b)
        }
        for b in ("cpu", "cuda")
    )
    assert cpu < cuda
    here = {
        p.relative_to(KERNELS_DIR / kernel).as_posix()
        for folder in ("cpu", "cuda", "torch-ext")
        for p in (KERNELS_DIR / kernel / folder).rglob("*")
        if p.suffix in (".cpp", ".h", ".cu")
    }
    assert here == cuda


@pytest.mark.parametrize("name", ["cpu/simd.h", "cpu/simd_isa.h", "cuda/cuda_common.h", ".gitignore", "LICENSE"])
def test_shared_files_are_the_same_in_every_kernel(name):
    first, *others = [(KERNELS_DIR / kernel / name).read_text() for kernel in KERNELS]
    assert all(other == first for other in others)


@pytest.mark.parametrize("kernel", KERNELS)
def test_card_renders(kernel):
    jinja2 = pytest.importorskip("jinja2", reason="jinja2 is not installed")
    template = jinja2.Template((KERNELS_DIR / kernel / "CARD.md").read_text(), undefined=jinja2.StrictUndefined)
    card = template.render(
        repo_id="org/name",
        version=1,
        functions=["f"],
        layers=["L"],
        has_benchmark=True,
        upstream="",
        source="",
        license="Apache-2.0",
    )
    assert "org/name" in card and "{" + "{" not in card and card.startswith("---\nlibrary_name: kernels\n")


@pytest.mark.parametrize("kernel", KERNELS)
def test_package_is_plain(kernel):
    """Python 3.9 parses it, imports are relative, `__all__` is literal and names the layers."""
    import ast

    package = KERNELS_DIR / kernel / "torch-ext" / module_name(kernel)
    for file in package.rglob("*.py"):
        if file.name == "_ops.py":
            continue
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert all(n.split(".")[0] in {"__future__", "collections", "torch", "warnings"} for n in names), (
                file,
                names,
            )
    (names,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((package / "__init__.py").read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    assert "layers" in names


def test_no_binaries_are_tracked():
    binaries = {".so", ".o", ".a", ".cubin", ".ptx"}
    assert not [path for path in tracked_files(KERNELS_DIR) if path.suffix in binaries]
