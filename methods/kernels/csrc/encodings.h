// The launches of the encodings, and the choice of template by the degree of the spherical harmonics.
#pragma once
#include "ops/encodings.h"

namespace fieldbook {

struct HarmonicsCall {
  const float* directions;  // [N, 3]
  const float* grad;        // [N, degree^2], or null in the forward pass
  float* out;               // [N, degree^2], or [N, 3] in the backward pass
  int64_t points;
  int32_t degree;

  int64_t groups() const { return (points + LANES - 1) / LANES; }
};

// Calls run(body) with the body for the call's degree; its elements are groups of lanes.
template <int DEGREE = 1, class Run>
void dispatch_harmonics(const HarmonicsCall& call, const Run& run) {
  if (call.degree == DEGREE) {
    if (call.grad) run(HarmonicsBackward<DEGREE>{call.directions, call.grad, call.out, call.points});
    else run(HarmonicsForward<DEGREE>{call.directions, call.out, call.points});
  } else if constexpr (DEGREE < MAX_DEGREE) {
    dispatch_harmonics<DEGREE + 1>(call, run);
  }
}

#if defined(FIELDBOOK_CUDA) || defined(__CUDACC__)
void harmonics_cuda(const HarmonicsCall& call, void* stream);
void frequency_cuda(const FrequencyForward& body, void* stream);
void frequency_cuda(const FrequencyBackward& body, void* stream);
#endif

}  // namespace fieldbook
