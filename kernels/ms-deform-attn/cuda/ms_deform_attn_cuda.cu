// Multi-scale deformable attention on CUDA.
//
// An item is one (batch, head, query). A few neighbouring threads share it, each with a pack of its channels, so that a
// pixel is read in one piece and nothing is stored between sampling and summing up. Where the pixels of a point are is
// found out by one of these threads for all of them.

#include <algorithm>
#include <tuple>

#include "cuda/cuda_common.h"
#include "torch_binding.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Sizes {
  int batch, pixels, queries, heads, channels, levels, points;
  int64_t value_stride[3];  // of batch, pixel, head; channels are adjacent
};

// The four pixels around one sampling point: first, right of it, below it, below and right.
template <typename A>
struct Corners {
  int first, inside;  // the pixel up and left, below 0 too; bit c: pixel c is within the map
  A x, y;             // where the point lies within the square of pixels
};

template <typename A>
__device__ __forceinline__ Corners<A> find_corners(const A* location, int height, int width, int start) {
  const A x = location[0] * A(width) - A(0.5), y = location[1] * A(height) - A(0.5);
  const bool near = x > A(-1) && y > A(-1) && x < A(width) && y < A(height);  // false for NaN
  const A left = near ? floor(x) : A(0), top = near ? floor(y) : A(0);
  const int column = int(left), row = int(top);
  int inside = 0;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int r = row + c / 2, k = column + c % 2;
    inside |= int(near && r >= 0 && r < height && k >= 0 && k < width) << c;
  }
  return {start + row * width + column, inside, near ? x - left : A(0), near ? y - top : A(0)};
}

// A level that does not fit into value is left out: nothing outside the tensor is ever read.
__device__ __forceinline__ bool read_level(const int64_t* shapes, const int64_t* starts, int level, int pixels,
                                           int& height, int& width, int& start) {
  const int64_t rows = shapes[2 * level], columns = shapes[2 * level + 1], first = starts[level];
  if (!(rows > 0 && columns > 0 && first >= 0 && rows <= pixels && columns <= pixels && first <= pixels &&
        first + rows * columns <= pixels)) {
    return false;
  }
  height = int(rows);
  width = int(columns);
  start = int(first);
  return true;
}

// The largest or the sum over the `group` neighbouring threads of an item; every thread of the warp takes part.
template <typename A>
__device__ __forceinline__ A largest_of_group(A x, int group) {
  for (int step = group / 2; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(0xffffffffu, x, step);
    x = other > x ? other : x;
  }
  return x;
}

template <typename A>
__device__ __forceinline__ A sum_of_group(A x, int group) {
  for (int step = group / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// exp(logit - largest) / sum is the softmax. By all threads of a group.
template <typename A>
__device__ __forceinline__ void softmax_parts(const A* logits, int n, int lane, int group, A& largest,
                                              A& inverse_sum) {
  largest = -A(INFINITY);
  for (int i = lane; i < n; i += group) largest = logits[i] > largest ? logits[i] : largest;
  largest = largest_of_group(largest, group);
  A sum = 0;
  for (int i = lane; i < n; i += group) sum += exp(logits[i] - largest);
  inverse_sum = A(1) / sum_of_group(sum, group);
}

// What the threads of an item must know of one sampling point: the pixel up and left of it, how far it lies right of that
// one, and the weights of the upper and the lower two pixels, attention included. Small: all threads read it.
template <typename A>
struct alignas(16) Sample {
  A upper, lower, x;
  int pixel;  // below 0 too
};

// Beside it, in one number: the width of the level and which of the four pixels are to be read.
constexpr int kFlags = 4;

// Where the level of a sampling point lies.
struct alignas(16) Level {
  int height, width, start, fits;
};

constexpr int kPointsInTable = 64;

// G threads (a power of two, at most a warp) share an item, and all threads of a warp go through the same loops. A block
// works on the items from its `first` to its `end`, neighbours of the same head, which read the same pixels: blocks that
// are likely to share a multiprocessor and its cache get neighbouring parts.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads, 4)
    forward_kernel(Sizes s, bool softmax, int group, int items, int items_per_block, int multiprocessors,
                   const T* __restrict__ value, const int64_t* __restrict__ shapes, const int64_t* __restrict__ starts,
                   const Accumulator<T>* __restrict__ locations, const Accumulator<T>* __restrict__ attention,
                   T* __restrict__ out) {
  using A = Accumulator<T>;
  __shared__ Sample<A> samples[kThreads];  // one a thread, written and read by its group alone
  __shared__ int widths[kThreads];
  __shared__ Level levels[kPointsInTable];
  const int per_head = s.levels * s.points, lane = int(threadIdx.x) % group, leader = int(threadIdx.x) - lane;
  const auto level_of_point = [&](int k) {
    Level level = {};
    level.fits = read_level(shapes, starts, k / s.points, s.pixels, level.height, level.width, level.start);
    return level;
  };
  for (int k = threadIdx.x; k < min(per_head, kPointsInTable); k += kThreads) levels[k] = level_of_point(k);
  __syncthreads();
  const int rounds = int(gridDim.x) / multiprocessors, neighbour = int(blockIdx.x) / multiprocessors;
  const bool ordered = neighbour < rounds;  // the last blocks, if the grid is no multiple, stay where they are
  const int64_t part = ordered ? int64_t(blockIdx.x % multiprocessors) * rounds + neighbour : blockIdx.x;
  const int64_t end = min((part + 1) * items_per_block, int64_t(items));
  const int stride = int(s.value_stride[1] * int64_t(sizeof(T)));  // it fits: see make_inputs
  for (int64_t first = part * items_per_block; first < end; first += kThreads / group) {
    const bool active = first + threadIdx.x / group < end;
    const int item = active ? int(first) + int(threadIdx.x) / group : int(end) - 1;
    const int plane = item / s.queries, query = item - plane * s.queries;
    const int batch = plane / s.heads, head = plane - batch * s.heads;
    const int64_t row = (int64_t(batch) * s.queries + query) * s.heads + head;  // of locations, attention and output
    const T* source = value + batch * s.value_stride[0] + head * s.value_stride[2];
    const A* weights = attention + row * per_head;
    const A* places = locations + row * per_head * 2;
    A largest = 0, inverse_sum = 1;
    if (softmax) softmax_parts(weights, per_head, lane, group, largest, inverse_sum);
    for (int begin = 0; begin < s.channels; begin += group * N) {
      const int channel = begin + lane * N;
      const bool writes = channel < s.channels;
      const char* pixels = reinterpret_cast<const char*>(source + (writes ? channel : 0));
      A sum[N] = {};
      for (int point = 0; point < per_head; point += group) {
        if (point + lane < per_head) {
          const int k = point + lane;
          const Level level = k < kPointsInTable ? levels[k] : level_of_point(k);
          const Corners<A> corners = find_corners(places + 2 * k, level.height, level.width, level.start);
          const A weight = softmax ? exp(weights[k] - largest) * inverse_sum : weights[k];
          samples[threadIdx.x] = {weight * (1 - corners.y), weight * corners.y, corners.x, corners.first};
          widths[threadIdx.x] = (level.width << kFlags) | (level.fits ? corners.inside : 0);
        }
        __syncwarp();
        const int n = min(group, per_head - point);
#pragma unroll 2
        for (int j = leader; j < leader + n; ++j) {
          const Sample<A> sample = samples[j];
          const int flags = widths[j], below = sample.pixel + (flags >> kFlags);
          PackWords<T, N> corners[4] = {};  // all are on their way before the first is used; outside is zero
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const int64_t offset = int64_t((c / 2 ? below : sample.pixel) + c % 2) * stride;
            if (flags & (1 << c)) corners[c] = *reinterpret_cast<const PackWords<T, N>*>(pixels + offset);
          }
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const A weight = (c / 2 ? sample.lower : sample.upper) * (c % 2 ? sample.x : 1 - sample.x);
            A pixel[N];
            unpack<T, N>(corners[c], pixel);
#pragma unroll
            for (int i = 0; i < N; ++i) sum[i] += weight * pixel[i];
          }
        }
        __syncwarp();
      }
      if (active && writes) {
        Pack<T, N> result;
#pragma unroll
        for (int i = 0; i < N; ++i) result.at[i] = from_acc<T>(sum[i]);
        *reinterpret_cast<Pack<T, N>*>(out + row * s.channels + channel) = result;
      }
    }
  }
}

// G threads (a power of two, at most a warp) share an item. All threads of a warp go through the same loops, so that
// they can add up over the G; threads behind the last item only take part in that.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads, 3)
    backward_kernel(Sizes s, bool softmax, int group, const T* __restrict__ gradient, const T* __restrict__ value,
                    const int64_t* __restrict__ shapes, const int64_t* __restrict__ starts,
                    const Accumulator<T>* __restrict__ locations, const Accumulator<T>* __restrict__ attention,
                    Accumulator<T>* __restrict__ value_gradient, Accumulator<T>* __restrict__ location_gradient,
                    Accumulator<T>* __restrict__ attention_gradient) {
  using A = Accumulator<T>;
  const int per_head = s.levels * s.points;
  const int64_t items = int64_t(s.batch) * s.queries * s.heads;
  const int64_t mine = int64_t(blockIdx.x) * (kThreads / group) + int(threadIdx.x) / group;
  const bool active = mine < items;
  const int item = int(active ? mine : items - 1), lane = int(threadIdx.x) % group;
  const int head = item % s.heads, batch = item / s.heads / s.queries;
  const T* source = value + batch * s.value_stride[0] + head * s.value_stride[2];
  A* target = value_gradient + (int64_t(batch) * s.pixels * s.heads + head) * s.channels;
  const T* out = gradient + int64_t(item) * s.channels;
  const A* weights = attention + int64_t(item) * per_head;
  const A* places = locations + int64_t(item) * per_head * 2;
  A largest = 0, inverse_sum = 1, mean = 0;
  if (softmax) softmax_parts(weights, per_head, lane, group, largest, inverse_sum);
  for (int level = 0; level < s.levels; ++level) {
    int height = 0, width = 0, start = 0;
    const bool fits = read_level(shapes, starts, level, s.pixels, height, width, start);
    for (int k = level * s.points; k < (level + 1) * s.points; ++k) {
      const A weight = softmax ? exp(weights[k] - largest) * inverse_sum : weights[k];
      A of_attention = 0, along_x = 0, along_y = 0;
      if (fits && active) {
        const Corners<A> corners = find_corners(places + 2 * k, height, width, start);
        int pixels[4];
        A corner_weights[4], dot[4] = {};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          pixels[c] = corners.inside & (1 << c) ? corners.first + c / 2 * width + c % 2 : -1;
          corner_weights[c] = (c / 2 ? corners.y : 1 - corners.y) * (c % 2 ? corners.x : 1 - corners.x);
        }
        for (int channel = lane * N; channel < s.channels; channel += group * N) {
          const Pack<T, N> g = *reinterpret_cast<const Pack<T, N>*>(out + channel);
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            if (pixels[c] < 0) continue;
            const Pack<T, N> pixel =
                *reinterpret_cast<const Pack<T, N>*>(source + pixels[c] * s.value_stride[1] + channel);
            A part[N];
#pragma unroll
            for (int i = 0; i < N; ++i) {
              dot[c] += to_acc(g.at[i]) * to_acc(pixel.at[i]);
              part[i] = weight * corner_weights[c] * to_acc(g.at[i]);
            }
            add_atomically(target + int64_t(pixels[c]) * (s.heads * s.channels) + channel, part);
          }
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) of_attention += corner_weights[c] * dot[c];
        along_x = ((1 - corners.y) * (dot[1] - dot[0]) + corners.y * (dot[3] - dot[2])) * A(width) * weight;
        along_y = ((1 - corners.x) * (dot[2] - dot[0]) + corners.x * (dot[3] - dot[1])) * A(height) * weight;
      }
      of_attention = sum_of_group(of_attention, group);
      along_x = sum_of_group(along_x, group);
      along_y = sum_of_group(along_y, group);
      mean += weight * of_attention;
      if (active && lane == k % group) {
        const int64_t place = int64_t(item) * per_head + k;
        attention_gradient[place] = of_attention;
        location_gradient[place * 2] = along_x;
        location_gradient[place * 2 + 1] = along_y;
      }
    }
  }
  if (softmax && active) {  // each thread goes on with what it wrote itself
    for (int k = lane; k < per_head; k += group) {
      A* result = attention_gradient + int64_t(item) * per_head + k;
      *result = exp(weights[k] - largest) * inverse_sum * (*result - mean);
    }
  }
}

struct Inputs {
  Tensor value, shapes, starts, locations, attention;
  Sizes sizes;
  ScalarType accumulator;
};

// Checks the shapes; locations and attention come in the accumulator's type, contiguous.
Inputs make_inputs(const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations,
                   const Tensor& attention) {
  STD_TORCH_CHECK(value.dim() == 4, "ms_deform_attn: value must be (batch, pixels, heads, channels)");
  STD_TORCH_CHECK(locations.dim() == 6 && locations.size(5) == 2,
                  "ms_deform_attn: sampling_locations must be (batch, queries, heads, levels, points, 2)");
  STD_TORCH_CHECK(shapes.dim() == 2 && shapes.size(1) == 2 && shapes.scalar_type() == ScalarType::Long &&
                      starts.dim() == 1 && starts.scalar_type() == ScalarType::Long,
                  "ms_deform_attn: spatial_shapes must be (levels, 2) and level_start_index (levels,), both int64");
  for (const Tensor* tensor : {&shapes, &starts, &locations, &attention}) {
    STD_TORCH_CHECK(tensor->is_cuda() && tensor->get_device_index() == value.get_device_index(),
                    "ms_deform_attn: all tensors must be on the same device");
  }
  STD_TORCH_CHECK(locations.size(0) == value.size(0) && locations.size(2) == value.size(2),
                  "ms_deform_attn: value and sampling_locations disagree about batch or heads");
  STD_TORCH_CHECK(attention.dim() == 5, "ms_deform_attn: attention_weights must have 5 dimensions");
  for (int i = 0; i < 5; ++i) {
    STD_TORCH_CHECK(attention.size(i) == locations.size(i),
                    "ms_deform_attn: attention_weights and sampling_locations disagree about dimension ", i);
  }
  STD_TORCH_CHECK(shapes.size(0) == locations.size(3) && starts.size(0) == locations.size(3),
                  "ms_deform_attn: spatial_shapes or level_start_index do not have one entry a level");
  const bool adjacent = (value.size(3) <= 1 || value.stride(3) == 1) && value.stride(1) < (1 << 27);
  const ScalarType accumulator = value.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const auto prepared = [&](const Tensor& x) { return torch::stable::contiguous(torch::stable::to(x, accumulator)); };
  Inputs in = {adjacent ? value : torch::stable::contiguous(value),
               torch::stable::contiguous(shapes),
               torch::stable::contiguous(starts),
               prepared(locations),
               prepared(attention),
               {},
               accumulator};
  // Items, pixels and channels are counted in 32 bits.
  int64_t items = 1, row = 1;
  for (const int64_t size : {value.size(0), locations.size(1), value.size(2)}) items *= std::max<int64_t>(size, 1);
  for (const int64_t size : {value.size(2), value.size(3)}) row *= std::max<int64_t>(size, 1);
  STD_TORCH_CHECK(items < (1 << 30) && value.size(1) < (1 << (30 - kFlags)) && row < (1 << 30) &&
                      locations.size(3) * locations.size(4) < (1 << 30),
                  "ms_deform_attn: 2^30 queries of all heads and images, channels or points or more, or 2^26 pixels");
  in.sizes = {int(value.size(0)),     int(value.size(1)),     int(locations.size(1)), int(value.size(2)),
              int(value.size(3)),     int(locations.size(3)), int(locations.size(4)),
              {in.value.stride(0), in.value.stride(1), in.value.stride(2)}};
  return in;
}

// Whether every pixel starts at a multiple of N elements.
template <typename T, int N>
bool can_pack(const Inputs& in) {
  const Sizes& s = in.sizes;
  return s.channels % N == 0 && s.value_stride[0] % N == 0 && s.value_stride[1] % N == 0 &&
         s.value_stride[2] % N == 0 && is_aligned(in.value.data_ptr(), sizeof(T) * N);
}

// How many threads share an item: enough for its channels, a power of two, at most a warp.
inline int group_size(int channels, int pack) {
  int group = 1;
  while (group < 32 && group * pack < channels) group *= 2;
  return group;
}

template <typename T, int N>
void launch_forward(const Inputs& in, bool softmax, Tensor& out) {
  using A = Accumulator<T>;
  const Sizes& s = in.sizes;
  const int group = group_size(s.channels, N), items = s.batch * s.queries * s.heads, at_once = kThreads / group;
  int multiprocessors = 1, resident = 1;  // as many blocks as run at the same time, each with its share of the items
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, int(in.value.get_device_index()));
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, forward_kernel<T, N>, kThreads, 0);
  const int rounds = (items + at_once - 1) / at_once, most = std::max(multiprocessors * resident, 1);
  const int items_per_block = (rounds + most - 1) / most * at_once;
  const int blocks = (items + items_per_block - 1) / items_per_block;
  forward_kernel<T, N><<<blocks, kThreads, 0, current_stream(in.value)>>>(
      s, softmax, group, items, items_per_block, multiprocessors, static_cast<const T*>(in.value.data_ptr()),
      static_cast<const int64_t*>(in.shapes.data_ptr()), static_cast<const int64_t*>(in.starts.data_ptr()),
      static_cast<const A*>(in.locations.data_ptr()), static_cast<const A*>(in.attention.data_ptr()),
      static_cast<T*>(out.data_ptr()));
  check_launch("ms_deform_attn");
}

template <typename T, int N>
void launch_backward(const Inputs& in, bool softmax, const Tensor& gradient, Tensor& value_gradient,
                     Tensor& location_gradient, Tensor& attention_gradient) {
  using A = Accumulator<T>;
  const Sizes& s = in.sizes;
  const int group = group_size(s.channels, N), items = s.batch * s.queries * s.heads, at_once = kThreads / group;
  backward_kernel<T, N><<<(items + at_once - 1) / at_once, kThreads, 0, current_stream(in.value)>>>(
      s, softmax, group, static_cast<const T*>(gradient.data_ptr()), static_cast<const T*>(in.value.data_ptr()),
      static_cast<const int64_t*>(in.shapes.data_ptr()), static_cast<const int64_t*>(in.starts.data_ptr()),
      static_cast<const A*>(in.locations.data_ptr()), static_cast<const A*>(in.attention.data_ptr()),
      static_cast<A*>(value_gradient.data_ptr()), static_cast<A*>(location_gradient.data_ptr()),
      static_cast<A*>(attention_gradient.data_ptr()));
  check_launch("ms_deform_attn");
}

}  // namespace

Tensor ms_deform_attn_forward_cuda(const Tensor& value, const Tensor& shapes, const Tensor& starts,
                                   const Tensor& locations, const Tensor& attention, bool softmax) {
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const Inputs in = make_inputs(value, shapes, starts, locations, attention);
  const std::vector<int64_t> size = {in.sizes.batch, in.sizes.queries, int64_t(in.sizes.heads) * in.sizes.channels};
  if (in.sizes.levels * in.sizes.points == 0) return torch::stable::new_zeros(value, size);
  Tensor out = torch::stable::new_empty(value, size);
  if (out.numel() == 0) return out;
  dispatch(value.scalar_type(), "ms_deform_attn", [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    constexpr int N = 16 / sizeof(T);
    can_pack<T, N>(in) ? launch_forward<T, N>(in, softmax, out) : launch_forward<T, 1>(in, softmax, out);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward_cuda(const Tensor& gradient_in, const Tensor& value,
                                                                const Tensor& shapes, const Tensor& starts,
                                                                const Tensor& locations, const Tensor& attention,
                                                                bool softmax) {
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const Inputs in = make_inputs(value, shapes, starts, locations, attention);
  const Tensor gradient = torch::stable::contiguous(gradient_in);
  STD_TORCH_CHECK(gradient.scalar_type() == value.scalar_type() && gradient.dim() == 3 &&
                      gradient.size(0) == in.sizes.batch && gradient.size(1) == in.sizes.queries &&
                      gradient.size(2) == int64_t(in.sizes.heads) * in.sizes.channels,
                  "ms_deform_attn: the gradient must look like the output");
  // Many queries add to the same pixel: in the accumulator's type, rounded once at the end.
  Tensor value_gradient = torch::stable::new_zeros(value, value.sizes(), in.accumulator);
  const bool any = gradient.numel() > 0 && attention.numel() > 0;  // the kernel writes each of the other gradients
  const auto prepared = [&](const Tensor& x) {
    return any ? torch::stable::new_empty(x, x.sizes()) : torch::stable::new_zeros(x, x.sizes());
  };
  Tensor location_gradient = prepared(in.locations), attention_gradient = prepared(in.attention);
  if (any) {
    dispatch(value.scalar_type(), "ms_deform_attn", [&](auto* null) {
      using T = std::remove_pointer_t<decltype(null)>;
      constexpr int N = kAtomicPack<T>;
      const bool packed = can_pack<T, N>(in) && is_aligned(gradient.data_ptr(), sizeof(T) * N);
      const auto launch = packed ? launch_backward<T, N> : launch_backward<T, 1>;
      launch(in, softmax, gradient, value_gradient, location_gradient, attention_gradient);
    });
  }
  return {torch::stable::to(value_gradient, value.scalar_type()),
          torch::stable::to(location_gradient, locations.scalar_type()),
          torch::stable::to(attention_gradient, attention.scalar_type())};
}
