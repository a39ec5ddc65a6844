// The three launches of grid_encode, and the choice of template by the grid's properties.
#pragma once
#include "ops/grid.h"

namespace fieldbook {

struct GridCall {
  GridArgs args;
  int32_t dims, features, smooth, half;
  const void* table;    // [rows, F] float or half
  const float* grad;    // [N, L * F], for the backward passes
  const float* plain;   // [N, L * F], or null: with `along`, a gradient that backward_table adds by the weights themselves
  float* out;           // [N, L * F] | [rows, F] added to | [N, D]
};

enum class GridPass { forward, backward_table, backward_x };

// Calls `f.template operator()<D, F, SMOOTH>()` for the call's properties.
template <class Function>
bool dispatch_shape(const GridCall& call, const Function& f) {
  auto smooth = [&]<int D, int F>() {
    if (call.smooth) f.template operator()<D, F, true>();
    else f.template operator()<D, F, false>();
  };
  auto features = [&]<int D>() {
    switch (call.features) {
      case 1: smooth.template operator()<D, 1>(); return true;
      case 2: smooth.template operator()<D, 2>(); return true;
      case 4: smooth.template operator()<D, 4>(); return true;
      case 8: smooth.template operator()<D, 8>(); return true;
      default: return false;
    }
  };
  return call.dims == 2 ? features.template operator()<2>() : features.template operator()<3>();
}

// The same with DIRECTED: `f.template operator()<D, F, SMOOTH, DIRECTED>()`.
template <class Function>
bool dispatch_grid(const GridCall& call, const Function& f) {
  return dispatch_shape(call, [&]<int D, int F, bool SMOOTH>() {
    if (call.args.along) f.template operator()<D, F, SMOOTH, true>();
    else f.template operator()<D, F, SMOOTH, false>();
  });
}

#if defined(FIELDBOOK_CUDA) || defined(__CUDACC__)
void grid_cuda(const GridCall& call, GridPass pass, void* stream);
#else
void grid_cpu(const GridCall& call, GridPass pass);
#endif

}  // namespace fieldbook
