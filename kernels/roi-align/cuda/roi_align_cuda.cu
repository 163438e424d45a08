// ROIAlign on CUDA.
//
// A block works on one roi and a part of its channels.

#include <vector>

#include "cuda/cuda_common.h"
#include "cuda/roi_taps.h"
#include "torch_binding.h"

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kChannelsPerBlock = 64;  // of planes

// A thread is one bin, its neighbour the next: writes are in order, reads nearly. It goes through channels, from one
// plane to the next. `body(element of the output, plane, rows, columns)` for bins of few taps, else
// `general(element, plane, row, column)`.
template <typename A, typename Body, typename General>
__device__ __forceinline__ void for_planes(const Problem& p, const Map& map, const RoiTaps<A>& taps, int channels_per_block,
                                           const Body& body, const General& general) {
  const int bins = p.rows * p.columns, width = min(bins, int(blockDim.x)), slots = int(blockDim.x) / width;
  const int slot = int(threadIdx.x) / width;
  const int64_t first = int64_t(blockIdx.y) * channels_per_block;
  const int64_t last = min(first + channels_per_block, map.channels);
  const int64_t batch = (taps.batch > 0 ? taps.batch : 0) * map.stride_batch;
  if (slot >= slots) return;
  for (int bin = int(threadIdx.x) - slot * width; bin < bins; bin += width) {
    const int row = bin / p.columns, column = bin - row * p.columns;
    const bool few = taps.rows.count[row] <= kFew && taps.columns.count[column] <= kFew;
    const FewTaps<A> rows = few_taps(taps.rows, row, map.stride_row);
    const FewTaps<A> columns = few_taps(taps.columns, column, map.stride_column);
    for (int64_t channel = first + slot; channel < last; channel += slots) {
      const int64_t element = (int64_t(blockIdx.x) * map.channels + channel) * bins + bin;
      const int64_t plane = batch + channel * map.stride_channel;
      few ? body(element, plane, rows, columns) : general(element, plane, row, column);
    }
  }
}

template <typename T>
__global__ void forward_planes(Problem p, Map map, const T* __restrict__ data, const Accumulator<T>* __restrict__ rois,
                               int channels_per_block, T* __restrict__ out) {
  using A = Accumulator<T>;
  const RoiTaps<A> taps = find_roi_taps(p, map, rois, blockIdx.x);
  const auto few = [&](int64_t element, int64_t plane, const FewTaps<A>& rows, const FewTaps<A>& columns) {
    A sum = 0;
#pragma unroll
    for (int r = 0; r < kFew; ++r) {
      if (r >= rows.n) continue;
      const T* line = data + plane + rows.offset[r];
      A part = 0;
#pragma unroll
      for (int c = 0; c < kFew; ++c) {
        if (c < columns.n) part += columns.weight[c] * to_acc(line[columns.offset[c]]);
      }
      sum += rows.weight[r] * part;
    }
    out[element] = from_acc<T>(sum);
  };
  const auto general = [&](int64_t element, int64_t plane, int row, int column) {
    A sum = 0;
    for (int r = taps.rows.begin[row]; r < taps.rows.begin[row] + taps.rows.count[row]; ++r) {
      const T* line = data + plane + taps.rows.index[r] * map.stride_row;
      A part = 0;
      for (int c = taps.columns.begin[column]; c < taps.columns.begin[column] + taps.columns.count[column]; ++c) {
        part += taps.columns.weight[c] * to_acc(line[taps.columns.index[c] * map.stride_column]);
      }
      sum += taps.rows.weight[r] * part;
    }
    out[element] = from_acc<T>(sum);
  };
  for_planes<A>(p, map, taps, channels_per_block, few, general);
}

template <typename T>
__global__ void backward_planes(Problem p, Map map, const T* __restrict__ out_gradient,
                                const Accumulator<T>* __restrict__ rois, int channels_per_block,
                                Accumulator<T>* __restrict__ gradient) {
  using A = Accumulator<T>;
  const RoiTaps<A> taps = find_roi_taps(p, map, rois, blockIdx.x);
  const auto few = [&](int64_t element, int64_t plane, const FewTaps<A>& rows, const FewTaps<A>& columns) {
    const A value = to_acc(out_gradient[element]);
#pragma unroll
    for (int r = 0; r < kFew; ++r) {
      if (r >= rows.n) continue;
      A* line = gradient + plane + rows.offset[r];
#pragma unroll
      for (int c = 0; c < kFew; ++c) {
        if (c < columns.n) atomicAdd(line + columns.offset[c], value * rows.weight[r] * columns.weight[c]);
      }
    }
  };
  const auto general = [&](int64_t element, int64_t plane, int row, int column) {
    const A value = to_acc(out_gradient[element]);
    for (int r = taps.rows.begin[row]; r < taps.rows.begin[row] + taps.rows.count[row]; ++r) {
      A* line = gradient + plane + taps.rows.index[r] * map.stride_row;
      for (int c = taps.columns.begin[column]; c < taps.columns.begin[column] + taps.columns.count[column]; ++c) {
        atomicAdd(line + taps.columns.index[c] * map.stride_column, value * taps.rows.weight[r] * taps.columns.weight[c]);
      }
    }
  };
  for_planes<A>(p, map, taps, channels_per_block, few, general);
}

// Channels-last: a block works on kPacks packs of neighbouring channels of all bins of a roi, so that map rows that
// several rows of bins read are in its cache. kPacks neighbouring threads go through a row of bins from left to right.
constexpr int kPacks = 16;

// How many blocks should share a multiprocessor: the compiler keeps to the registers that this leaves a thread.
template <typename T>
constexpr int kResident = std::is_same_v<T, double> ? 2 : 3;

// A column of the map, summed over the map rows that a row of bins reads.
template <typename A, int N>
struct Column {
  int index;  // -1: none
  A sum[N];
};

template <typename T, int N>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    forward_pixels(Problem p, Map map, const T* __restrict__ data, const Accumulator<T>* __restrict__ rois,
                   T* __restrict__ out) {
  using A = Accumulator<T>;
  const RoiTaps<A> taps = find_roi_taps(p, map, rois, blockIdx.x);
  const int64_t channel = (int64_t(blockIdx.y) * kPacks + threadIdx.x % kPacks) * N;
  if (channel >= map.channels) return;
  const T* image = data + (taps.batch > 0 ? taps.batch : 0) * map.stride_batch + channel;
  for (int row = int(threadIdx.x) / kPacks; row < p.rows; row += int(blockDim.x) / kPacks) {
    const int first_row = taps.rows.begin[row], n_rows = taps.rows.count[row];
    const FewTaps<A> rows = few_taps(taps.rows, row, map.stride_row);
    const auto sum_column = [&](int index) {
      Column<A, N> column = {index, {}};
      const T* top = image + index * map.stride_column;
      PackWords<T, N> pixels[kFew] = {};  // all are on their way before the first is used; none is zero, as its weight
#pragma unroll
      for (int r = 0; r < kFew; ++r) {
        if (r < n_rows) pixels[r] = *reinterpret_cast<const PackWords<T, N>*>(top + rows.offset[r]);
      }
      const auto add = [&](const PackWords<T, N>& words, A weight) {
        A pixel[N];
        unpack<T, N>(words, pixel);
#pragma unroll
        for (int i = 0; i < N; ++i) column.sum[i] += weight * pixel[i];
      };
#pragma unroll
      for (int r = 0; r < kFew; ++r) add(pixels[r], rows.weight[r]);
      for (int r = first_row + kFew; r < first_row + n_rows; ++r) {
        add(*reinterpret_cast<const PackWords<T, N>*>(top + taps.rows.index[r] * map.stride_row), taps.rows.weight[r]);
      }
      return column;
    };
    T* result = out + ((int64_t(blockIdx.x) * p.rows + row) * p.columns) * map.channels + channel;
    Column<A, N> older = {-1, {}}, newer = {-1, {}};  // the last two: the next bin begins with them if bins are small
    for (int bin = 0; bin < p.columns; ++bin, result += map.channels) {
      A sum[N] = {};
      for (int c = taps.columns.begin[bin]; c < taps.columns.begin[bin] + taps.columns.count[bin]; ++c) {
        const int index = taps.columns.index[c];
        const A weight = taps.columns.weight[c];
        if (index == older.index) {
#pragma unroll
          for (int i = 0; i < N; ++i) sum[i] += weight * older.sum[i];
          continue;
        }
        if (index != newer.index) {
          older = newer;
          newer = sum_column(index);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += weight * newer.sum[i];
      }
      Pack<T, N> packed;
#pragma unroll
      for (int i = 0; i < N; ++i) packed.at[i] = from_acc<T>(sum[i]);
      *reinterpret_cast<Pack<T, N>*>(result) = packed;
    }
  }
}

// The same way back: what the bins of a row give to a column of the map is summed up before it is added to the map.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads, 3)
    backward_pixels(Problem p, Map map, const T* __restrict__ out_gradient, const Accumulator<T>* __restrict__ rois,
                    Accumulator<T>* __restrict__ gradient) {
  using A = Accumulator<T>;
  const RoiTaps<A> taps = find_roi_taps(p, map, rois, blockIdx.x);
  const int64_t channel = (int64_t(blockIdx.y) * kPacks + threadIdx.x % kPacks) * N;
  if (channel >= map.channels) return;
  A* image = gradient + (taps.batch > 0 ? taps.batch : 0) * map.stride_batch + channel;
  for (int row = int(threadIdx.x) / kPacks; row < p.rows; row += int(blockDim.x) / kPacks) {
    const int first_row = taps.rows.begin[row], n_rows = taps.rows.count[row];
    const auto add_column = [&](const Column<A, N>& column) {
      if (column.index < 0) return;
      A* top = image + column.index * map.stride_column;
      for (int r = first_row; r < first_row + n_rows; ++r) {
        A part[N];
#pragma unroll
        for (int i = 0; i < N; ++i) part[i] = taps.rows.weight[r] * column.sum[i];
        add_atomically(top + taps.rows.index[r] * map.stride_row, part);
      }
    };
    const T* source = out_gradient + ((int64_t(blockIdx.x) * p.rows + row) * p.columns) * map.channels + channel;
    Column<A, N> older = {-1, {}}, newer = {-1, {}};
    for (int bin = 0; bin < p.columns; ++bin, source += map.channels) {
      const Pack<T, N> value = *reinterpret_cast<const Pack<T, N>*>(source);
      for (int c = taps.columns.begin[bin]; c < taps.columns.begin[bin] + taps.columns.count[bin]; ++c) {
        const int index = taps.columns.index[c];
        const A weight = taps.columns.weight[c];
        if (index == older.index) {
#pragma unroll
          for (int i = 0; i < N; ++i) older.sum[i] += weight * to_acc(value.at[i]);
          continue;
        }
        if (index != newer.index) {
          add_column(older);
          older = newer;
          newer = {index, {}};
        }
#pragma unroll
        for (int i = 0; i < N; ++i) newer.sum[i] += weight * to_acc(value.at[i]);
      }
    }
    add_column(older);
    add_column(newer);
  }
}

// autograd.py holds the same rule for torch.compile.
bool is_channels_last(const Tensor& map) {
  return !map.is_contiguous() && map.size(1) > 1 && map.stride(1) == 1 && (map.size(3) == 1 || map.stride(3) != 1);
}

Tensor empty_like_map(const Tensor& map, const std::vector<int64_t>& size, bool channels_last, ScalarType type) {
  return torch::stable::empty(size, type, std::nullopt, map.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

Map make_map(const Tensor& tensor, double scale) {
  STD_TORCH_CHECK(tensor.size(2) < (1 << 30) && tensor.size(3) < (1 << 30), "roi_align: map too large");
  return {tensor.size(0),   tensor.size(1),   int(tensor.size(2)), int(tensor.size(3)), tensor.stride(0),
          tensor.stride(1), tensor.stride(2), tensor.stride(3),    scale};
}

// The grid of blocks: a roi each, then parts of `part` of its n channels, few enough for CUDA's limit.
dim3 make_grid(int64_t rois, int64_t n, int64_t& part) {
  part = std::max(part, (n + 65534) / 65535);
  return dim3(unsigned(rois), unsigned((n + part - 1) / part));
}

dim3 grid_of_pixels(const Problem& p, const Map& map, int pack) {
  const int64_t at_once = int64_t(kPacks) * pack, parts = (map.channels + at_once - 1) / at_once;
  STD_TORCH_CHECK(parts < 65536, "roi_align: too many channels");
  return dim3(unsigned(p.n_rois), unsigned(parts));
}

size_t check_shared(const Problem& p, const Map& map, size_t weight_size) {
  const int64_t bytes = shared_bytes(p, map, weight_size);
  STD_TORCH_CHECK(bytes <= 48 * 1024, "roi_align: too many samples a bin, or too large a map for adaptive sampling, for "
                  "the shared memory of the GPU (", bytes, " bytes)");
  return size_t(bytes);
}

void check_arguments(size_t maps, size_t scales, int64_t rows, int64_t columns, const Tensor& rois) {
  STD_TORCH_CHECK(maps > 0 && maps == scales, "roi_align: ", maps, " maps but ", scales, " scales");
  STD_TORCH_CHECK(rows > 0 && columns > 0 && rows * columns < (1 << 30), "roi_align: impossible output size");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5, "roi_align: rois must be (n, 5): batch index, x1, y1, x2, y2");
}

template <typename T, int N>
bool can_pack(const Map& map, const void* data) {
  return map.channels % N == 0 && map.stride_batch % N == 0 && map.stride_row % N == 0 && map.stride_column % N == 0 &&
         is_aligned(data, sizeof(T) * N);
}

}  // namespace

std::vector<Tensor> roi_align_forward_cuda(const std::vector<Tensor> maps, const Tensor& rois_in,
                                           const std::vector<double> scales, int64_t rows, int64_t columns,
                                           int64_t sampling_ratio, bool aligned) {
  check_arguments(maps.size(), scales.size(), rows, columns, rois_in);
  const torch::stable::accelerator::DeviceGuard guard(rois_in.get_device_index());
  const ScalarType type = maps[0].scalar_type();
  const Tensor rois = torch::stable::contiguous(
      torch::stable::to(rois_in, type == ScalarType::Double ? ScalarType::Double : ScalarType::Float));
  const Problem p = {rois.size(0), int(rows), int(columns), int(sampling_ratio), aligned};
  std::vector<Tensor> outs;
  for (size_t level = 0; level < maps.size(); ++level) {
    STD_TORCH_CHECK(maps[level].dim() == 4, "roi_align: maps must be (batch, channels, height, width)");
    STD_TORCH_CHECK(maps[level].scalar_type() == type, "roi_align: maps of different types");
    STD_TORCH_CHECK(maps[level].is_cuda() && maps[level].get_device_index() == rois.get_device_index(),
                    "roi_align: maps and rois must be on the same device");
    const bool channels_last = is_channels_last(maps[level]);
    const Map map = make_map(maps[level], scales[level]);  // any strides: nothing is copied
    outs.push_back(empty_like_map(maps[level], {p.n_rois, map.channels, rows, columns}, channels_last, type));
    if (outs.back().numel() == 0) continue;
    STD_TORCH_CHECK(map.height > 0 && map.width > 0 && map.batch > 0, "roi_align: a map without pixels");
    dispatch(type, "roi_align", [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      using A = Accumulator<T>;
      constexpr int N = 16 / sizeof(T);
      const size_t shared = check_shared(p, map, sizeof(A));
      const T* data = static_cast<const T*>(maps[level].data_ptr());
      const A* boxes = static_cast<const A*>(rois.data_ptr());
      T* out = static_cast<T*>(outs.back().data_ptr());
      const cudaStream_t stream = current_stream(rois);
      int64_t part = kChannelsPerBlock;
      if (!channels_last) {
        const dim3 grid = make_grid(p.n_rois, map.channels, part);
        forward_planes<T><<<grid, kThreads, shared, stream>>>(p, map, data, boxes, int(part), out);
      } else if (can_pack<T, N>(map, data)) {
        forward_pixels<T, N><<<grid_of_pixels(p, map, N), kThreads, shared, stream>>>(p, map, data, boxes, out);
      } else {
        forward_pixels<T, 1><<<grid_of_pixels(p, map, 1), kThreads, shared, stream>>>(p, map, data, boxes, out);
      }
      check_launch("roi_align");
    });
  }
  return outs;
}

std::vector<Tensor> roi_align_backward_cuda(const std::vector<Tensor> gradients, const Tensor& rois_in,
                                            const std::vector<double> scales, const std::vector<int64_t> map_sizes,
                                            const std::vector<bool> channels_last, int64_t sampling_ratio,
                                            bool aligned) {
  STD_TORCH_CHECK(map_sizes.size() == 4 * gradients.size() && channels_last.size() == gradients.size(),
                  "roi_align: sizes or layouts do not fit the gradients");
  const torch::stable::accelerator::DeviceGuard guard(rois_in.get_device_index());
  std::vector<Tensor> results;
  for (size_t level = 0; level < gradients.size(); ++level) {
    STD_TORCH_CHECK(gradients[level].dim() == 4 && gradients[level].is_cuda() &&
                        gradients[level].get_device_index() == rois_in.get_device_index(),
                    "roi_align: gradients must look like the outputs");
    const bool last = channels_last[level];
    const Tensor out_gradient =
        torch::stable::contiguous(gradients[level], last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
    check_arguments(gradients.size(), scales.size(), out_gradient.size(2), out_gradient.size(3), rois_in);
    const ScalarType type = out_gradient.scalar_type();
    const ScalarType accumulator = type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    const Tensor rois = torch::stable::contiguous(torch::stable::to(rois_in, accumulator));
    const Problem p = {rois.size(0), int(out_gradient.size(2)), int(out_gradient.size(3)), int(sampling_ratio), aligned};
    const std::vector<int64_t> size(map_sizes.begin() + 4 * level, map_sizes.begin() + 4 * level + 4);
    STD_TORCH_CHECK(out_gradient.size(0) == p.n_rois && out_gradient.size(1) == size[1],
                    "roi_align: gradients must look like the outputs");
    // Many bins add to the same pixel: in the accumulator's type, rounded once at the end.
    Tensor gradient = empty_like_map(out_gradient, size, last, accumulator);
    torch::stable::zero_(gradient);
    if (gradient.numel() > 0 && out_gradient.numel() > 0) {
      const Map map = make_map(gradient, scales[level]);
      dispatch(type, "roi_align", [&](auto* null) {
        using T = std::remove_pointer_t<decltype(null)>;
        using A = Accumulator<T>;
        constexpr int N = kAtomicPack<T>;
        const size_t shared = check_shared(p, map, sizeof(A));
        const T* source = static_cast<const T*>(out_gradient.data_ptr());
        const A* boxes = static_cast<const A*>(rois.data_ptr());
        A* target = static_cast<A*>(gradient.data_ptr());
        const cudaStream_t stream = current_stream(rois);
        int64_t part = kChannelsPerBlock;
        if (!last) {
          const dim3 grid = make_grid(p.n_rois, map.channels, part);
          backward_planes<T><<<grid, kThreads, shared, stream>>>(p, map, source, boxes, int(part), target);
        } else if (map.channels % N == 0 && is_aligned(source, sizeof(T) * N)) {
          backward_pixels<T, N><<<grid_of_pixels(p, map, N), kThreads, shared, stream>>>(p, map, source, boxes, target);
        } else {
          backward_pixels<T, 1><<<grid_of_pixels(p, map, 1), kThreads, shared, stream>>>(p, map, source, boxes, target);
        }
        check_launch("roi_align");
      });
    }
    results.push_back(torch::stable::to(gradient, type));
  }
  return results;
}
