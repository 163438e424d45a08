// What the parts of the CPU code tell each other. No torch here: the code for each instruction set compiles quickly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/simd.h"

namespace roi_align {

enum class Kind { kFloat, kDouble, kHalf, kBFloat16 };

// A feature map (B, C, H, W), or the gradient of one: W or, channels-last, C is adjacent in memory.
struct Map {
  void* data;
  int64_t batch, channels, height, width;
  int64_t stride_batch, stride_channel, stride_row, stride_column;
  bool channels_last;
  double scale;
};

struct Problem {
  const double* rois;  // (T, 5): batch index, x1, y1, x2, y2; float values where the maps are not double
  int64_t n_rois, rows, columns;  // rows x columns bins an output
  int64_t sampling_ratio;
  bool aligned, in_double;
};

// The map rows (or columns) that each bin of one roi reads, each once, with its weight. The bilinear weights of a
// sample are a product of a row part and a column part, so that two short lists stand for the whole grid of samples.
struct Taps {
  std::vector<int32_t> begin;  // bin i has the taps begin[i] .. begin[i + 1]
  std::vector<int32_t> index;
  std::vector<double> weight;
};

struct RoiTaps {
  Taps rows, columns;  // the mean over samples is in the weights of the rows
  int64_t batch;
};

void find_taps(const Problem&, const Map&, int64_t roi, RoiTaps&);

// Channels begin..end of some rois; `kind` is the type of map and output (T, C, rows, columns) in the map's layout.
using Forward = void (*)(const Problem&, Kind kind, const Map&, const std::vector<RoiTaps>&, int64_t first_roi,
                         int64_t last_roi, void* out, int64_t begin, int64_t end);
// Channels begin..end of one image: adds up all its rois in their order and writes the gradient of the map.
using Backward = void (*)(const Problem&, Kind kind, const Map& gradient, const std::vector<RoiTaps>&, int64_t batch,
                          const void* out_gradient, int64_t begin, int64_t end);

void forward_base(const Problem&, Kind, const Map&, const std::vector<RoiTaps>&, int64_t, int64_t, void*, int64_t,
                  int64_t);
void backward_base(const Problem&, Kind, const Map&, const std::vector<RoiTaps>&, int64_t, const void*, int64_t, int64_t);
#if defined(__x86_64__) && defined(__GNUC__)
#define KERNEL_HAS_AVX 1
void forward_avx2(const Problem&, Kind, const Map&, const std::vector<RoiTaps>&, int64_t, int64_t, void*, int64_t,
                  int64_t);
void backward_avx2(const Problem&, Kind, const Map&, const std::vector<RoiTaps>&, int64_t, const void*, int64_t, int64_t);
void forward_avx512(const Problem&, Kind, const Map&, const std::vector<RoiTaps>&, int64_t, int64_t, void*, int64_t,
                    int64_t);
void backward_avx512(const Problem&, Kind, const Map&, const std::vector<RoiTaps>&, int64_t, const void*, int64_t,
                     int64_t);
#endif

}  // namespace roi_align
