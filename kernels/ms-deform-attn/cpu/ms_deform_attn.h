// What the parts of the CPU code tell each other. No torch here: the code for each instruction set compiles quickly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/simd.h"

namespace ms_deform_attn {

enum class Kind { kFloat, kDouble, kHalf, kBFloat16 };

struct Array {
  void* data;
  Kind kind;
};

struct Problem {
  int64_t batch, pixels, heads, channels, queries, levels, points;
  const void* value;
  int64_t value_stride[3];  // of batch, pixel, head; channels are adjacent
  const int64_t *shapes, *starts;
  Array locations, attention;
  bool softmax;
};

struct Gradients {
  const void* out;
  void* value;
  Array locations, attention;
};

// Rows begin..end of the (batch * heads * queries) outputs, or items begin..end of the (batch * heads) gradients; `kind` is the
// type of value. One copy of the code for each instruction set, chosen when running.
using Forward = void (*)(const Problem&, Kind kind, void* out, int64_t begin, int64_t end);
using Backward = void (*)(const Problem&, Kind kind, const Gradients&, int64_t begin, int64_t end);

void forward_base(const Problem&, Kind, void*, int64_t, int64_t);
void backward_base(const Problem&, Kind, const Gradients&, int64_t, int64_t);
#if defined(__x86_64__) && defined(__GNUC__)
#define KERNEL_HAS_AVX 1
void forward_avx2(const Problem&, Kind, void*, int64_t, int64_t);
void backward_avx2(const Problem&, Kind, const Gradients&, int64_t, int64_t);
void forward_avx512(const Problem&, Kind, void*, int64_t, int64_t);
void backward_avx512(const Problem&, Kind, const Gradients&, int64_t, int64_t);
#endif

}  // namespace ms_deform_attn
