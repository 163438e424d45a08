// ROIAlign on CUDA.
//
// A block works on one roi and a part of its channels or bins. It first writes down, in shared memory, the map rows and
// the map columns that each bin reads, each once, with their weights; the samples themselves are never visited again.

#include <limits>
#include <vector>

#include "cuda/cuda_common.h"
#include "torch_binding.h"

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Map {
  int64_t batch, channels;
  int height, width;
  int64_t stride_batch, stride_channel, stride_row, stride_column;
  double scale;
};

struct Problem {
  int64_t n_rois;
  int rows, columns, sampling_ratio;
  bool aligned;
};

// A sample just outside the map counts as zero, one on its edge does not: no fused multiply-add in the coordinates, or
// samples would move over the edge that the usual implementations leave inside.
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ float multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double multiply(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ float divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ double divide(double a, double b) { return __ddiv_rn(a, b); }

template <typename A>
struct Axis {
  A start, bin_size, weight;
  int bins, grid, size;  // `grid` samples a bin, on a map of `size` rows or columns
};

// The taps of one axis in shared memory: bin i has entries begin[i] .. begin[i] + count[i].
template <typename A>
struct Taps {
  int *begin, *count, *index;
  A* weight;
};

template <typename A>
__device__ __forceinline__ bool sample(const Axis<A>& axis, int bin, int k, int& low, A& part) {
  A at = add(add(axis.start, multiply(A(bin), axis.bin_size)),
             divide(multiply(add(A(k), A(0.5)), axis.bin_size), A(axis.grid)));
  if (!(at >= A(-1) && at <= A(axis.size))) return false;  // NaN too
  at = at > A(0) ? at : A(0);
  low = int(at);
  part = at - A(low);
  if (low >= axis.size - 1) {
    low = axis.size - 1;
    part = 0;
  }
  return true;
}

template <typename A>
__device__ void add_tap(const Taps<A>& taps, int begin, int& count, int index, A weight) {
  // Samples run along the axis: what was met before is among the last few.
  for (int k = count - 1; k >= 0 && k >= count - 4; --k) {
    if (taps.index[begin + k] == index) {
      taps.weight[begin + k] += weight;
      return;
    }
  }
  taps.index[begin + count] = index;
  taps.weight[begin + count] = weight;
  ++count;
}

// By all threads of the block; synchronises.
template <typename A>
__device__ void find_taps(const Axis<A>& axis, bool adaptive, const Taps<A>& taps) {
  // Room for each bin: two taps a sample, or, where samples are at most a pixel apart, the pixels from first to last.
  for (int bin = threadIdx.x; bin < axis.bins; bin += blockDim.x) {
    int room = 2 * axis.grid;
    if (adaptive) {
      int lowest = axis.size, highest = -1, low;
      A part;
      for (int k = 0; k < axis.grid; ++k) {
        if (!sample(axis, bin, k, low, part)) continue;
        lowest = low < lowest ? low : lowest;
        highest = low + (part > 0) > highest ? low + (part > 0) : highest;
      }
      room = highest >= lowest ? highest - lowest + 1 : 0;
    }
    taps.count[bin] = room;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int begin = 0;
    for (int bin = 0; bin < axis.bins; ++bin) {
      taps.begin[bin] = begin;
      begin += taps.count[bin];
    }
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < axis.bins; bin += blockDim.x) {
    int count = 0, low;
    A part;
    for (int k = 0; k < axis.grid; ++k) {
      if (!sample(axis, bin, k, low, part)) continue;
      add_tap(taps, taps.begin[bin], count, low, (1 - part) * axis.weight);
      if (part > 0) add_tap(taps, taps.begin[bin], count, low + 1, part * axis.weight);
    }
    taps.count[bin] = count;
  }
  __syncthreads();
}

template <typename A>
struct RoiTaps {
  Taps<A> rows, columns;  // the mean over samples is in the weights of the rows
  int64_t batch;          // -1: out of range, the roi reads nothing
};

// The most taps that an axis can have; adaptive samples are at most a pixel apart, and bins share their end pixels.
__host__ __device__ inline int64_t most_taps(int64_t bins, int64_t size, int64_t sampling_ratio) {
  return sampling_ratio > 0 ? 2 * sampling_ratio * bins : size + 3 * bins;
}

inline int64_t shared_bytes(const Problem& p, const Map& map, size_t weight_size) {
  const int64_t taps = most_taps(p.rows, map.height, p.sampling_ratio) + most_taps(p.columns, map.width, p.sampling_ratio);
  return taps * int64_t(weight_size + sizeof(int)) + 2 * (p.rows + p.columns) * int64_t(sizeof(int));
}

template <typename A>
__device__ RoiTaps<A> find_roi_taps(const Problem& p, const Map& map, const A* rois, int64_t roi) {
  extern __shared__ double shared[];  // double: aligned for either type
  const int64_t row_taps = most_taps(p.rows, map.height, p.sampling_ratio);
  const int64_t column_taps = most_taps(p.columns, map.width, p.sampling_ratio);
  RoiTaps<A> taps;
  taps.rows.weight = reinterpret_cast<A*>(shared);
  taps.columns.weight = taps.rows.weight + row_taps;
  taps.rows.index = reinterpret_cast<int*>(taps.columns.weight + column_taps);
  taps.columns.index = taps.rows.index + row_taps;
  taps.rows.begin = taps.columns.index + column_taps;
  taps.rows.count = taps.rows.begin + p.rows;
  taps.columns.begin = taps.rows.count + p.rows;
  taps.columns.count = taps.columns.begin + p.columns;

  const A* box = rois + 5 * roi;
  const A scale = A(map.scale), offset = p.aligned ? A(0.5) : A(0);
  const A x1 = add(multiply(box[1], scale), -offset), y1 = add(multiply(box[2], scale), -offset);
  A width = add(add(multiply(box[3], scale), -offset), -x1), height = add(add(multiply(box[4], scale), -offset), -y1);
  if (!p.aligned) {  // the older convention: no roi is smaller than a pixel
    width = width > A(1) ? width : A(1);
    height = height > A(1) ? height : A(1);
  }
  const bool adaptive = p.sampling_ratio <= 0;
  const bool valid = box[0] >= A(0) && box[0] < A(map.batch);
  taps.batch = valid ? int64_t(box[0]) : -1;
  const auto samples = [&](A size, int bins) {
    if (!valid) return 0;
    if (!adaptive) return p.sampling_ratio;
    const A grid = ceil(divide(size, A(bins)));
    return grid > A(0) ? (grid < A(8192) ? int(grid) : 8192) : 0;
  };
  const int grid_rows = samples(height, p.rows), grid_columns = samples(width, p.columns);
  const int64_t count = int64_t(grid_rows) * grid_columns;
  const A mean = A(1) / A(count > 1 ? count : 1);
  find_taps(Axis<A>{y1, divide(height, A(p.rows)), mean, p.rows, grid_rows, map.height}, adaptive, taps.rows);
  find_taps(Axis<A>{x1, divide(width, A(p.columns)), A(1), p.columns, grid_columns, map.width}, adaptive, taps.columns);
  return taps;
}

// A thread is one bin of one channel, its neighbour the next bin: writes are in order, reads nearly.
template <typename T>
__global__ void forward_planes(Problem p, Map map, const T* __restrict__ data, const Accumulator<T>* __restrict__ rois,
                               int channels_per_block, T* __restrict__ out) {
  using A = Accumulator<T>;
  const RoiTaps<A> taps = find_roi_taps(p, map, rois, blockIdx.x);
  const int bins = p.rows * p.columns;
  const int64_t first = int64_t(blockIdx.y) * channels_per_block;
  const int64_t channels = min(int64_t(channels_per_block), map.channels - first);
  const T* image = data + (taps.batch > 0 ? taps.batch : 0) * map.stride_batch + first * map.stride_channel;
  T* result = out + (int64_t(blockIdx.x) * map.channels + first) * bins;
  for (int64_t e = threadIdx.x; e < channels * bins; e += blockDim.x) {
    const int64_t channel = e / bins;
    const int row = int(e % bins) / p.columns, column = int(e % bins) % p.columns;
    const T* plane = image + channel * map.stride_channel;
    A sum = 0;
    for (int r = taps.rows.begin[row]; r < taps.rows.begin[row] + taps.rows.count[row]; ++r) {
      const T* line = plane + taps.rows.index[r] * map.stride_row;
      A part = 0;
      for (int c = taps.columns.begin[column]; c < taps.columns.begin[column] + taps.columns.count[column]; ++c) {
        part += taps.columns.weight[c] * to_acc(line[taps.columns.index[c] * map.stride_column]);
      }
      sum += taps.rows.weight[r] * part;
    }
    result[e] = from_acc<T>(sum);
  }
}

// Channels-last: a thread is a pack of N channels of one bin.
template <typename T, int N>
__global__ void forward_pixels(Problem p, Map map, const T* __restrict__ data, const Accumulator<T>* __restrict__ rois,
                               int bins_per_block, T* __restrict__ out) {
  using A = Accumulator<T>;
  const RoiTaps<A> taps = find_roi_taps(p, map, rois, blockIdx.x);
  const int bins = p.rows * p.columns, first = blockIdx.y * bins_per_block;
  const int64_t packs = map.channels / N, mine = min(bins_per_block, bins - first);
  const T* image = data + (taps.batch > 0 ? taps.batch : 0) * map.stride_batch;
  T* result = out + (int64_t(blockIdx.x) * bins + first) * map.channels;
  for (int64_t e = threadIdx.x; e < mine * packs; e += blockDim.x) {
    const int bin = first + int(e / packs), row = bin / p.columns, column = bin % p.columns;
    const T* channel = image + e % packs * N;
    A sum[N] = {};
    for (int r = taps.rows.begin[row]; r < taps.rows.begin[row] + taps.rows.count[row]; ++r) {
      const T* line = channel + taps.rows.index[r] * map.stride_row;
      for (int c = taps.columns.begin[column]; c < taps.columns.begin[column] + taps.columns.count[column]; ++c) {
        const Pack<T, N> pixel =
            *reinterpret_cast<const Pack<T, N>*>(line + taps.columns.index[c] * map.stride_column);
        const A weight = taps.rows.weight[r] * taps.columns.weight[c];
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += weight * to_acc(pixel.at[i]);
      }
    }
    Pack<T, N> packed;
#pragma unroll
    for (int i = 0; i < N; ++i) packed.at[i] = from_acc<T>(sum[i]);
    *reinterpret_cast<Pack<T, N>*>(result + e * N) = packed;
  }
}

template <typename T>
__global__ void backward_planes(Problem p, Map map, const T* __restrict__ out_gradient,
                                const Accumulator<T>* __restrict__ rois, int channels_per_block,
                                Accumulator<T>* __restrict__ gradient) {
  using A = Accumulator<T>;
  const RoiTaps<A> taps = find_roi_taps(p, map, rois, blockIdx.x);
  const int bins = p.rows * p.columns;
  const int64_t first = int64_t(blockIdx.y) * channels_per_block;
  const int64_t channels = min(int64_t(channels_per_block), map.channels - first);
  A* image = gradient + (taps.batch > 0 ? taps.batch : 0) * map.stride_batch + first * map.stride_channel;
  const T* source = out_gradient + (int64_t(blockIdx.x) * map.channels + first) * bins;
  for (int64_t e = threadIdx.x; e < channels * bins; e += blockDim.x) {
    const int64_t channel = e / bins;
    const int row = int(e % bins) / p.columns, column = int(e % bins) % p.columns;
    A* plane = image + channel * map.stride_channel;
    const A value = to_acc(source[e]);
    for (int r = taps.rows.begin[row]; r < taps.rows.begin[row] + taps.rows.count[row]; ++r) {
      A* line = plane + taps.rows.index[r] * map.stride_row;
      for (int c = taps.columns.begin[column]; c < taps.columns.begin[column] + taps.columns.count[column]; ++c) {
        atomicAdd(line + taps.columns.index[c] * map.stride_column, value * taps.rows.weight[r] * taps.columns.weight[c]);
      }
    }
  }
}

template <typename T, int N>
__global__ void backward_pixels(Problem p, Map map, const T* __restrict__ out_gradient,
                                const Accumulator<T>* __restrict__ rois, int bins_per_block,
                                Accumulator<T>* __restrict__ gradient) {
  using A = Accumulator<T>;
  const RoiTaps<A> taps = find_roi_taps(p, map, rois, blockIdx.x);
  const int bins = p.rows * p.columns, first = blockIdx.y * bins_per_block;
  const int64_t packs = map.channels / N, mine = min(bins_per_block, bins - first);
  A* image = gradient + (taps.batch > 0 ? taps.batch : 0) * map.stride_batch;
  const T* source = out_gradient + (int64_t(blockIdx.x) * bins + first) * map.channels;
  for (int64_t e = threadIdx.x; e < mine * packs; e += blockDim.x) {
    const int bin = first + int(e / packs), row = bin / p.columns, column = bin % p.columns;
    A* channel = image + e % packs * N;
    const Pack<T, N> value = *reinterpret_cast<const Pack<T, N>*>(source + e * N);
    for (int r = taps.rows.begin[row]; r < taps.rows.begin[row] + taps.rows.count[row]; ++r) {
      A* line = channel + taps.rows.index[r] * map.stride_row;
      for (int c = taps.columns.begin[column]; c < taps.columns.begin[column] + taps.columns.count[column]; ++c) {
        const A weight = taps.rows.weight[r] * taps.columns.weight[c];
        A part[N];
#pragma unroll
        for (int i = 0; i < N; ++i) part[i] = weight * to_acc(value.at[i]);
        add_atomically(line + taps.columns.index[c] * map.stride_column, part);
      }
    }
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

// The grid of blocks: a roi each, then parts of `part` of its n channels or bins, few enough for CUDA's limit.
dim3 make_grid(int64_t rois, int64_t n, int64_t& part) {
  part = std::max(part, (n + 65534) / 65535);
  return dim3(unsigned(rois), unsigned((n + part - 1) / part));
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
      int64_t part = channels_last ? 28 : 64;
      const dim3 grid = make_grid(p.n_rois, channels_last ? rows * columns : map.channels, part);
      if (!channels_last) {
        forward_planes<T><<<grid, kThreads, shared, stream>>>(p, map, data, boxes, int(part), out);
      } else if (can_pack<T, N>(map, data)) {
        forward_pixels<T, N><<<grid, kThreads, shared, stream>>>(p, map, data, boxes, int(part), out);
      } else {
        forward_pixels<T, 1><<<grid, kThreads, shared, stream>>>(p, map, data, boxes, int(part), out);
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
        constexpr int N = 16 / sizeof(T);
        const size_t shared = check_shared(p, map, sizeof(A));
        const T* source = static_cast<const T*>(out_gradient.data_ptr());
        const A* boxes = static_cast<const A*>(rois.data_ptr());
        A* target = static_cast<A*>(gradient.data_ptr());
        const cudaStream_t stream = current_stream(rois);
        int64_t part = last ? 28 : 64;
        const dim3 grid = make_grid(p.n_rois, last ? int64_t(p.rows) * p.columns : map.channels, part);
        if (!last) {
          backward_planes<T><<<grid, kThreads, shared, stream>>>(p, map, source, boxes, int(part), target);
        } else if (map.channels % N == 0 && is_aligned(source, 16)) {
          backward_pixels<T, N><<<grid, kThreads, shared, stream>>>(p, map, source, boxes, int(part), target);
        } else {
          backward_pixels<T, 1><<<grid, kThreads, shared, stream>>>(p, map, source, boxes, int(part), target);
        }
        check_launch("roi_align");
      });
    }
    results.push_back(torch::stable::to(gradient, type));
  }
  return results;
}
