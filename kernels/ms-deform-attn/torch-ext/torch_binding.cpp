#include <torch/csrc/stable/library.h>

#include "registration.h"
#include "torch_binding.h"

STABLE_TORCH_LIBRARY_EXPAND(TORCH_EXTENSION_NAME, ops) {
  ops.def(
      "ms_deform_attn_forward(Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention, bool softmax) -> Tensor");
  ops.def(
      "ms_deform_attn_backward(Tensor gradient, Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention, bool softmax) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL_EXPAND(TORCH_EXTENSION_NAME, CPU, ops) {
  ops.impl("ms_deform_attn_forward", TORCH_BOX(&ms_deform_attn_forward_cpu));
  ops.impl("ms_deform_attn_backward", TORCH_BOX(&ms_deform_attn_backward_cpu));
}

#if defined(CUDA_KERNEL)
STABLE_TORCH_LIBRARY_IMPL_EXPAND(TORCH_EXTENSION_NAME, CUDA, ops) {
  ops.impl("ms_deform_attn_forward", TORCH_BOX(&ms_deform_attn_forward_cuda));
  ops.impl("ms_deform_attn_backward", TORCH_BOX(&ms_deform_attn_backward_cuda));
}
#endif

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
