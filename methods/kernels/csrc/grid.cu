// grid_encode on a GPU: one thread per (point, level), the level in blockIdx.y, so that one level's table is hot at a
// time.
#include "atomic_add.h"
#include "grid.h"
#include "launch.h"

namespace fieldbook {
namespace {

template <int D, int F, bool SMOOTH, bool DIRECTED, class T, GridPass PASS>
__global__ void grid_kernel(const __grid_constant__ GridCall call) {
  const GridArgs& a = call.args;
  const int l = blockIdx.y;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.points) return;
  const GridLevel& level = a.levels[l];
  const T* table = static_cast<const T*>(call.table);
  const int64_t at = (i * a.level_count + l) * F;
  const float* x = a.x + i * D;
  const float* v = DIRECTED ? a.along + i * D : nullptr;
  if (!(a.level_mask >> l & 1)) {
    if constexpr (PASS == GridPass::forward)
      for (int f = 0; f < F; ++f) call.out[at + f] = 0.0f;
    return;
  }
  const auto run = [&]<bool HASHED>() {
    if constexpr (PASS == GridPass::forward) {
      grid_forward<D, F, SMOOTH, HASHED, DIRECTED>(level, x, v, a.bounded, table, call.out + at);
    } else if constexpr (PASS == GridPass::backward_table) {
      const auto add = [&]<bool PLAIN>() {
        const float* plain = PLAIN ? call.plain + at : nullptr;
        grid_backward_table<D, F, SMOOTH, HASHED, DIRECTED, PLAIN>(level, x, v, a.bounded, call.grad + at, plain,
                                                                   AtomicAdd<F>{call.out});
      };
      if constexpr (DIRECTED)
        if (call.plain) return add.template operator()<true>();
      add.template operator()<false>();
    } else {
      float grad_x[D] = {};
      grid_backward_x<D, F, SMOOTH, HASHED, DIRECTED>(level, x, v, a.bounded, table, call.grad + at, grad_x);
      for (int d = 0; d < D; ++d) atomicAdd(call.out + i * D + d, grad_x[d]);
    }
  };
  if (level.hashed) run.template operator()<true>();
  else run.template operator()<false>();
}

template <int D, int F, bool SMOOTH, bool DIRECTED, class T>
void launch(const GridCall& call, GridPass pass, void* stream) {
  constexpr int THREADS = 256;
  const dim3 blocks(static_cast<unsigned>((call.args.points + THREADS - 1) / THREADS), call.args.level_count);
  const auto s = static_cast<cudaStream_t>(stream);
  const auto run = [&]<GridPass PASS>() {
    grid_kernel<D, F, SMOOTH, DIRECTED, T, PASS><<<blocks, THREADS, 0, s>>>(call);
  };
  switch (pass) {
    case GridPass::forward: run.template operator()<GridPass::forward>(); break;
    case GridPass::backward_table: run.template operator()<GridPass::backward_table>(); break;
    case GridPass::backward_x: run.template operator()<GridPass::backward_x>(); break;
  }
}

}  // namespace

void grid_cuda(const GridCall& call, GridPass pass, void* stream) {
  dispatch_grid(call, [&]<int D, int F, bool SMOOTH, bool DIRECTED>() {
    if (call.half) launch<D, F, SMOOTH, DIRECTED, half_t>(call, pass, stream);
    else launch<D, F, SMOOTH, DIRECTED, float>(call, pass, stream);
  });
}

}  // namespace fieldbook
