// Multi-scale deformable attention for one instruction set. Included once for each, inside a namespace of its own; no include guard.
//
// B batch, S pixels of all levels, H heads, D channels of a head, Q queries, L levels, P points, K = L * P points in all.
// Each point reads the four pixels around it; a pixel outside its level counts as zero and is never read.

// For n points in order: their four pixels, the bilinear weights and where they lie within the pixel square.
template <typename A>
struct Corners {
  explicit Corners(int64_t n) : capacity(n), ints(8 * n), reals(8 * n) {}
  int32_t* pixel(int corner) { return ints.data() + corner * capacity; }
  int32_t* inside(int corner) { return ints.data() + (4 + corner) * capacity; }
  A* weight(int corner) { return reals.data() + corner * capacity; }
  A* dot(int corner) { return reals.data() + (4 + corner) * capacity; }

  int64_t capacity;
  std::vector<int32_t> ints;
  std::vector<A> reals;
};

// Size and start of the level of each point, repeated until a block of n points is covered.
template <typename A>
struct LevelTable {
  LevelTable(const Problem& p, int64_t n) : width(n), height(n), start(n), width_real(n), height_real(n) {
    const int64_t per_head = p.levels * p.points;
    for (int64_t i = 0; i < n; ++i) {
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

// Straight code over arrays: the compiler turns it into vectors.
template <typename A>
void find_corners(const LevelTable<A>& table, const A* __restrict__ locations, int64_t n, Corners<A>& corners,
                  A* __restrict__ fraction_x, A* __restrict__ fraction_y) {
  int32_t *__restrict__ p00 = corners.pixel(0), *__restrict__ p01 = corners.pixel(1);
  int32_t *__restrict__ p10 = corners.pixel(2), *__restrict__ p11 = corners.pixel(3);
  int32_t *__restrict__ i00 = corners.inside(0), *__restrict__ i01 = corners.inside(1);
  int32_t *__restrict__ i10 = corners.inside(2), *__restrict__ i11 = corners.inside(3);
  A *__restrict__ w00 = corners.weight(0), *__restrict__ w01 = corners.weight(1);
  A *__restrict__ w10 = corners.weight(2), *__restrict__ w11 = corners.weight(3);
  const int32_t *__restrict__ widths = table.width.data(), *__restrict__ heights = table.height.data();
  const int32_t* __restrict__ starts = table.start.data();
  const A *__restrict__ widths_real = table.width_real.data(), *__restrict__ heights_real = table.height_real.data();
  for (int64_t i = 0; i < n; ++i) {
    const int32_t width = widths[i], height = heights[i];
    A x = locations[2 * i] * widths_real[i] - A(0.5);
    A y = locations[2 * i + 1] * heights_real[i] - A(0.5);
    // Far outside (NaN too) becomes just outside, so that it fits an int; all four corners are outside then.
    x = x > A(-2) ? x : A(-2);
    y = y > A(-2) ? y : A(-2);
    x = x < widths_real[i] + 1 ? x : widths_real[i] + 1;
    y = y < heights_real[i] + 1 ? y : heights_real[i] + 1;
    int32_t left = int32_t(x), top = int32_t(y);
    left -= A(left) > x;  // floor
    top -= A(top) > y;
    const A right_part = x - A(left), bottom_part = y - A(top);
    const int32_t in_left = (left >= 0) & (left < width), in_right = (left >= -1) & (left + 1 < width);
    const int32_t in_top = (top >= 0) & (top < height), in_bottom = (top >= -1) & (top + 1 < height);
    const int32_t pixel = starts[i] + top * width + left;
    p00[i] = pixel;
    p01[i] = pixel + 1;
    p10[i] = pixel + width;
    p11[i] = pixel + width + 1;
    i00[i] = in_top & in_left;
    i01[i] = in_top & in_right;
    i10[i] = in_bottom & in_left;
    i11[i] = in_bottom & in_right;
    w00[i] = (1 - bottom_part) * (1 - right_part);
    w01[i] = (1 - bottom_part) * right_part;
    w10[i] = bottom_part * (1 - right_part);
    w11[i] = bottom_part * right_part;
    fraction_x[i] = right_part;
    fraction_y[i] = bottom_part;
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
  Vector<A> sum[NV] = {};
  for (int64_t i = 0; i < n; ++i) {
    const T* pixel = value + taps[i];
    const A weight = weights[i];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] += weight * load(pixel + v * kLanes<A>);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) store(out + v * kLanes<A>, sum[v]);
}

// Rows begin..end of the (B * Q) query rows.
template <typename T>
void forward(const Problem& p, T* out, int64_t begin, int64_t end) {
  using A = simd::Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t per_head = p.levels * p.points, per_query = p.heads * per_head, depth = p.channels;
  const LevelTable<A> table(p, per_query);
  Corners<A> corners(per_query);
  std::vector<A> locations(2 * per_query), attention(per_query), fraction(2 * per_query), weights(4 * per_head);
  std::vector<int64_t> taps(4 * per_head);
  const int32_t *pixels[4], *inside[4];
  const A* bilinear[4];
  for (int c = 0; c < 4; ++c) {
    pixels[c] = corners.pixel(c);
    inside[c] = corners.inside(c);
    bilinear[c] = corners.weight(c);
  }
  for (int64_t row = begin; row < end; ++row) {
    read(p.locations, row * per_query * 2, per_query * 2, locations.data());
    read(p.attention, row * per_query, per_query, attention.data());
    find_corners(table, locations.data(), per_query, corners, fraction.data(), fraction.data() + per_query);
    const T* batch_value = static_cast<const T*>(p.value) + row / p.queries * p.value_stride[0];
    for (int64_t head = 0; head < p.heads; ++head) {
      if (p.softmax) softmax(attention.data() + head * per_head, per_head);
      // The taps that count, close together: no branch in the loop over channels, no read outside.
      int64_t n = 0;
      for (int64_t i = head * per_head; i < (head + 1) * per_head; ++i) {
        for (int c = 0; c < 4; ++c) {
          taps[n] = pixels[c][i] * p.value_stride[1];
          weights[n] = bilinear[c][i] * attention[i];
          n += inside[c][i];
        }
      }
      const T* value = batch_value + head * p.value_stride[2];
      T* result = out + (row * p.heads + head) * depth;
      int64_t d = 0;
      for (; d + 8 * lanes <= depth; d += 8 * lanes) gather<T, 8>(value + d, taps.data(), weights.data(), n, result + d);
      for (; d + 4 * lanes <= depth; d += 4 * lanes) gather<T, 4>(value + d, taps.data(), weights.data(), n, result + d);
      for (; d + 2 * lanes <= depth; d += 2 * lanes) gather<T, 2>(value + d, taps.data(), weights.data(), n, result + d);
      for (; d + lanes <= depth; d += lanes) gather<T, 1>(value + d, taps.data(), weights.data(), n, result + d);
      for (; d < depth; ++d) {
        A sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += weights[i] * simd::to_acc(value[taps[i] + d]);
        simd::from_acc(sum, result[d]);
      }
    }
  }
}

template <typename A>
inline A reduce(Vector<A> v) {
  A lanes[kLanes<A>], sum = 0;
  std::memcpy(lanes, &v, sizeof v);
  for (int64_t width = kLanes<A> / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  sum = lanes[0];
  return sum;
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
    return reduce<A>(dot);
  } else {
    int64_t d = 0;
    for (; d + lanes <= depth; d += lanes) {
      const Vector<A> g = load(gradient + d);
      dot += g * load(pixel + d);
      store(pixel_gradient + d, load(pixel_gradient + d) + weight * g);
    }
    A sum = reduce<A>(dot);
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
  std::vector<A> locations(2 * n_block), attention(n_block), fraction_x(n_block), fraction_y(n_block);
  std::vector<A> location_gradient(2 * n_block), attention_gradient(n_block), out_gradient(depth);
  // The gradient of this head's pixels, packed; one more row takes what falls outside.
  std::vector<A> value_gradient((p.pixels + 1) * depth, A(0));
  const std::vector<T> outside(depth, T{});
  const T* value = static_cast<const T*>(p.value) + batch * p.value_stride[0] + head * p.value_stride[2];

  for (int64_t first = 0; first < p.queries; first += block) {
    const int64_t queries = std::min(block, p.queries - first), n = queries * per_head;
    for (int64_t q = 0; q < queries; ++q) {
      const int64_t row = ((batch * p.queries + first + q) * p.heads + head) * per_head;
      read(p.locations, row * 2, per_head * 2, locations.data() + q * per_head * 2);
      read(p.attention, row, per_head, attention.data() + q * per_head);
      if (p.softmax) softmax(attention.data() + q * per_head, per_head);
    }
    find_corners(table, locations.data(), n, corners, fraction_x.data(), fraction_y.data());
    for (int64_t q = 0; q < queries; ++q) {
      const int64_t row = (batch * p.queries + first + q) * p.heads + head;
      widen_row(static_cast<const T*>(g.out) + row * depth, out_gradient.data(), depth);
      for (int64_t i = q * per_head; i < (q + 1) * per_head; ++i) {
        for (int c = 0; c < 4; ++c) {
          const bool inside = corners.inside(c)[i];
          const int64_t pixel = inside ? corners.pixel(c)[i] : p.pixels;
          const T* source = inside ? value + pixel * p.value_stride[1] : outside.data();
          corners.dot(c)[i] = scatter<T, NV>(source, out_gradient.data(), corners.weight(c)[i] * attention[i],
                                             value_gradient.data() + pixel * depth, depth);
        }
      }
    }
    const A *d00 = corners.dot(0), *d01 = corners.dot(1), *d10 = corners.dot(2), *d11 = corners.dot(3);
    const A *w00 = corners.weight(0), *w01 = corners.weight(1), *w10 = corners.weight(2), *w11 = corners.weight(3);
    for (int64_t i = 0; i < n; ++i) {
      const A x = fraction_x[i], y = fraction_y[i];
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
    case Kind::kDouble: return forward(p, static_cast<double*>(out), begin, end);
    case Kind::kHalf: return forward(p, static_cast<simd::f16*>(out), begin, end);
    case Kind::kBFloat16: return forward(p, static_cast<simd::bf16*>(out), begin, end);
  }
}

inline void backward_any(const Problem& p, Kind kind, const Gradients& g, int64_t begin, int64_t end) {
  switch (kind) {
    case Kind::kFloat: return backward<float>(p, g, begin, end);
    case Kind::kDouble: return backward<double>(p, g, begin, end);
    case Kind::kHalf: return backward<simd::f16>(p, g, begin, end);
    case Kind::kBFloat16: return backward<simd::bf16>(p, g, begin, end);
  }
}
