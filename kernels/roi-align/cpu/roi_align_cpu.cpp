// ROIAlign on the CPU: checks, the taps of a roi and the choice of the instruction set.

#include <limits>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/roi_align.h"
#include "torch_binding.h"

// A sample just outside the map counts as zero, one on its edge does not: a fused multiply-add in the coordinates would
// move samples over the edge that the usual implementations leave inside.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#else
#pragma STDC FP_CONTRACT OFF
#endif

namespace roi_align {
namespace {

void add_tap(Taps& taps, int32_t first, int32_t index, double weight) {
  // Samples run along the axis: what was met before is among the last few.
  const int32_t end = int32_t(taps.index.size());
  for (int32_t k = end - 1; k >= std::max(first, end - 4); --k) {
    if (taps.index[k] == index) {
      taps.weight[k] += weight;
      return;
    }
  }
  taps.index.push_back(index);
  taps.weight.push_back(weight);
}

// One axis: `bins` bins of `bin_size` from `start`, `grid` samples each, on a map of `size` rows or columns.
template <typename A>
void find_axis_taps(A start, A bin_size, int64_t bins, int64_t grid, int64_t size, A weight, Taps& taps) {
  taps.begin.assign(1, 0);
  taps.index.clear();
  taps.weight.clear();
  for (int64_t bin = 0; bin < bins; ++bin) {
    const int32_t first = int32_t(taps.index.size());
    for (int64_t sample = 0; sample < grid; ++sample) {
      A at = start + A(bin) * bin_size + (A(sample) + A(0.5)) * bin_size / A(grid);
      if (!(at >= A(-1) && at <= A(size))) continue;  // NaN too
      at = std::max(at, A(0));
      const int64_t low = int64_t(at);
      if (low >= size - 1) {
        add_tap(taps, first, int32_t(size - 1), weight);
      } else {
        const A part = at - A(low);
        add_tap(taps, first, int32_t(low), (A(1) - part) * weight);
        if (part != A(0)) add_tap(taps, first, int32_t(low + 1), part * weight);
      }
    }
    taps.begin.push_back(int32_t(taps.index.size()));
  }
}

// Samples along one side of a bin. A size that is negative, zero or NaN has none when sampling adapts.
template <typename A>
int64_t samples_per_bin(const Problem& p, A roi_size, int64_t bins) {
  if (p.sampling_ratio > 0) return p.sampling_ratio;
  const A grid = std::ceil(roi_size / A(bins));
  return grid > A(0) ? int64_t(std::min(grid, A(8192))) : 0;
}

template <typename A>
void find_taps_as(const Problem& p, const Map& map, int64_t roi, RoiTaps& taps) {
  const double* box = p.rois + 5 * roi;
  const A scale = A(map.scale), offset = p.aligned ? A(0.5) : A(0);
  const A x1 = A(box[1]) * scale - offset, y1 = A(box[2]) * scale - offset;
  A width = A(box[3]) * scale - offset - x1, height = A(box[4]) * scale - offset - y1;
  if (!p.aligned) {  // the older convention: no roi is smaller than a pixel
    width = std::max(width, A(1));
    height = std::max(height, A(1));
  }
  const int64_t grid_rows = samples_per_bin(p, height, p.rows), grid_columns = samples_per_bin(p, width, p.columns);
  const A mean = A(1) / A(std::max<int64_t>(grid_rows * grid_columns, 1));
  find_axis_taps(y1, height / A(p.rows), p.rows, grid_rows, map.height, mean, taps.rows);
  find_axis_taps(x1, width / A(p.columns), p.columns, grid_columns, map.width, A(1), taps.columns);
  taps.batch = int64_t(box[0]);
}

}  // namespace

void find_taps(const Problem& p, const Map& map, int64_t roi, RoiTaps& taps) {
  p.in_double ? find_taps_as<double>(p, map, roi, taps) : find_taps_as<float>(p, map, roi, taps);
}

}  // namespace roi_align

namespace {

using namespace roi_align;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Kind kind_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Kind::kFloat;
    case ScalarType::Double: return Kind::kDouble;
    case ScalarType::Half: return Kind::kHalf;
    case ScalarType::BFloat16: return Kind::kBFloat16;
    default: STD_TORCH_CHECK(false, "roi_align: float32, float64, float16 or bfloat16 expected");
  }
}

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

// autograd.py holds the same rule for torch.compile.
bool is_channels_last(const Tensor& map) {
  return !map.is_contiguous() && map.size(1) > 1 && map.stride(1) == 1 && (map.size(3) == 1 || map.stride(3) != 1);
}

Tensor empty_like_map(const Tensor& map, const std::vector<int64_t>& size, bool channels_last) {
  return torch::stable::empty(size, map.scalar_type(), std::nullopt, map.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

Tensor contiguous_as(const Tensor& tensor, bool channels_last) {
  return torch::stable::contiguous(tensor, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

Map make_map(const Tensor& tensor, bool channels_last, double scale) {
  return {tensor.data_ptr(), tensor.size(0),   tensor.size(1),   tensor.size(2),   tensor.size(3),
          tensor.stride(0),  tensor.stride(1), tensor.stride(2), tensor.stride(3), channels_last,
          scale};
}

// The rois as doubles: exact for every type that they come in.
std::vector<double> read_rois(const Tensor& rois_in, int64_t smallest_batch) {
  STD_TORCH_CHECK(rois_in.dim() == 2 && rois_in.size(1) == 5, "roi_align: rois must be (n, 5): batch index, x1, y1, x2, y2");
  const Tensor rois = torch::stable::contiguous(torch::stable::to(rois_in, ScalarType::Double));
  const double* data = static_cast<const double*>(rois.data_ptr());
  std::vector<double> result(data, data + rois.numel());
  for (size_t i = 0; i < result.size(); i += 5) {
    STD_TORCH_CHECK(result[i] >= 0 && result[i] < double(smallest_batch), "roi_align: batch index ", result[i], " of roi ",
                    i / 5, " is not in 0..", smallest_batch - 1);
  }
  return result;
}

std::vector<RoiTaps> find_all_taps(const Problem& p, const Map& map) {
  std::vector<RoiTaps> taps(p.n_rois);
  torch::stable::parallel_for(0, p.n_rois, 16, [&](int64_t begin, int64_t end) {
    for (int64_t roi = begin; roi < end; ++roi) find_taps(p, map, roi, taps[roi]);
  });
  return taps;
}

void check_arguments(size_t maps, size_t scales, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(maps > 0 && maps == scales, "roi_align: ", maps, " maps but ", scales, " scales");
  STD_TORCH_CHECK(rows > 0 && columns > 0, "roi_align: the output size must be positive");
}

}  // namespace

std::vector<Tensor> roi_align_forward_cpu(const std::vector<Tensor> maps, const Tensor& rois_in,
                                          const std::vector<double> scales, int64_t rows, int64_t columns,
                                          int64_t sampling_ratio, bool aligned) {
  check_arguments(maps.size(), scales.size(), rows, columns);
  int64_t smallest_batch = std::numeric_limits<int64_t>::max();
  for (const Tensor& map : maps) {
    STD_TORCH_CHECK(map.dim() == 4, "roi_align: maps must be (batch, channels, height, width)");
    STD_TORCH_CHECK(map.scalar_type() == maps[0].scalar_type(), "roi_align: maps of different types");
    smallest_batch = std::min(smallest_batch, map.size(0));
  }
  const std::vector<double> rois = read_rois(rois_in, smallest_batch);
  const Kind kind = kind_of(maps[0]);
  const Problem p = {rois.data(), int64_t(rois.size() / 5), rows, columns, sampling_ratio, aligned, kind == Kind::kDouble};
  const Forward forward = forward_here(kind);
  std::vector<Tensor> outs;
  for (size_t level = 0; level < maps.size(); ++level) {
    const bool channels_last = is_channels_last(maps[level]);
    // Views with adjacent columns or channels (a slice, a crop) are read in place.
    const bool readable = channels_last || maps[level].stride(3) == 1 || maps[level].size(3) == 1;
    const Tensor map_tensor = readable ? maps[level] : contiguous_as(maps[level], false);
    const Map map = make_map(map_tensor, channels_last, scales[level]);
    outs.push_back(empty_like_map(map_tensor, {p.n_rois, map.channels, rows, columns}, channels_last));
    if (outs.back().numel() == 0) continue;
    STD_TORCH_CHECK(map.height > 0 && map.width > 0, "roi_align: a map without pixels");
    void* out = outs.back().data_ptr();
    const std::vector<RoiTaps> taps = find_all_taps(p, map);
    // Planes: some channels, few enough to stay in the cache, for many rois. Channels-last: roi after roi, since its
    // pixels are whole pages of channels. Either way few rois keep all threads busy.
    const int64_t plane = map.height * map.width * int64_t(map_tensor.element_size());
    const int64_t chunk = channels_last ? 256 : std::clamp<int64_t>(512 * 1024 / plane, 4, 64);
    const int64_t group = channels_last ? 1 : 32;
    const int64_t chunks = (map.channels + chunk - 1) / chunk, groups = (p.n_rois + group - 1) / group;
    const int64_t work = rows * columns * std::min(map.channels, chunk) * group;
    torch::stable::parallel_for(0, chunks * groups, std::max<int64_t>(1, 8192 / work), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = (channels_last ? task % chunks : task / groups) * chunk;
        const int64_t roi = (channels_last ? task / chunks : task % groups) * group;
        forward(p, kind, map, taps, roi, std::min(p.n_rois, roi + group), out, first,
                std::min(map.channels, first + chunk));
      }
    });
  }
  return outs;
}

std::vector<Tensor> roi_align_backward_cpu(const std::vector<Tensor> gradients, const Tensor& rois_in,
                                           const std::vector<double> scales, const std::vector<int64_t> map_sizes,
                                           const std::vector<bool> channels_last, int64_t sampling_ratio,
                                           bool aligned) {
  STD_TORCH_CHECK(map_sizes.size() == 4 * gradients.size() && channels_last.size() == gradients.size(),
                  "roi_align: sizes or layouts do not fit the gradients");
  int64_t smallest_batch = std::numeric_limits<int64_t>::max();
  for (size_t level = 0; level < gradients.size(); ++level) smallest_batch = std::min(smallest_batch, map_sizes[4 * level]);
  const std::vector<double> rois = read_rois(rois_in, smallest_batch);
  std::vector<Tensor> results;
  for (size_t level = 0; level < gradients.size(); ++level) {
    STD_TORCH_CHECK(gradients[level].dim() == 4, "roi_align: gradients must look like the outputs");
    const Tensor out_gradient = contiguous_as(gradients[level], channels_last[level]);
    check_arguments(gradients.size(), scales.size(), out_gradient.size(2), out_gradient.size(3));
    const Kind kind = kind_of(out_gradient);
    const Backward backward = backward_here(kind);
    const std::vector<int64_t> size(map_sizes.begin() + 4 * level, map_sizes.begin() + 4 * level + 4);
    STD_TORCH_CHECK(out_gradient.size(0) * 5 == int64_t(rois.size()) && out_gradient.size(1) == size[1],
                    "roi_align: gradients must look like the outputs");
    results.push_back(empty_like_map(out_gradient, size, channels_last[level]));
    if (results.back().numel() == 0) continue;
    const Map gradient = make_map(results.back(), channels_last[level], scales[level]);
    const Problem p = {rois.data(),    int64_t(rois.size() / 5), out_gradient.size(2), out_gradient.size(3),
                       sampling_ratio, aligned,                  kind == Kind::kDouble};
    const std::vector<RoiTaps> taps = find_all_taps(p, gradient);
    // Every task owns its channels of one image, so nothing is added twice at once and the order is always the same.
    // Channels a task: some planes that stay in the cache, or some cache lines of every pixel.
    const int64_t chunk = channels_last[level] ? 64 : 8, chunks = (gradient.channels + chunk - 1) / chunk;
    const void* out = out_gradient.data_ptr();
    torch::stable::parallel_for(0, gradient.batch * chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % chunks * chunk;
        backward(p, kind, gradient, taps, task / chunks, out, first, std::min(gradient.channels, first + chunk));
      }
    });
  }
  return results;
}
