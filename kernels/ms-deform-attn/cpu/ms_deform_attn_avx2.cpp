// The code for AVX2.

#include "cpu/ms_deform_attn.h"

#define SIMD_BYTES 32

#if defined(KERNEL_HAS_AVX)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi2")
#endif

namespace ms_deform_attn {
namespace {
#include "cpu/simd_isa.h"
#include "cpu/ms_deform_attn_isa.h"
}  // namespace

void forward_avx2(const Problem& p, Kind kind, void* out, int64_t begin, int64_t end) {
  forward_any(p, kind, out, begin, end);
}

void backward_avx2(const Problem& p, Kind kind, const Gradients& g, int64_t begin, int64_t end) {
  backward_any(p, kind, g, begin, end);
}

}  // namespace ms_deform_attn

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
