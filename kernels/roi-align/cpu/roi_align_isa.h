// ROIAlign for one instruction set. Included once for each, inside a namespace of its own; no include guard.

// ---------------------------------------------------------------------------------------------------------------------
// Channels-last: a bin is a weighted sum of pixels, and the channels of a pixel are adjacent.

// The pixels of bin (i, j) as offsets into the map, with the products of their weights. Returns how many.
template <typename A>
int64_t pixels_of_bin(const Map& map, const RoiTaps& taps, int64_t i, int64_t j, std::vector<int64_t>& offsets,
                      std::vector<A>& weights) {
  offsets.clear();
  weights.clear();
  for (int32_t r = taps.rows.begin[i]; r < taps.rows.begin[i + 1]; ++r) {
    for (int32_t c = taps.columns.begin[j]; c < taps.columns.begin[j + 1]; ++c) {
      offsets.push_back(taps.rows.index[r] * map.stride_row + taps.columns.index[c] * map.stride_column);
      weights.push_back(A(taps.rows.weight[r]) * A(taps.columns.weight[c]));
    }
  }
  return int64_t(offsets.size());
}

template <typename T, int NV>
inline void sum_pixels(const T* map, const int64_t* offsets, const simd::Accumulator<T>* weights, int64_t n, T* out) {
  using A = simd::Accumulator<T>;
  Vector<A> sum[NV] = {};
  for (int64_t k = 0; k < n; ++k) {
    const T* pixel = map + offsets[k];
    const A weight = weights[k];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] += weight * load(pixel + v * kLanes<A>);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) store(out + v * kLanes<A>, sum[v]);
}

template <typename T>
void forward_channels_last(const Problem& p, const Map& map, const RoiTaps& taps, T* out, int64_t begin, int64_t end) {
  using A = simd::Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  const T* image = static_cast<const T*>(map.data) + taps.batch * map.stride_batch;
  std::vector<int64_t> offsets;
  std::vector<A> weights;
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int64_t j = 0; j < p.columns; ++j) {
      const int64_t n = pixels_of_bin(map, taps, i, j, offsets, weights);
      T* bin = out + (i * p.columns + j) * map.channels;
      int64_t c = begin;
      for (; c + 8 * lanes <= end; c += 8 * lanes) {
        sum_pixels<T, 8>(image + c, offsets.data(), weights.data(), n, bin + c);
      }
      for (; c + lanes <= end; c += lanes) sum_pixels<T, 1>(image + c, offsets.data(), weights.data(), n, bin + c);
      for (; c < end; ++c) {
        A sum = 0;
        for (int64_t k = 0; k < n; ++k) sum += weights[k] * simd::to_acc(image[offsets[k] + c]);
        simd::from_acc(sum, bin[c]);
      }
    }
  }
}

// The taps of an axis seen from the map: pixel index[k] is read by the bins bin[begin[k]] .. bin[begin[k + 1]].
template <typename A>
struct Readers {
  explicit Readers(const Taps& taps) {
    const int64_t n = int64_t(taps.index.size()), bins = int64_t(taps.begin.size()) - 1;
    std::vector<int64_t> bin_of(n), order(n);
    for (int64_t i = 0; i < bins; ++i) std::fill(bin_of.begin() + taps.begin[i], bin_of.begin() + taps.begin[i + 1], i);
    for (int64_t k = 0; k < n; ++k) order[k] = k;
    std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return taps.index[x] < taps.index[y]; });
    for (int64_t k = 0; k < n; ++k) {
      const int64_t tap = order[k];
      if (k == 0 || taps.index[tap] != index.back()) {
        index.push_back(taps.index[tap]);
        begin.push_back(k);
      }
      bin.push_back(bin_of[tap]);
      weight.push_back(A(taps.weight[tap]));
    }
    begin.push_back(n);
  }
  std::vector<int64_t> index, begin, bin;
  std::vector<A> weight;
};

template <typename T, int NV>
inline void add_bins(const T* bins, const int64_t* offsets, const simd::Accumulator<T>* weights, int64_t n,
                     simd::Accumulator<T>* pixel) {
  using A = simd::Accumulator<T>;
  Vector<A> sum[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) sum[v] = load(pixel + v * kLanes<A>);
  for (int64_t k = 0; k < n; ++k) {
    const T* bin = bins + offsets[k];
    const A weight = weights[k];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] += weight * load(bin + v * kLanes<A>);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) store(pixel + v * kLanes<A>, sum[v]);
}

// `sums` starts at channel `begin` of the image and has the strides of `layout`. Pixel by pixel: each is loaded and
// stored once a roi, however many bins read it.
template <typename T>
void add_channels_last(const Problem& p, const Map& layout, const RoiTaps& taps, const T* out_gradient,
                       simd::Accumulator<T>* sums, int64_t begin, int64_t end) {
  using A = simd::Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t channels = end - begin;
  const Readers<A> rows(taps.rows), columns(taps.columns);
  std::vector<int64_t> offsets;
  std::vector<A> weights;
  for (size_t i = 0; i < rows.index.size(); ++i) {
    for (size_t j = 0; j < columns.index.size(); ++j) {
      offsets.clear();
      weights.clear();
      for (int64_t r = rows.begin[i]; r < rows.begin[i + 1]; ++r) {
        for (int64_t c = columns.begin[j]; c < columns.begin[j + 1]; ++c) {
          offsets.push_back((rows.bin[r] * p.columns + columns.bin[c]) * layout.channels);
          weights.push_back(rows.weight[r] * columns.weight[c]);
        }
      }
      const int64_t n = int64_t(offsets.size());
      const T* bins = out_gradient + begin;
      A* pixel = sums + rows.index[i] * layout.stride_row + columns.index[j] * layout.stride_column;
      int64_t c = 0;
      for (; c + 4 * lanes <= channels; c += 4 * lanes) {
        add_bins<T, 4>(bins + c, offsets.data(), weights.data(), n, pixel + c);
      }
      for (; c + lanes <= channels; c += lanes) add_bins<T, 1>(bins + c, offsets.data(), weights.data(), n, pixel + c);
      for (; c < channels; ++c) {
        A sum = pixel[c];
        for (int64_t k = 0; k < n; ++k) sum += weights[k] * simd::to_acc(bins[offsets[k] + c]);
        pixel[c] = sum;
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// NCHW: the columns of a row are adjacent. Forward, the rows of each bin row are summed first (vectors along the map's
// columns), then the few columns left are multiplied by a small matrix (vectors along the bins of a row), so nothing is
// gathered lane by lane. Backward is the same the other way round.

// The columns first..first + width of the map that a roi reads, and the matrix from them to the bins of a row.
template <typename A>
struct ColumnMatrix {
  // For the next roi; the memory is used again.
  void fill(const Map& map, const Taps& taps, int64_t bins, bool transposed) {
    constexpr int64_t lanes = kLanes<A>;
    width = 0;
    used.clear();
    int32_t lowest = std::numeric_limits<int32_t>::max(), highest = -1;
    for (int32_t index : taps.index) {
      lowest = std::min(lowest, index);
      highest = std::max(highest, index);
    }
    if (highest < 0) return;
    first = lowest;
    width = highest - lowest + 1;
    // Whole vectors without reading behind the row, where the row is long enough for that.
    const int64_t whole = (width + lanes - 1) / lanes * lanes;
    if (whole <= map.width) {
      first = std::min(first, map.width - whole);
      width = whole;
    }
    stride = (transposed ? whole : (bins + lanes - 1) / lanes * lanes);
    values.assign((transposed ? bins : width) * stride, A(0));
    has_taps.assign(width, 0);
    first_bin.assign(whole / lanes, bins);
    last_bin.assign(whole / lanes, -1);
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int32_t k = taps.begin[bin]; k < taps.begin[bin + 1]; ++k) {
        const int64_t column = taps.index[k] - first;
        values[transposed ? bin * stride + column : column * stride + bin] += A(taps.weight[k]);
        has_taps[column] = 1;
        first_bin[column / lanes] = std::min(first_bin[column / lanes], bin);
        last_bin[column / lanes] = std::max(last_bin[column / lanes], bin);
      }
    }
    for (int64_t column = 0; column < width; ++column) {
      if (has_taps[column]) used.push_back(column);
    }
  }

  int64_t first = 0, width = 0;
  int64_t stride = 0;      // between the rows of the matrix
  std::vector<A> values;   // (columns, bins), or transposed
  std::vector<int64_t> used;                  // columns that are not zero
  std::vector<char> has_taps;
  std::vector<int64_t> first_bin, last_bin;   // the bins that a vector of columns adds to
};

// out[r][0:lanes] = sum over the used columns of sums[r][column] * matrix[column], for R rows.
template <typename A, int R>
inline void columns_to_bins(const ColumnMatrix<A>& matrix, int64_t bin, const A* sums, int64_t sums_stride, A* out) {
  Vector<A> sum[R] = {};
  const A* values = matrix.values.data() + bin;
  for (const int64_t column : matrix.used) {
    const Vector<A> weights = load(values + column * matrix.stride);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r] += sums[r * sums_stride + column] * weights;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store(out + r * matrix.stride, sum[r]);
}

template <typename T>
void forward_planes(const Problem& p, const Map& map, const RoiTaps& taps, T* out, int64_t begin, int64_t end,
                    ColumnMatrix<simd::Accumulator<T>>& matrix) {
  using A = simd::Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t bins = p.rows * p.columns;
  matrix.fill(map, taps.columns, p.columns, /*transposed=*/false);
  if (matrix.width == 0) {
    std::memset(static_cast<void*>(out + begin * bins), 0, (end - begin) * bins * sizeof(T));
    return;
  }
  const int64_t width = matrix.width, stride = matrix.stride;
  std::vector<A> sums(p.rows * width), result(p.rows * stride);
  std::vector<A> row_weights(taps.rows.weight.begin(), taps.rows.weight.end());
  for (int64_t c = begin; c < end; ++c) {
    const T* plane = static_cast<const T*>(map.data) + taps.batch * map.stride_batch + c * map.stride_channel;
    for (int64_t i = 0; i < p.rows; ++i) {
      A* sum_row = sums.data() + i * width;
      const int32_t first_tap = taps.rows.begin[i], last_tap = taps.rows.begin[i + 1];
      int64_t x = 0;
      for (; x + lanes <= width; x += lanes) {
        Vector<A> sum = {};
        for (int32_t k = first_tap; k < last_tap; ++k) {
          sum += row_weights[k] * load(plane + taps.rows.index[k] * map.stride_row + matrix.first + x);
        }
        store(sum_row + x, sum);
      }
      for (; x < width; ++x) {
        A sum = 0;
        for (int32_t k = first_tap; k < last_tap; ++k) {
          sum += row_weights[k] * simd::to_acc(plane[taps.rows.index[k] * map.stride_row + matrix.first + x]);
        }
        sum_row[x] = sum;
      }
    }
    for (int64_t bin = 0; bin < p.columns; bin += lanes) {
      int64_t i = 0;
      const A* from = sums.data();
      A* to = result.data() + bin;
      for (; i + 8 <= p.rows; i += 8) columns_to_bins<A, 8>(matrix, bin, from + i * width, width, to + i * stride);
      for (; i + 4 <= p.rows; i += 4) columns_to_bins<A, 4>(matrix, bin, from + i * width, width, to + i * stride);
      for (; i + 2 <= p.rows; i += 2) columns_to_bins<A, 2>(matrix, bin, from + i * width, width, to + i * stride);
      for (; i < p.rows; ++i) columns_to_bins<A, 1>(matrix, bin, from + i * width, width, to + i * stride);
    }
    // Rows in order: a whole vector may run into the next row, which is written after it, but not out of the channel.
    T* channel = out + c * bins;
    for (int64_t i = 0; i < p.rows; ++i) {
      for (int64_t bin = 0; bin < p.columns; bin += lanes) {
        const A* from = result.data() + i * stride + bin;
        T* to = channel + i * p.columns + bin;
        if (to + lanes <= channel + bins) {
          store(to, load(from));
        } else {
          for (int64_t k = 0; k < std::min(lanes, p.columns - bin); ++k) simd::from_acc(from[k], to[k]);
        }
      }
    }
  }
}

// sums[r][0:lanes] = sum over the bins of bins[r][bin] * matrix[bin], for R rows and one vector of columns.
template <typename A, int R>
inline void bins_to_columns(const ColumnMatrix<A>& matrix, int64_t x, const A* bins, int64_t n_bins, A* sums) {
  Vector<A> sum[R] = {};
  const A* values = matrix.values.data() + x;
  for (int64_t bin = matrix.first_bin[x / kLanes<A>]; bin <= matrix.last_bin[x / kLanes<A>]; ++bin) {
    const Vector<A> weights = load(values + bin * matrix.stride);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r] += bins[r * n_bins + bin] * weights;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store(sums + r * matrix.stride, sum[r]);
}

// `sums` is the first row of channel `begin`; planes and rows of it lie as in `layout`.
template <typename T>
void add_planes(const Problem& p, const Map& layout, const RoiTaps& taps, const T* out_gradient,
                simd::Accumulator<T>* sums, int64_t begin, int64_t end,
                ColumnMatrix<simd::Accumulator<T>>& matrix) {
  using A = simd::Accumulator<T>;
  constexpr int64_t lanes = kLanes<A>;
  matrix.fill(layout, taps.columns, p.columns, /*transposed=*/true);
  if (matrix.width == 0) return;
  const int64_t bins = p.rows * p.columns, stride = matrix.stride;
  std::vector<A> gradient(bins), columns(p.rows * stride);
  std::vector<A> row_weights(taps.rows.weight.begin(), taps.rows.weight.end());
  for (int64_t c = begin; c < end; ++c) {
    widen_row(out_gradient + c * bins, gradient.data(), bins);
    for (int64_t x = 0; x < stride; x += lanes) {
      int64_t i = 0;
      const A* from = gradient.data();
      A* to = columns.data() + x;
      const int64_t n = p.columns;
      for (; i + 8 <= p.rows; i += 8) bins_to_columns<A, 8>(matrix, x, from + i * n, n, to + i * stride);
      for (; i + 4 <= p.rows; i += 4) bins_to_columns<A, 4>(matrix, x, from + i * n, n, to + i * stride);
      for (; i + 2 <= p.rows; i += 2) bins_to_columns<A, 2>(matrix, x, from + i * n, n, to + i * stride);
      for (; i < p.rows; ++i) bins_to_columns<A, 1>(matrix, x, from + i * n, n, to + i * stride);
    }
    A* plane = sums + (c - begin) * layout.stride_channel + matrix.first;
    for (int64_t i = 0; i < p.rows; ++i) {
      const A* column = columns.data() + i * stride;
      for (int32_t k = taps.rows.begin[i]; k < taps.rows.begin[i + 1]; ++k) {
        A* row = plane + taps.rows.index[k] * layout.stride_row;
        const A weight = row_weights[k];
        int64_t x = 0;
        for (; x + lanes <= matrix.width; x += lanes) store(row + x, load(row + x) + weight * load(column + x));
        for (; x < matrix.width; ++x) row[x] += weight * column[x];
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

template <typename T>
void forward(const Problem& p, const Map& map, const std::vector<RoiTaps>& taps, int64_t first_roi, int64_t last_roi,
             void* out, int64_t begin, int64_t end) {
  ColumnMatrix<simd::Accumulator<T>> matrix;
  for (int64_t roi = first_roi; roi < last_roi; ++roi) {
    T* result = static_cast<T*>(out) + roi * map.channels * p.rows * p.columns;
    if (map.channels_last) {
      forward_channels_last(p, map, taps[roi], result, begin, end);
    } else {
      forward_planes(p, map, taps[roi], result, begin, end, matrix);
    }
  }
}

template <typename T>
void backward(const Problem& p, const Map& gradient, const std::vector<RoiTaps>& taps, int64_t batch,
              const void* out_gradient, int64_t begin, int64_t end) {
  using A = simd::Accumulator<T>;
  const int64_t channels = end - begin, pixels = gradient.height * gradient.width;
  T* result = static_cast<T*>(gradient.data) + batch * gradient.stride_batch + begin * gradient.stride_channel;
  // 16-bit types are added up in float, in a buffer that holds only these channels.
  Map layout = gradient;
  std::vector<A> buffer;
  A* sums;
  if constexpr (std::is_same_v<T, A>) {
    sums = result;
    if (!gradient.channels_last) {
      std::memset(result, 0, channels * pixels * sizeof(T));
    } else {
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        std::memset(result + pixel * gradient.channels, 0, channels * sizeof(T));
      }
    }
  } else {
    buffer.assign(channels * pixels, A(0));
    sums = buffer.data();
    if (gradient.channels_last) {
      layout.stride_column = channels;
      layout.stride_row = channels * gradient.width;
    }
  }
  ColumnMatrix<A> matrix;
  for (int64_t roi = 0; roi < p.n_rois; ++roi) {
    if (taps[roi].batch != batch) continue;
    const T* bins = static_cast<const T*>(out_gradient) + roi * gradient.channels * p.rows * p.columns;
    if (gradient.channels_last) {
      add_channels_last(p, layout, taps[roi], bins, sums, begin, end);
    } else {
      add_planes(p, layout, taps[roi], bins, sums, begin, end, matrix);
    }
  }
  if constexpr (!std::is_same_v<T, A>) {
    if (!gradient.channels_last) {
      convert_row(buffer.data(), result, channels * pixels);
    } else {
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        convert_row(buffer.data() + pixel * channels, result + pixel * gradient.channels, channels);
      }
    }
  }
}

inline void forward_any(const Problem& p, Kind kind, const Map& map, const std::vector<RoiTaps>& taps,
                        int64_t first_roi, int64_t last_roi, void* out, int64_t begin, int64_t end) {
  switch (kind) {
    case Kind::kFloat: return forward<float>(p, map, taps, first_roi, last_roi, out, begin, end);
#if SIMD_BYTES == 16
    case Kind::kDouble: return forward<double>(p, map, taps, first_roi, last_roi, out, begin, end);
#else
    case Kind::kDouble: return;  // always runs the baseline
#endif
    case Kind::kHalf: return forward<simd::f16>(p, map, taps, first_roi, last_roi, out, begin, end);
    case Kind::kBFloat16: return forward<simd::bf16>(p, map, taps, first_roi, last_roi, out, begin, end);
  }
}

inline void backward_any(const Problem& p, Kind kind, const Map& gradient, const std::vector<RoiTaps>& taps,
                         int64_t batch, const void* out_gradient, int64_t begin, int64_t end) {
  switch (kind) {
    case Kind::kFloat: return backward<float>(p, gradient, taps, batch, out_gradient, begin, end);
#if SIMD_BYTES == 16
    case Kind::kDouble: return backward<double>(p, gradient, taps, batch, out_gradient, begin, end);
#else
    case Kind::kDouble: return;  // always runs the baseline
#endif
    case Kind::kHalf: return backward<simd::f16>(p, gradient, taps, batch, out_gradient, begin, end);
    case Kind::kBFloat16: return backward<simd::bf16>(p, gradient, taps, batch, out_gradient, begin, end);
  }
}
