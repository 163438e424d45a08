// The code for the compiler's baseline.

#include "cpu/ms_deform_attn.h"

#define SIMD_BYTES 16

namespace ms_deform_attn {
namespace {
#include "cpu/simd_isa.h"
#include "cpu/ms_deform_attn_isa.h"
}  // namespace

void forward_base(const Problem& p, Kind kind, void* out, int64_t begin, int64_t end) {
  forward_any(p, kind, out, begin, end);
}

void backward_base(const Problem& p, Kind kind, const Gradients& g, int64_t begin, int64_t end) {
  backward_any(p, kind, g, begin, end);
}

}  // namespace ms_deform_attn
