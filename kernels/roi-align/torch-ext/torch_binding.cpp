#include <torch/csrc/stable/library.h>

#include "registration.h"
#include "torch_binding.h"

STABLE_TORCH_LIBRARY_EXPAND(TORCH_EXTENSION_NAME, ops) {
  ops.def(
      "roi_align_forward(Tensor[] maps, Tensor rois, float[] scales, int rows, int columns, int sampling_ratio, "
      "bool aligned) -> Tensor[]");
  ops.def(
      "roi_align_backward(Tensor[] gradients, Tensor rois, float[] scales, SymInt[] map_sizes, bool[] channels_last, "
      "int sampling_ratio, bool aligned) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL_EXPAND(TORCH_EXTENSION_NAME, CPU, ops) {
  ops.impl("roi_align_forward", TORCH_BOX(&roi_align_forward_cpu));
  ops.impl("roi_align_backward", TORCH_BOX(&roi_align_backward_cpu));
}

#if defined(CUDA_KERNEL)
STABLE_TORCH_LIBRARY_IMPL_EXPAND(TORCH_EXTENSION_NAME, CUDA, ops) {
  ops.impl("roi_align_forward", TORCH_BOX(&roi_align_forward_cuda));
  ops.impl("roi_align_backward", TORCH_BOX(&roi_align_backward_cuda));
}
#endif

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
