// Element types, packs of elements and launching. The same file, word for word, in every kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

// Declared by torch only where USE_CUDA is defined.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace {

constexpr int kThreads = 256;

// The type in which values of T are accumulated.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ __forceinline__ float to_acc(float x) { return x; }
__device__ __forceinline__ double to_acc(double x) { return x; }
__device__ __forceinline__ float to_acc(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_acc(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_acc(Accumulator<T> x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// N adjacent elements, read and written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

// The bits of a pack in whole words: compilers move and clear these at once, and halves one by one.
template <int Bytes>
struct Words;
template <>
struct Words<16> { using type = uint4; };
template <>
struct Words<8> { using type = uint2; };
template <>
struct Words<4> { using type = unsigned; };
template <>
struct Words<2> { using type = unsigned short; };
template <typename T, int N>
using PackWords = typename Words<sizeof(T) * N>::type;

// The elements of a pack in the accumulator's type.
template <typename T, int N>
__device__ __forceinline__ void unpack(const PackWords<T, N>& words, Accumulator<T> (&values)[N]) {
  if constexpr (std::is_same_v<T, __nv_bfloat16> && N % 2 == 0) {
    const unsigned* pairs = reinterpret_cast<const unsigned*>(&words);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      values[2 * i] = __uint_as_float(pairs[i] << 16);
      values[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
  } else if constexpr (std::is_same_v<T, __half> && N % 2 == 0) {
    const __half2* pairs = reinterpret_cast<const __half2*>(&words);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const float2 pair = __half22float2(pairs[i]);
      values[2 * i] = pair.x;
      values[2 * i + 1] = pair.y;
    }
  } else {
    const T* elements = reinterpret_cast<const T*>(&words);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = to_acc(elements[i]);
  }
}

// How many elements a thread adds up atomically: 16 bytes in the accumulator's type, so that the additions of
// neighbouring threads are adjacent in memory in half precision too.
template <typename T>
constexpr int kAtomicPack = 16 / sizeof(Accumulator<T>);

// p[0:N] += value[0:N], by many threads at once.
template <typename A, int N>
__device__ __forceinline__ void add_atomically(A* p, const A (&value)[N]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (std::is_same_v<A, float> && N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      atomicAdd(reinterpret_cast<float4*>(p + i), make_float4(value[i], value[i + 1], value[i + 2], value[i + 3]));
    }
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < N; ++i) atomicAdd(p + i, value[i]);
}

inline bool is_aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// After a launch. Not torch's own check: torch declares what it needs only where USE_CUDA is defined.
inline void check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, name, ": CUDA error: ", cudaGetErrorString(error));
}

// Calls f with a null pointer of the element type.
template <typename F>
void dispatch(torch::headeronly::ScalarType type, const char* name, const F& f) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float: return f(static_cast<float*>(nullptr));
    case ScalarType::Double: return f(static_cast<double*>(nullptr));
    case ScalarType::Half: return f(static_cast<__half*>(nullptr));
    case ScalarType::BFloat16: return f(static_cast<__nv_bfloat16*>(nullptr));
    default: STD_TORCH_CHECK(false, name, ": float32, float64, float16 or bfloat16 expected");
  }
}

}  // namespace
