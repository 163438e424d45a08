"""Builds both kernels for the GPU, loads them with the kernels library and compares a call with torch."""

import concurrent.futures
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import torch
from step import Results, step_arguments

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
# Not in `kernels/*/build/`, from where the package would use them from then on.
BUILT = Path(__file__).resolve().parent / "built"
sys.path.insert(0, str(KERNELS))


def benchmark_module(name: str) -> ModuleType:
    """A kernel's own benchmark: its inputs and its torch reference."""
    path = KERNELS / name / "benchmarks" / "benchmark.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name.replace('-', '_')}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_kernel(name: str, device: str) -> Path:
    """Compile for the device (what is built already stays) and return the folder of the build."""
    from build_local import build

    archs = "{}.{}".format(*torch.cuda.get_device_capability()) if device == "cuda" else "9.0"
    return build(KERNELS / name, device, archs, output_dir=BUILT / name / "build")


def load_kernel(name: str, device: str) -> ModuleType:
    """The built kernel, through the kernels library."""
    from kernels import get_local_kernel

    return get_local_kernel(build_kernel(name, device))


def compare_once(name: str, kernel: ModuleType, device: str) -> float:
    """The largest difference to torch, in float32."""
    module = benchmark_module(name)
    if name == "ms-deform-attn":
        shapes = [(32, 32)]
        inputs = module.make_inputs(shapes, 64, device)
        value, _, _, locations, weights = inputs
        pairs = [(kernel.ms_deform_attn(*inputs), module.reference(value, shapes, locations, weights))]
    else:
        maps, rois = module.make_inputs(device)
        maps, rois = [feature_map[:, :32] for feature_map in maps], rois[:10]
        pairs = list(
            zip(kernel.roi_align(maps, rois, module.SCALES, module.BINS, 2, True), module.reference(maps, rois))
        )
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    return max((got - expected).abs().max().item() for got, expected in pairs)


def main() -> None:
    results, device, _ = step_arguments(__doc__)
    with concurrent.futures.ThreadPoolExecutor() as pool:  # the compilers run side by side
        built = {name: pool.submit(build_timed, name, device) for name in ("ms-deform-attn", "roi-align")}
    failures = [name for name, build in built.items() if not try_build(name, build, device, results)]
    if failures:
        raise SystemExit(f"failed: {', '.join(failures)}")


def build_timed(name: str, device: str) -> tuple[Path, float]:
    """The folder of a build and the seconds it took."""
    start = time.perf_counter()
    return build_kernel(name, device), time.perf_counter() - start


def try_build(name: str, build: concurrent.futures.Future, device: str, results: Results) -> bool:
    """Whether a kernel was built and works. A failure is printed, so that the other kernel is tried too."""
    try:
        folder, seconds = build.result()
        difference = compare_once(name, load_kernel(name, device), device)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}")
        return False
    results.add(name, variant=folder.name, build_seconds=seconds, largest_difference=difference)
    return True


if __name__ == "__main__":
    main()
