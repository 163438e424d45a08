// The code for AVX2.

#include <limits>

#include "cpu/roi_align.h"

#define SIMD_BYTES 32

#if defined(KERNEL_HAS_AVX)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi2")
#endif

namespace roi_align {
namespace {
#include "cpu/simd_isa.h"
#include "cpu/roi_align_isa.h"
}  // namespace

void forward_avx2(const Problem& p, Kind kind, const Map& map, const std::vector<RoiTaps>& taps, int64_t first_roi,
                  int64_t last_roi, void* out, int64_t begin, int64_t end) {
  forward_any(p, kind, map, taps, first_roi, last_roi, out, begin, end);
}

void backward_avx2(const Problem& p, Kind kind, const Map& gradient, const std::vector<RoiTaps>& taps, int64_t batch,
                   const void* out_gradient, int64_t begin, int64_t end) {
  backward_any(p, kind, gradient, taps, batch, out_gradient, begin, end);
}

}  // namespace roi_align

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
