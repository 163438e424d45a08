// Which rows and columns of a map the bins of a roi read, with their weights.
//
// A block first writes them down in shared memory, each once for a bin; the samples themselves are never visited again.
#pragma once

#include "cuda/cuda_common.h"

namespace {

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

// Where the taps of each bin begin, if samples are at most a pixel apart: room for the pixels from first to last.
// By all threads of the block; synchronises.
template <typename A>
__device__ void make_room(const Axis<A>& axis, const Taps<A>& taps) {
  for (int bin = threadIdx.x; bin < axis.bins; bin += blockDim.x) {
    int lowest = axis.size, highest = -1, low;
    A part;
    for (int k = 0; k < axis.grid; ++k) {
      if (!sample(axis, bin, k, low, part)) continue;
      lowest = low < lowest ? low : lowest;
      highest = low + (part > 0) > highest ? low + (part > 0) : highest;
    }
    taps.count[bin] = highest >= lowest ? highest - lowest + 1 : 0;
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
}

// By all threads of the block, starting with thread `first`; the caller synchronises.
template <typename A>
__device__ void find_taps(const Axis<A>& axis, bool adaptive, const Taps<A>& taps, int first) {
  if (adaptive) make_room(axis, taps);
  for (int bin = (threadIdx.x + blockDim.x - first) % blockDim.x; bin < axis.bins; bin += blockDim.x) {
    int count = 0, low;
    A part;
    if (!adaptive) taps.begin[bin] = 2 * axis.grid * bin;  // two taps a sample
    for (int k = 0; k < axis.grid; ++k) {
      if (!sample(axis, bin, k, low, part)) continue;
      add_tap(taps, taps.begin[bin], count, low, (1 - part) * axis.weight);
      if (part > 0) add_tap(taps, taps.begin[bin], count, low + 1, part * axis.weight);
    }
    taps.count[bin] = count;
  }
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
  find_taps(Axis<A>{y1, divide(height, A(p.rows)), mean, p.rows, grid_rows, map.height}, adaptive, taps.rows, 0);
  find_taps(Axis<A>{x1, divide(width, A(p.columns)), A(1), p.columns, grid_columns, map.width}, adaptive, taps.columns,
            int(blockDim.x) / 2);  // by other threads than those of the rows
  __syncthreads();
  return taps;
}

// What most bins read, in registers: up to four rows and columns, which two samples along each side never exceed.
constexpr int kFew = 4;

template <typename A>
struct FewTaps {
  int n;
  int64_t offset[kFew];
  A weight[kFew];
};

template <typename A>
__device__ __forceinline__ FewTaps<A> few_taps(const Taps<A>& taps, int bin, int64_t stride) {
  FewTaps<A> few = {taps.count[bin], {}, {}};
#pragma unroll
  for (int k = 0; k < kFew; ++k) {
    if (k < few.n) {
      few.offset[k] = taps.index[taps.begin[bin] + k] * stride;
      few.weight[k] = taps.weight[taps.begin[bin] + k];
    }
  }
  return few;
}

}  // namespace
