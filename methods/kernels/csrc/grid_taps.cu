// grid_encode_taps on a GPU: one thread per (point, level), which takes the point's taps one after the other.
#include "atomic_add.h"
#include "grid_taps.h"
#include "launch.h"

namespace fieldbook {
namespace {

template <int D, int F, bool SMOOTH, class T, GridPass PASS>
__global__ void grid_taps_kernel(const __grid_constant__ TapsCall call) {
  const GridArgs& a = call.grid.args;
  const int l = blockIdx.y;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.points) return;
  const GridLevel& level = a.levels[l];
  const T* table = static_cast<const T*>(call.grid.table);
  const int64_t stride = static_cast<int64_t>(a.level_count) * F, at = i * (1 + call.taps.count) * stride + l * F;
  const float* x = a.x + i * D;
  if (!(a.level_mask >> l & 1)) {
    if constexpr (PASS == GridPass::forward)
      for (int k = 0; k <= call.taps.count; ++k)
        for (int f = 0; f < F; ++f) call.grid.out[at + k * stride + f] = 0.0f;
    return;
  }
  const auto run = [&]<bool HASHED>() {
    if constexpr (PASS == GridPass::forward) {
      grid_taps_forward<D, F, SMOOTH, HASHED>(level, x, call.taps, a.bounded, table, call.grid.out + at, stride);
    } else if constexpr (PASS == GridPass::backward_table) {
      grid_taps_backward_table<D, F, SMOOTH, HASHED>(level, x, call.taps, a.bounded, call.grid.grad + at, stride,
                                                     AtomicAdd<F>{call.grid.out});
    } else {
      float grad_x[D] = {};
      grid_taps_backward_x<D, F, SMOOTH, HASHED>(level, x, call.taps, a.bounded, table, call.grid.grad + at, stride,
                                                 grad_x);
      for (int d = 0; d < D; ++d) atomicAdd(call.grid.out + i * D + d, grad_x[d]);
    }
  };
  if (level.hashed) run.template operator()<true>();
  else run.template operator()<false>();
}

template <int D, int F, bool SMOOTH, class T>
void launch(const TapsCall& call, GridPass pass, void* stream) {
  constexpr int THREADS = 128;
  const GridArgs& a = call.grid.args;
  const dim3 blocks(static_cast<unsigned>((a.points + THREADS - 1) / THREADS), a.level_count);
  const auto s = static_cast<cudaStream_t>(stream);
  const auto run = [&]<GridPass PASS>() { grid_taps_kernel<D, F, SMOOTH, T, PASS><<<blocks, THREADS, 0, s>>>(call); };
  switch (pass) {
    case GridPass::forward: run.template operator()<GridPass::forward>(); break;
    case GridPass::backward_table: run.template operator()<GridPass::backward_table>(); break;
    case GridPass::backward_x: run.template operator()<GridPass::backward_x>(); break;
  }
}

}  // namespace

void grid_taps_cuda(const TapsCall& call, GridPass pass, void* stream) {
  dispatch_shape(call.grid, [&]<int D, int F, bool SMOOTH>() {
    if (call.grid.half) launch<D, F, SMOOTH, half_t>(call, pass, stream);
    else launch<D, F, SMOOTH, float>(call, pass, stream);
  });
}

}  // namespace fieldbook
