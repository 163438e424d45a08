#pragma once

#include <tuple>

#include <torch/csrc/stable/tensor.h>

torch::stable::Tensor ms_deform_attn_forward_cpu(const torch::stable::Tensor& value,
                                                 const torch::stable::Tensor& spatial_shapes,
                                                 const torch::stable::Tensor& level_start_index,
                                                 const torch::stable::Tensor& sampling_locations,
                                                 const torch::stable::Tensor& attention, bool softmax);

std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> ms_deform_attn_backward_cpu(
    const torch::stable::Tensor& gradient, const torch::stable::Tensor& value,
    const torch::stable::Tensor& spatial_shapes, const torch::stable::Tensor& level_start_index,
    const torch::stable::Tensor& sampling_locations, const torch::stable::Tensor& attention, bool softmax);

#if defined(CUDA_KERNEL)
torch::stable::Tensor ms_deform_attn_forward_cuda(const torch::stable::Tensor& value,
                                                  const torch::stable::Tensor& spatial_shapes,
                                                  const torch::stable::Tensor& level_start_index,
                                                  const torch::stable::Tensor& sampling_locations,
                                                  const torch::stable::Tensor& attention, bool softmax);

std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> ms_deform_attn_backward_cuda(
    const torch::stable::Tensor& gradient, const torch::stable::Tensor& value,
    const torch::stable::Tensor& spatial_shapes, const torch::stable::Tensor& level_start_index,
    const torch::stable::Tensor& sampling_locations, const torch::stable::Tensor& attention, bool softmax);
#endif
