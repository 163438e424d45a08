// Multi-scale deformable attention on the CPU: checks and choice of the instruction set.

#include <limits>
#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/ms_deform_attn.h"
#include "torch_binding.h"

namespace {

using namespace ms_deform_attn;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Kind kind_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Kind::kFloat;
    case ScalarType::Double: return Kind::kDouble;
    case ScalarType::Half: return Kind::kHalf;
    case ScalarType::BFloat16: return Kind::kBFloat16;
    default: STD_TORCH_CHECK(false, "ms_deform_attn: float32, float64, float16 or bfloat16 expected");
  }
}

Array array_of(const Tensor& tensor) { return {tensor.data_ptr(), kind_of(tensor)}; }

// float64 is there to check gradients with: it always runs the baseline, which keeps the build short.
Forward forward_here(Kind kind) {
#if defined(KERNEL_HAS_AVX)
  if (kind != Kind::kDouble && simd::level() == 2) return forward_avx512;
  if (kind != Kind::kDouble && simd::level() == 1) return forward_avx2;
#endif
  return forward_base;
}

Backward backward_here(Kind kind) {
#if defined(KERNEL_HAS_AVX)
  if (kind != Kind::kDouble && simd::level() == 2) return backward_avx512;
  if (kind != Kind::kDouble && simd::level() == 1) return backward_avx2;
#endif
  return backward_base;
}

// Checks the shapes; the tensors must outlive the result.
Problem make_problem(const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations,
                     const Tensor& attention, bool softmax) {
  STD_TORCH_CHECK(value.dim() == 4, "ms_deform_attn: value must be (batch, pixels, heads, channels)");
  STD_TORCH_CHECK(locations.dim() == 6 && locations.size(5) == 2,
                  "ms_deform_attn: sampling_locations must be (batch, queries, heads, levels, points, 2)");
  STD_TORCH_CHECK(shapes.dim() == 2 && shapes.size(1) == 2 && shapes.scalar_type() == ScalarType::Long,
                  "ms_deform_attn: spatial_shapes must be (levels, 2) int64");
  STD_TORCH_CHECK(starts.dim() == 1 && starts.scalar_type() == ScalarType::Long,
                  "ms_deform_attn: level_start_index must be (levels,) int64");
  Problem p;
  p.batch = value.size(0);
  p.pixels = value.size(1);
  p.heads = value.size(2);
  p.channels = value.size(3);
  p.queries = locations.size(1);
  p.levels = locations.size(3);
  p.points = locations.size(4);
  STD_TORCH_CHECK(locations.size(0) == p.batch && locations.size(2) == p.heads,
                  "ms_deform_attn: value and sampling_locations disagree about batch or heads");
  STD_TORCH_CHECK(attention.dim() == 5, "ms_deform_attn: attention_weights must have 5 dimensions");
  for (int i = 0; i < 5; ++i) {
    STD_TORCH_CHECK(attention.size(i) == locations.size(i),
                    "ms_deform_attn: attention_weights and sampling_locations disagree about dimension ", i);
  }
  STD_TORCH_CHECK(shapes.size(0) == p.levels && starts.size(0) == p.levels,
                  "ms_deform_attn: spatial_shapes or level_start_index do not have one entry a level");
  STD_TORCH_CHECK(p.pixels < std::numeric_limits<int32_t>::max(), "ms_deform_attn: too many pixels");
  p.shapes = static_cast<const int64_t*>(shapes.data_ptr());
  p.starts = static_cast<const int64_t*>(starts.data_ptr());
  for (int64_t level = 0; level < p.levels; ++level) {
    const int64_t height = p.shapes[2 * level], width = p.shapes[2 * level + 1];
    STD_TORCH_CHECK(height >= 0 && width >= 0 && height <= p.pixels && width <= p.pixels && p.starts[level] >= 0 &&
                        p.starts[level] + height * width <= p.pixels,
                    "ms_deform_attn: level ", level, " (", height, " x ", width, " from ", p.starts[level],
                    ") does not fit into ", p.pixels, " pixels of value");
  }
  p.value = value.data_ptr();
  for (int i = 0; i < 3; ++i) p.value_stride[i] = value.stride(i);
  p.locations = array_of(locations);
  p.attention = array_of(attention);
  p.softmax = softmax;
  return p;
}

// Views such as a slice or a transposed head dimension are read in place, as long as the channels are adjacent.
Tensor adjacent_channels(const Tensor& value) {
  return value.dim() != 4 || value.size(3) <= 1 || value.stride(3) == 1 ? value : torch::stable::contiguous(value);
}

}  // namespace

Tensor ms_deform_attn_forward_cpu(const Tensor& value_in, const Tensor& shapes_in, const Tensor& starts_in,
                                  const Tensor& locations_in, const Tensor& attention_in, bool softmax) {
  const Tensor value = adjacent_channels(value_in), shapes = torch::stable::contiguous(shapes_in);
  const Tensor starts = torch::stable::contiguous(starts_in), locations = torch::stable::contiguous(locations_in);
  const Tensor attention = torch::stable::contiguous(attention_in);
  const Problem p = make_problem(value, shapes, starts, locations, attention, softmax);
  const std::vector<int64_t> size = {p.batch, p.queries, p.heads * p.channels};
  if (p.levels * p.points == 0) return torch::stable::new_zeros(value, size);
  Tensor out = torch::stable::new_empty(value, size);
  if (out.numel() == 0) return out;
  void* result = out.data_ptr();
  const Kind kind = kind_of(value);
  const Forward forward = forward_here(kind);
  // About 16 thousand channel reads a task at least: below that a second thread costs more than it brings.
  const int64_t work = p.levels * p.points * (p.channels + 8);
  torch::stable::parallel_for(0, p.batch * p.heads * p.queries, std::max<int64_t>(1, 16384 / work),
                              [&](int64_t begin, int64_t end) { forward(p, kind, result, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward_cpu(const Tensor& gradient_in, const Tensor& value_in,
                                                               const Tensor& shapes_in, const Tensor& starts_in,
                                                               const Tensor& locations_in, const Tensor& attention_in,
                                                               bool softmax) {
  const Tensor value = adjacent_channels(value_in), shapes = torch::stable::contiguous(shapes_in);
  const Tensor starts = torch::stable::contiguous(starts_in), locations = torch::stable::contiguous(locations_in);
  const Tensor attention = torch::stable::contiguous(attention_in);
  const Tensor gradient = torch::stable::contiguous(gradient_in);
  const Problem p = make_problem(value, shapes, starts, locations, attention, softmax);
  STD_TORCH_CHECK(gradient.scalar_type() == value.scalar_type() && gradient.dim() == 3 &&
                      gradient.size(0) == p.batch && gradient.size(1) == p.queries &&
                      gradient.size(2) == p.heads * p.channels,
                  "ms_deform_attn: the gradient must look like the output");
  Tensor value_gradient = torch::stable::new_empty(value, value.sizes());
  Tensor locations_gradient = torch::stable::new_empty(locations, locations.sizes());
  Tensor attention_gradient = torch::stable::new_empty(attention, attention.sizes());
  if (gradient.numel() == 0 || attention.numel() == 0) {
    torch::stable::zero_(value_gradient);
    torch::stable::zero_(locations_gradient);
    torch::stable::zero_(attention_gradient);
    return {value_gradient, locations_gradient, attention_gradient};
  }
  const Gradients g = {gradient.data_ptr(), value_gradient.data_ptr(), array_of(locations_gradient),
                       array_of(attention_gradient)};
  const Kind kind = kind_of(value);
  const Backward backward = backward_here(kind);
  torch::stable::parallel_for(0, p.batch * p.heads, 1,
                              [&](int64_t begin, int64_t end) { backward(p, kind, g, begin, end); });
  return {value_gradient, locations_gradient, attention_gradient};
}
