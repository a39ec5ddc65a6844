// The three launches of grid_encode_taps.
#pragma once
#include "grid.h"
#include "ops/grid_taps.h"

namespace fieldbook {

struct TapsCall {
  GridCall grid;  // grad and out of the forward pass: [N, 1 + K, L * F]
  Taps taps;
};

#if defined(FIELDBOOK_CUDA) || defined(__CUDACC__)
void grid_taps_cuda(const TapsCall& call, GridPass pass, void* stream);
#endif

}  // namespace fieldbook
