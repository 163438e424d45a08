// The code for the compiler's baseline.

#include <limits>

#include "cpu/roi_align.h"

#define SIMD_BYTES 16

namespace roi_align {
namespace {
#include "cpu/simd_isa.h"
#include "cpu/roi_align_isa.h"
}  // namespace

void forward_base(const Problem& p, Kind kind, const Map& map, const std::vector<RoiTaps>& taps, int64_t first_roi,
                  int64_t last_roi, void* out, int64_t begin, int64_t end) {
  forward_any(p, kind, map, taps, first_roi, last_roi, out, begin, end);
}

void backward_base(const Problem& p, Kind kind, const Map& gradient, const std::vector<RoiTaps>& taps, int64_t batch,
                   const void* out_gradient, int64_t begin, int64_t end) {
  backward_any(p, kind, gradient, taps, batch, out_gradient, begin, end);
}

}  // namespace roi_align
