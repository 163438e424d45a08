// Vectors of SIMD_BYTES bytes. Included once for each instruction set, inside a namespace of its own; no include guard.
// The same file, word for word, in every kernel.

typedef float FloatVector __attribute__((vector_size(SIMD_BYTES)));
typedef double DoubleVector __attribute__((vector_size(SIMD_BYTES)));
typedef int32_t IntVector __attribute__((vector_size(SIMD_BYTES)));
typedef uint32_t BitsVector __attribute__((vector_size(SIMD_BYTES)));
typedef uint16_t HalfBitsVector __attribute__((vector_size(SIMD_BYTES / 2)));

template <typename A>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};

template <typename A>
using Vector = typename VectorOf<A>::type;

template <typename A>
constexpr int64_t kLanes = SIMD_BYTES / sizeof(A);

inline FloatVector load(const float* p) {
  FloatVector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline DoubleVector load(const double* p) {
  DoubleVector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline FloatVector load(const simd::bf16* p) {
  HalfBitsVector half;
  std::memcpy(&half, p, sizeof half);
  return (FloatVector)(__builtin_convertvector(half, BitsVector) << 16);
}
inline FloatVector load(const simd::f16* p) {  // the steps of simd::to_acc
  HalfBitsVector half;
  std::memcpy(&half, p, sizeof half);
  const BitsVector whole = __builtin_convertvector(half, BitsVector);
  BitsVector bits = (whole & 0x7fffu) << 13;
  const BitsVector exponent = bits & 0x0f800000u;
  bits += 112u << 23;
  bits += (BitsVector)(exponent == 0x0f800000u) & (112u << 23);
  const BitsVector subnormal = (BitsVector)(exponent == 0u);
  const FloatVector normalised = (FloatVector)(bits + (1u << 23)) - (FloatVector)(BitsVector{} + (113u << 23));
  bits = (bits & ~subnormal) | ((BitsVector)normalised & subnormal);
  return (FloatVector)(bits | (whole & 0x8000u) << 16);
}

inline IntVector load(const int32_t* p) {
  IntVector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(int32_t* p, IntVector v) { std::memcpy(p, &v, sizeof v); }
inline void store(float* p, FloatVector v) { std::memcpy(p, &v, sizeof v); }
inline void store(double* p, DoubleVector v) { std::memcpy(p, &v, sizeof v); }
inline void store(simd::bf16* p, FloatVector v) {
  const BitsVector bits = (BitsVector)v;
  const BitsVector nan = (BitsVector)((bits & 0x7fffffffu) > 0x7f800000u);
  const BitsVector rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const HalfBitsVector half = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), HalfBitsVector);
  std::memcpy(p, &half, sizeof half);
}
inline void store(simd::f16* p, FloatVector v) {  // the steps of simd::from_acc
  const BitsVector sign = (BitsVector)v & 0x80000000u;
  const BitsVector bits = (BitsVector)v ^ sign;
  const BitsVector large = (BitsVector)(bits >= 0x47800000u);
  const BitsVector nan = (BitsVector)(bits > 0x7f800000u);
  const BitsVector small = (BitsVector)(bits < 0x38800000u);
  const BitsVector from_small = (BitsVector)((FloatVector)bits + 0.5f) - 0x3f000000u;
  const BitsVector normal = (bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  BitsVector half = (from_small & small) | (normal & ~small & ~large) | (large & 0x7c00u) | (nan & 0x7e00u);
  half |= sign >> 16;
  const HalfBitsVector narrow = __builtin_convertvector(half, HalfBitsVector);
  std::memcpy(p, &narrow, sizeof narrow);
}

// The sum of all lanes, halves first: always in the same order.
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float4 __attribute__((vector_size(16)));
typedef double Double4 __attribute__((vector_size(32)));
typedef double Double2 __attribute__((vector_size(16)));

template <typename Half, typename V>
inline Half add_halves(V v) {
  Half low, high;
  std::memcpy(&low, &v, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
  return low + high;
}
inline float sum_lanes(FloatVector v) {
#if SIMD_BYTES == 64
  const Float4 four = add_halves<Float4>(add_halves<Float8>(v));
#elif SIMD_BYTES == 32
  const Float4 four = add_halves<Float4>(v);
#else
  const Float4 four = v;
#endif
  return (four[0] + four[2]) + (four[1] + four[3]);
}
inline double sum_lanes(DoubleVector v) {
#if SIMD_BYTES == 64
  const Double2 two = add_halves<Double2>(add_halves<Double4>(v));
#elif SIMD_BYTES == 32
  const Double2 two = add_halves<Double2>(v);
#else
  const Double2 two = v;
#endif
  return two[0] + two[1];
}

template <typename T, typename A>
inline void convert_row(const A* from, T* to, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) store(to + i, load(from + i));
  for (; i < n; ++i) simd::from_acc(from[i], to[i]);
}

template <typename A, typename T>
inline void widen_row(const T* from, A* to, int64_t n) {
  int64_t i = 0;
  if constexpr (std::is_same_v<A, simd::Accumulator<T>>) {
    for (; i + kLanes<A> <= n; i += kLanes<A>) store(to + i, load(from + i));
  }
  for (; i < n; ++i) to[i] = A(simd::to_acc(from[i]));
}
