// Multi-scale deformable attention for one instruction set. Included once for each, inside a namespace of its own; no include guard.
//
// B batch, S pixels of all levels, H heads, D channels of a head, Q queries, L levels, P points, K = L * P points in all.
// Each point reads the four pixels around it; a pixel outside its level counts as zero and is never read.

// Room for n points, whole vectors of them.
template <typename A>
inline int64_t round_up(int64_t n) {
  return (n + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// For n points in order: their four pixels, the bilinear weights and where they lie within the pixel square.
template <typename A>
struct Corners {
  explicit Corners(int64_t n) : capacity(round_up<A>(n)), ints(8 * capacity), reals(10 * capacity) {}
  int32_t* pixel(int corner) { return ints.data() + corner * capacity; }
  int32_t* inside(int corner) { return ints.data() + (4 + corner) * capacity; }
  A* weight(int corner) { return reals.data() + corner * capacity; }
  A* dot(int corner) { return reals.data() + (4 + corner) * capacity; }
  A* right_part() { return reals.data() + 8 * capacity; }
  A* bottom_part() { return reals.data() + 9 * capacity; }

  int64_t capacity;
  std::vector<int32_t> ints;
  std::vector<A> reals;
};

// Size and start of the level of each point, repeated until a block of n points is covered.
template <typename A>
struct LevelTable {
  LevelTable(const Problem& p, int64_t points)
      : width(round_up<A>(points)), height(width), start(width), width_real(width.size()), height_real(width.size()) {
    const int64_t per_head = p.levels * p.points;
    for (int64_t i = 0; i < int64_t(width.size()); ++i) {
      const int64_t level = (i % per_head) / p.points;
      height[i] = int32_t(p.shapes[2 * level]);
      width[i] = int32_t(p.shapes[2 * level + 1]);
      start[i] = int32_t(p.starts[level]);
      height_real[i] = A(height[i]);
      width_real[i] = A(width[i]);
    }
  }
  std::vector<int32_t> width, height, start;
  std::vector<A> width_real, height_real;
};

// The x of all points, then the y.
template <typename A>
void find_corners(const LevelTable<A>& table, const A* xs, const A* ys, int64_t n, Corners<A>& corners) {
  int64_t i = 0;
  if constexpr (std::is_same_v<A, float>) {
    const FloatVector one = FloatVector{} + 1, below = FloatVector{} - 2;
    for (; i < n; i += kLanes<float>) {  // up to a vector too many, for which there is room
      const IntVector width = load(&table.width[i]), height = load(&table.height[i]);
      FloatVector x = load(xs + i) * load(&table.width_real[i]) - one / 2;
      FloatVector y = load(ys + i) * load(&table.height_real[i]) - one / 2;
      // Far outside (NaN too) becomes just outside, so that it fits an int; all four corners are outside then.
      const FloatVector right_end = load(&table.width_real[i]) + one, bottom_end = load(&table.height_real[i]) + one;
      x = x > below ? x : below;
      y = y > below ? y : below;
      x = x < right_end ? x : right_end;
      y = y < bottom_end ? y : bottom_end;
      IntVector left = __builtin_convertvector(x, IntVector), top = __builtin_convertvector(y, IntVector);
      left += __builtin_convertvector(left, FloatVector) > x;  // floor: true is -1
      top += __builtin_convertvector(top, FloatVector) > y;
      const FloatVector right_part = x - __builtin_convertvector(left, FloatVector);
      const FloatVector bottom_part = y - __builtin_convertvector(top, FloatVector);
      const IntVector in_left = (left >= 0) & (left < width), in_right = (left >= -1) & (left < width - 1);
      const IntVector in_top = (top >= 0) & (top < height), in_bottom = (top >= -1) & (top < height - 1);
      const IntVector pixel = load(&table.start[i]) + top * width + left;
      store(corners.pixel(0) + i, pixel);
      store(corners.pixel(1) + i, pixel + 1);
      store(corners.pixel(2) + i, pixel + width);
      store(corners.pixel(3) + i, pixel + width + 1);
      store(corners.inside(0) + i, in_top & in_left & 1);
      store(corners.inside(1) + i, in_top & in_right & 1);
      store(corners.inside(2) + i, in_bottom & in_left & 1);
      store(corners.inside(3) + i, in_bottom & in_right & 1);
      store(corners.weight(0) + i, (one - bottom_part) * (one - right_part));
      store(corners.weight(1) + i, (one - bottom_part) * right_part);
      store(corners.weight(2) + i, bottom_part * (one - right_part));
      store(corners.weight(3) + i, bottom_part * right_part);
      store(corners.right_part() + i, right_part);
      store(corners.bottom_part() + i, bottom_part);
    }
  } else {
    for (; i < n; ++i) {  // the same, one by one
      const int32_t width = table.width[i], height = table.height[i];
      A x = xs[i] * table.width_real[i] - A(0.5), y = ys[i] * table.height_real[i] - A(0.5);
      x = x > A(-2) ? x : A(-2);
      y = y > A(-2) ? y : A(-2);
      x = std::min(x, table.width_real[i] + 1);
      y = std::min(y, table.height_real[i] + 1);
      const int32_t left = int32_t(std::floor(x)), top = int32_t(std::floor(y));
      const A part[2] = {x - A(left), y - A(top)};
      for (int c = 0; c < 4; ++c) {
        const int32_t column = left + c % 2, row = top + c / 2;
        corners.pixel(c)[i] = table.start[i] + row * width + column;
        corners.inside(c)[i] = column >= 0 && column < width && row >= 0 && row < height;
        corners.weight(c)[i] = (c / 2 ? part[1] : 1 - part[1]) * (c % 2 ? part[0] : 1 - part[0]);
      }
      corners.right_part()[i] = part[0];
      corners.bottom_part()[i] = part[1];
    }
  }
}

// Any of the four types to the accumulator; `offset` and `n` count elements.
template <typename A>
void read(const Array& array, int64_t offset, int64_t n, A* to) {
  switch (array.kind) {
    case Kind::kFloat: return widen_row(static_cast<const float*>(array.data) + offset, to, n);
    case Kind::kDouble: return widen_row(static_cast<const double*>(array.data) + offset, to, n);
    case Kind::kHalf: return widen_row(static_cast<const simd::f16*>(array.data) + offset, to, n);
    case Kind::kBFloat16: return widen_row(static_cast<const simd::bf16*>(array.data) + offset, to, n);
  }
}

// n pairs to their first and their second numbers.
template <typename A>
void read_pairs(const Array& array, int64_t offset, int64_t n, A* pairs, A* first, A* second) {
  read(array, offset, 2 * n, pairs);
  for (int64_t i = 0; i < n; ++i) {
    first[i] = pairs[2 * i];
    second[i] = pairs[2 * i + 1];
  }
}

template <typename A>
void write(const A* from, const Array& array, int64_t offset, int64_t n) {
  switch (array.kind) {
    case Kind::kFloat:
      for (int64_t i = 0; i < n; ++i) simd::from_acc(from[i], static_cast<float*>(array.data)[offset + i]);
      return;
    case Kind::kDouble:
      for (int64_t i = 0; i < n; ++i) simd::from_acc(from[i], static_cast<double*>(array.data)[offset + i]);
      return;
    case Kind::kHalf:
      for (int64_t i = 0; i < n; ++i) simd::from_acc(from[i], static_cast<simd::f16*>(array.data)[offset + i]);
      return;
    case Kind::kBFloat16:
      for (int64_t i = 0; i < n; ++i) simd::from_acc(from[i], static_cast<simd::bf16*>(array.data)[offset + i]);
      return;
  }
}

template <typename A>
void softmax(A* x, int64_t n) {
  A largest = x[0], sum = 0;
  for (int64_t i = 1; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  for (int64_t i = 0; i < n; ++i) sum += x[i] = std::exp(x[i] - largest);
  for (int64_t i = 0; i < n; ++i) x[i] /= sum;
}

// out[0:count] = sum of weight * pixel over the taps, `count` a multiple of the vector length.
template <typename T, int NV>
inline void gather(const T* value, const int64_t* taps, const simd::Accumulator<T>* weights, int64_t n, T* out) {
  using A = simd::Accumulator<T>;
  Vector<A> sum[NV] = {}, other[NV] = {};  // two sums: an addition need not wait for the one before
  int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    const T *pixel = value + taps[i], *next = value + taps[i + 1];
    const A weight = weights[i], next_weight = weights[i + 1];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      sum[v] += weight * load(pixel + v * kLanes<A>);
      other[v] += next_weight * load(next + v * kLanes<A>);
    }
  }
  if (i < n) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] += weights[i] * load(value + taps[i] + v * kLanes<A>);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) store(out + v * kLanes<A>, sum[v] + other[v]);
}

// The pixels of one (batch, head). They lie far apart in value, between those of the other heads; where most of them are
// read several times, they are copied together first, so that they stay in the cache.
template <typename T>
struct HeadValue {
  HeadValue(const Problem& p, int64_t item, int64_t queries) {
    const int64_t depth = p.channels;
    data = static_cast<const T*>(p.value) + item / p.heads * p.value_stride[0] + item % p.heads * p.value_stride[2];
    stride = p.value_stride[1];
    if (stride == depth || queries * p.levels * p.points < p.pixels) return;
    packed.resize(p.pixels * depth);
    for (int64_t s = 0; s < p.pixels; ++s) std::memcpy(&packed[s * depth], data + s * stride, depth * sizeof(T));
    data = packed.data();
    stride = depth;
  }
  const T* data;
  int64_t stride;  // from pixel to pixel
  std::vector<T> packed;
};

// Rows begin..end of the (B * H * Q) results, head after head.
template <typename T>
void forward(const Problem& p, T* out, int64_t begin, int64_t end) {
  using A = simd::Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t per_head = p.levels * p.points, depth = p.channels;
  const int64_t block = std::max<int64_t>(1, std::min<int64_t>(p.queries, 128 / per_head));  // queries at a time
  const LevelTable<A> table(p, block * per_head);
  Corners<A> corners(block * per_head);
  std::vector<A> pairs(2 * per_head), xs(corners.capacity), ys(corners.capacity), attention(block * per_head);
  std::vector<A> weights(4 * per_head);
  std::vector<int64_t> taps(4 * per_head);
  const int32_t *pixels[4], *inside[4];
  const A* bilinear[4];
  for (int c = 0; c < 4; ++c) {
    pixels[c] = corners.pixel(c);
    inside[c] = corners.inside(c);
    bilinear[c] = corners.weight(c);
  }
  while (begin < end) {
    const int64_t item = begin / p.queries, batch = item / p.heads, head = item % p.heads;
    const int64_t last = std::min(end, (item + 1) * p.queries) - item * p.queries;
    const HeadValue<T> value(p, item, last - begin % p.queries);
    for (int64_t first = begin % p.queries; first < last; first += block) {
      const int64_t queries = std::min(block, last - first);
      for (int64_t q = 0; q < queries; ++q) {
        const int64_t row = ((batch * p.queries + first + q) * p.heads + head) * per_head;
        read_pairs(p.locations, row * 2, per_head, pairs.data(), &xs[q * per_head], &ys[q * per_head]);
        read(p.attention, row, per_head, attention.data() + q * per_head);
        if (p.softmax) softmax(attention.data() + q * per_head, per_head);
      }
      find_corners(table, xs.data(), ys.data(), queries * per_head, corners);
      for (int64_t q = 0; q < queries; ++q) {
        // The taps that count, close together: no branch in the loop over channels, no read outside.
        int64_t n = 0;
        for (int64_t i = q * per_head; i < (q + 1) * per_head; ++i) {
          for (int c = 0; c < 4; ++c) {
            taps[n] = pixels[c][i] * value.stride;
            weights[n] = bilinear[c][i] * attention[i];
            n += inside[c][i];
          }
        }
        T* result = out + ((batch * p.queries + first + q) * p.heads + head) * depth;
        const T* data = value.data;
        int64_t d = 0;
        for (; d + 8 * lanes <= depth; d += 8 * lanes) gather<T, 8>(data + d, taps.data(), weights.data(), n, result + d);
        for (; d + 4 * lanes <= depth; d += 4 * lanes) gather<T, 4>(data + d, taps.data(), weights.data(), n, result + d);
        for (; d + 2 * lanes <= depth; d += 2 * lanes) gather<T, 2>(data + d, taps.data(), weights.data(), n, result + d);
        for (; d + lanes <= depth; d += lanes) gather<T, 1>(data + d, taps.data(), weights.data(), n, result + d);
        for (; d < depth; ++d) {
          A sum = 0;
          for (int64_t i = 0; i < n; ++i) sum += weights[i] * simd::to_acc(data[taps[i] + d]);
          simd::from_acc(sum, result[d]);
        }
      }
    }
    begin = item * p.queries + last;
  }
}

// One pixel: returns gradient . pixel and adds weight * gradient to the pixel's gradient.
// NV vectors where that is known when compiling, else any number of channels.
template <typename T, int NV>
inline simd::Accumulator<T> scatter(const T* pixel, const simd::Accumulator<T>* gradient, simd::Accumulator<T> weight,
                                    simd::Accumulator<T>* pixel_gradient, int64_t depth) {
  using A = simd::Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> dot = {};
  if constexpr (NV > 0) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const Vector<A> g = load(gradient + v * lanes);
      dot += g * load(pixel + v * lanes);
      store(pixel_gradient + v * lanes, load(pixel_gradient + v * lanes) + weight * g);
    }
    return sum_lanes(dot);
  } else {
    int64_t d = 0;
    for (; d + lanes <= depth; d += lanes) {
      const Vector<A> g = load(gradient + d);
      dot += g * load(pixel + d);
      store(pixel_gradient + d, load(pixel_gradient + d) + weight * g);
    }
    A sum = sum_lanes(dot);
    for (; d < depth; ++d) {
      sum += gradient[d] * simd::to_acc(pixel[d]);
      pixel_gradient[d] += weight * gradient[d];
    }
    return sum;
  }
}

// One (batch, head): nobody else writes its part of the gradients, so the order of additions is fixed.
template <typename T, int NV>
void backward_head(const Problem& p, const Gradients& g, int64_t batch, int64_t head) {
  using A = simd::Accumulator<T>;
  const int64_t per_head = p.levels * p.points, depth = p.channels;
  const int64_t block = std::max<int64_t>(1, std::min<int64_t>(p.queries, 128 / per_head));  // queries at a time
  const int64_t n_block = block * per_head;
  const LevelTable<A> table(p, n_block);
  Corners<A> corners(n_block);
  std::vector<A> pairs(2 * per_head), xs(corners.capacity), ys(corners.capacity), attention(n_block);
  std::vector<A> location_gradient(2 * n_block), attention_gradient(n_block), out_gradient(depth);
  // The gradient of this head's pixels, packed; one more row takes what falls outside.
  std::vector<A> value_gradient((p.pixels + 1) * depth, A(0));
  const std::vector<T> outside(depth, T{});
  const HeadValue<T> value(p, batch * p.heads + head, p.queries);

  for (int64_t first = 0; first < p.queries; first += block) {
    const int64_t queries = std::min(block, p.queries - first), n = queries * per_head;
    for (int64_t q = 0; q < queries; ++q) {
      const int64_t row = ((batch * p.queries + first + q) * p.heads + head) * per_head;
      read_pairs(p.locations, row * 2, per_head, pairs.data(), &xs[q * per_head], &ys[q * per_head]);
      read(p.attention, row, per_head, attention.data() + q * per_head);
      if (p.softmax) softmax(attention.data() + q * per_head, per_head);
    }
    find_corners(table, xs.data(), ys.data(), n, corners);
    for (int64_t q = 0; q < queries; ++q) {
      const int64_t row = (batch * p.queries + first + q) * p.heads + head;
      widen_row(static_cast<const T*>(g.out) + row * depth, out_gradient.data(), depth);
      for (int64_t i = q * per_head; i < (q + 1) * per_head; ++i) {
        for (int c = 0; c < 4; ++c) {
          const bool inside = corners.inside(c)[i];
          const int64_t pixel = inside ? corners.pixel(c)[i] : p.pixels;
          const T* source = inside ? value.data + pixel * value.stride : outside.data();
          corners.dot(c)[i] = scatter<T, NV>(source, out_gradient.data(), corners.weight(c)[i] * attention[i],
                                             value_gradient.data() + pixel * depth, depth);
        }
      }
    }
    const A *d00 = corners.dot(0), *d01 = corners.dot(1), *d10 = corners.dot(2), *d11 = corners.dot(3);
    const A *w00 = corners.weight(0), *w01 = corners.weight(1), *w10 = corners.weight(2), *w11 = corners.weight(3);
    for (int64_t i = 0; i < n; ++i) {
      const A x = corners.right_part()[i], y = corners.bottom_part()[i];
      attention_gradient[i] = w00[i] * d00[i] + w01[i] * d01[i] + w10[i] * d10[i] + w11[i] * d11[i];
      const A along_x = (1 - y) * (d01[i] - d00[i]) + y * (d11[i] - d10[i]);
      const A along_y = (1 - x) * (d10[i] - d00[i]) + x * (d11[i] - d01[i]);
      location_gradient[2 * i] = attention[i] * along_x * table.width_real[i];
      location_gradient[2 * i + 1] = attention[i] * along_y * table.height_real[i];
    }
    for (int64_t q = 0; q < queries; ++q) {
      A* gradient = attention_gradient.data() + q * per_head;
      if (p.softmax) {
        const A* probability = attention.data() + q * per_head;
        A mean = 0;
        for (int64_t k = 0; k < per_head; ++k) mean += probability[k] * gradient[k];
        for (int64_t k = 0; k < per_head; ++k) gradient[k] = probability[k] * (gradient[k] - mean);
      }
      const int64_t row = ((batch * p.queries + first + q) * p.heads + head) * per_head;
      write(gradient, g.attention, row, per_head);
      write(location_gradient.data() + q * per_head * 2, g.locations, row * 2, per_head * 2);
    }
  }
  for (int64_t s = 0; s < p.pixels; ++s) {
    convert_row(value_gradient.data() + s * depth,
                static_cast<T*>(g.value) + ((batch * p.pixels + s) * p.heads + head) * depth, depth);
  }
}

// Items begin..end of the (B * H) heads. 32 channels, the usual number, get code of their own.
template <typename T>
void backward(const Problem& p, const Gradients& g, int64_t begin, int64_t end) {
  constexpr int vectors = std::is_same_v<T, double> ? 0 : 32 / kLanes<float>;
  for (int64_t item = begin; item < end; ++item) {
    if (p.channels == 32) {
      backward_head<T, vectors>(p, g, item / p.heads, item % p.heads);
    } else {
      backward_head<T, 0>(p, g, item / p.heads, item % p.heads);
    }
  }
}

inline void forward_any(const Problem& p, Kind kind, void* out, int64_t begin, int64_t end) {
  switch (kind) {
    case Kind::kFloat: return forward(p, static_cast<float*>(out), begin, end);
#if SIMD_BYTES == 16
    case Kind::kDouble: return forward(p, static_cast<double*>(out), begin, end);
#else
    case Kind::kDouble: return;  // always runs the baseline
#endif
    case Kind::kHalf: return forward(p, static_cast<simd::f16*>(out), begin, end);
    case Kind::kBFloat16: return forward(p, static_cast<simd::bf16*>(out), begin, end);
  }
}

inline void backward_any(const Problem& p, Kind kind, const Gradients& g, int64_t begin, int64_t end) {
  switch (kind) {
    case Kind::kFloat: return backward<float>(p, g, begin, end);
#if SIMD_BYTES == 16
    case Kind::kDouble: return backward<double>(p, g, begin, end);
#else
    case Kind::kDouble: return;  // always runs the baseline
#endif
    case Kind::kHalf: return backward<simd::f16>(p, g, begin, end);
    case Kind::kBFloat16: return backward<simd::bf16>(p, g, begin, end);
  }
}
