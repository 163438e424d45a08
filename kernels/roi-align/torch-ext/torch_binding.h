#pragma once

#include <cstdint>
#include <vector>

#include <torch/csrc/stable/tensor.h>

std::vector<torch::stable::Tensor> roi_align_forward_cpu(const std::vector<torch::stable::Tensor> maps,
                                                         const torch::stable::Tensor& rois,
                                                         const std::vector<double> scales, int64_t rows,
                                                         int64_t columns, int64_t sampling_ratio, bool aligned);

std::vector<torch::stable::Tensor> roi_align_backward_cpu(const std::vector<torch::stable::Tensor> gradients,
                                                          const torch::stable::Tensor& rois,
                                                          const std::vector<double> scales,
                                                          const std::vector<int64_t> map_sizes,
                                                          const std::vector<bool> channels_last,
                                                          int64_t sampling_ratio, bool aligned);

#if defined(CUDA_KERNEL)
std::vector<torch::stable::Tensor> roi_align_forward_cuda(const std::vector<torch::stable::Tensor> maps,
                                                          const torch::stable::Tensor& rois,
                                                          const std::vector<double> scales, int64_t rows,
                                                          int64_t columns, int64_t sampling_ratio, bool aligned);

std::vector<torch::stable::Tensor> roi_align_backward_cuda(const std::vector<torch::stable::Tensor> gradients,
                                                           const torch::stable::Tensor& rois,
                                                           const std::vector<double> scales,
                                                           const std::vector<int64_t> map_sizes,
                                                           const std::vector<bool> channels_last,
                                                           int64_t sampling_ratio, bool aligned);
#endif
