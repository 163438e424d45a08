// Element types, conversions and the choice of instruction set. The same file, word for word, in every kernel.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace simd {

// Storage of the 16-bit types; arithmetic is always done in float.
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

// The type in which values of T are accumulated.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

inline float to_acc(float x) { return x; }
inline double to_acc(double x) { return x; }
inline float to_acc(bf16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
inline float to_acc(f16 x) {
  uint32_t bits = uint32_t(x.bits & 0x7fffu) << 13;
  const uint32_t exponent = bits & 0x0f800000u;
  bits += 112u << 23;  // from the bias of half to that of float
  if (exponent == 0x0f800000u) bits += 112u << 23;  // infinity and NaN
  float value;
  if (exponent == 0) {  // subnormal: let the subtraction normalise it
    value = bit_cast<float>(bits + (1u << 23)) - bit_cast<float>(113u << 23);
  } else {
    value = bit_cast<float>(bits);
  }
  return bit_cast<float>(bit_cast<uint32_t>(value) | uint32_t(x.bits & 0x8000u) << 16);
}

// Rounding is to nearest even, as in torch.
inline void from_acc(float x, float& out) { out = x; }
inline void from_acc(double x, double& out) { out = x; }
inline void from_acc(double x, float& out) { out = float(x); }
inline void from_acc(float x, double& out) { out = x; }
inline void from_acc(float x, bf16& out) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out.bits = nan ? 0x7fc0 : uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline void from_acc(float x, f16& out) {
  const uint32_t sign = bit_cast<uint32_t>(x) & 0x80000000u;
  uint32_t bits = bit_cast<uint32_t>(x) ^ sign;
  uint16_t half;
  if (bits >= 0x47800000u) {  // too large, infinity or NaN
    half = bits > 0x7f800000u ? 0x7e00 : 0x7c00;
  } else if (bits < 0x38800000u) {  // subnormal in half: adding 0.5 leaves the right bits at the end, rounded
    half = uint16_t(bit_cast<uint32_t>(bit_cast<float>(bits) + 0.5f) - 0x3f000000u);
  } else {
    const uint32_t odd = (bits >> 13) & 1u;
    half = uint16_t((bits - (112u << 23) + 0xfffu + odd) >> 13);
  }
  out.bits = half | uint16_t(sign >> 16);
}
inline void from_acc(double x, bf16& out) { from_acc(float(x), out); }
inline void from_acc(double x, f16& out) { from_acc(float(x), out); }

// What this machine offers: 0 the compiler's baseline, 1 AVX2, 2 AVX-512. KERNELS_CPU_SIMD=base|avx2 holds it down, so
// that tests can go through every level that the machine has.
inline int level() {
  static const int best = [] {
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
      const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
      return avx512 ? 2 : 1;
    }
#endif
    return 0;
  }();
  const char* wish = std::getenv("KERNELS_CPU_SIMD");
  const int limit = !wish ? 2 : !std::strcmp(wish, "base") ? 0 : !std::strcmp(wish, "avx2") ? 1 : 2;
  return best < limit ? best : limit;
}

}  // namespace simd
