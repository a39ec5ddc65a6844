// Binding of grid_encode, and its launch on the CPU.
#include "grid.h"

#include <cstring>
#include <vector>

#include "bind.h"
#include "launch.h"

namespace fieldbook {

#if !defined(FIELDBOOK_CUDA)
namespace {

constexpr int LANES = 16;

// Rows [N, D] with each axis in a row of its own, so that blocks of points load as vectors.
template <int D>
std::vector<float> by_axis(const float* x, int64_t points, int64_t padded) {
  std::vector<float> axes(D * padded, 0.5f);
  torch::stable::parallel_for(0, points, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int d = 0; d < D; ++d) axes[d * padded + i] = x[i * D + d];
  });
  return axes;
}

// Points, and directions where there are any, by axis.
struct Axes {
  const float* x;
  const float* along;
  int64_t padded;
};

// Cells, rows and factors of a block of points at one level: the body of ops/grid.h, one point per vector lane.
template <int D, bool SMOOTH, bool HASHED, bool DIRECTED>
struct Block {
  static constexpr int CORNERS = 1 << D;
  alignas(64) uint32_t row[CORNERS][LANES];
  alignas(64) float weight[CORNERS][LANES];

  template <bool WEIGHTS>
  FB_HD void fill(const GridLevel& level, const Axes& axes, int64_t first, bool bounded) {
    uint32_t outside = 0;
#pragma omp simd reduction(| : outside)
    for (int lane = 0; lane < LANES; ++lane) {
      float x[D], v[D] = {};
      for (int d = 0; d < D; ++d) x[d] = axes.x[d * axes.padded + first + lane];
      if constexpr (DIRECTED)
        for (int d = 0; d < D; ++d) v[d] = axes.along[d * axes.padded + first + lane];
      const GridCell<D> here = grid_cell<D, SMOOTH>(level, x, bounded);
      for (int c = 0; c < CORNERS; ++c) {
        uint32_t at[D];
        for (int d = 0; d < D; ++d) at[d] = here.corner[d] + (c >> d & 1);
        const uint32_t r = grid_row<D, HASHED>(level, at);
        row[c][lane] = r;
        outside |= !HASHED & (r >= level.rows);
        if constexpr (WEIGHTS) weight[c][lane] = here.inside ? factor<D, DIRECTED>(here, c, v) : 0.0f;
      }
    }
    if (outside)
      for (int c = 0; c < CORNERS; ++c)
        for (int lane = 0; lane < LANES; ++lane) row[c][lane] = wrapped(row[c][lane], level.rows);
  }

  // `gradient` [D][LANES]: of the sum over corners of factor * dot, in x. The cells are found again: cheaper than to
  // keep the slopes of eight corners along three axes.
  FB_HD void slopes(const GridLevel& level, const Axes& axes, int64_t first, bool bounded,
                    const float (&dot)[CORNERS][LANES], float (&gradient)[D][LANES]) const {
#pragma omp simd
    for (int lane = 0; lane < LANES; ++lane) {
      float x[D], v[D] = {};
      for (int d = 0; d < D; ++d) x[d] = axes.x[d * axes.padded + first + lane];
      if constexpr (DIRECTED)
        for (int d = 0; d < D; ++d) v[d] = axes.along[d * axes.padded + first + lane];
      const GridCell<D> here = grid_cell<D, SMOOTH>(level, x, bounded);
      for (int d = 0; d < D; ++d) {
        float sum = 0.0f;
        for (int c = 0; c < CORNERS; ++c) sum += factor_slope<D, DIRECTED>(here, c, d, v) * dot[c][lane];
        gradient[d][lane] = here.inside ? sum : 0.0f;
      }
    }
  }
};

template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, class T>
void forward_level(const GridCall& call, int32_t l, const Axes& axes, int64_t begin, int64_t end) {
  const GridArgs& a = call.args;
  const GridLevel level = a.levels[l];
  const T* table = static_cast<const T*>(call.table) + level.offset * F;
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  Block<D, SMOOTH, HASHED, DIRECTED> block;
  for (int64_t i = begin; i < end; i += LANES) {
    block.template fill<true>(level, axes, i, a.bounded);
    const int lanes = static_cast<int>(end - i < LANES ? end - i : LANES);
    for (int lane = 0; lane < lanes; ++lane) {
      float sum[F] = {};
      for (int c = 0; c < block.CORNERS; ++c) {
        const T* entry = table + static_cast<int64_t>(block.row[c][lane]) * F;
        for (int f = 0; f < F; ++f) sum[f] += block.weight[c][lane] * to_float(entry[f]);
      }
      float* out = call.out + (i + lane) * width + l * F;
      for (int f = 0; f < F; ++f) out[f] = sum[f];
    }
  }
}

template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED>
void backward_table_level(const GridCall& call, int32_t l, const Axes& axes) {
  const GridArgs& a = call.args;
  const GridLevel level = a.levels[l];
  float* table = call.out + level.offset * F;
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  Block<D, SMOOTH, HASHED, DIRECTED> block;
  for (int64_t i = 0; i < a.points; i += LANES) {
    block.template fill<true>(level, axes, i, a.bounded);
    const int lanes = static_cast<int>(a.points - i < LANES ? a.points - i : LANES);
    for (int lane = 0; lane < lanes; ++lane) {
      const float* grad = call.grad + (i + lane) * width + l * F;
      for (int c = 0; c < block.CORNERS; ++c) {
        float* entry = table + static_cast<int64_t>(block.row[c][lane]) * F;
        for (int f = 0; f < F; ++f) entry[f] += block.weight[c][lane] * grad[f];
      }
    }
  }
}

template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, class T>
void backward_x_level(const GridCall& call, int32_t l, const Axes& axes, int64_t begin, int64_t end) {
  const GridArgs& a = call.args;
  const GridLevel level = a.levels[l];
  const T* table = static_cast<const T*>(call.table) + level.offset * F;
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  Block<D, SMOOTH, HASHED, DIRECTED> block;
  alignas(64) float dot[block.CORNERS][LANES] = {}, gradient[D][LANES];
  for (int64_t i = begin; i < end; i += LANES) {
    block.template fill<false>(level, axes, i, a.bounded);
    const int lanes = static_cast<int>(end - i < LANES ? end - i : LANES);
    for (int lane = 0; lane < lanes; ++lane) {
      const float* grad = call.grad + (i + lane) * width + l * F;
      for (int c = 0; c < block.CORNERS; ++c) {
        const T* entry = table + static_cast<int64_t>(block.row[c][lane]) * F;
        float sum = 0.0f;
        for (int f = 0; f < F; ++f) sum += to_float(entry[f]) * grad[f];
        dot[c][lane] = sum;
      }
    }
    block.slopes(level, axes, i, a.bounded, dot, gradient);
    for (int lane = 0; lane < lanes; ++lane)
      for (int d = 0; d < D; ++d) call.out[(i + lane) * D + d] += gradient[d][lane];
  }
}

// Each thread takes a run of points and walks it once per level, so that one level's table stays in the cache; the
// table's gradient is instead parallel over levels, so that no row has two writers and the order of its sums does not
// depend on the threads. Fine levels cost more than coarse ones: dealing them out like cards balances the threads.
template <int D, int F, bool SMOOTH, bool DIRECTED, class T>
void run_pass(const GridCall& call, GridPass pass) {
  const GridArgs& a = call.args;
  const int64_t padded = (a.points + LANES - 1) / LANES * LANES;
  const std::vector<float> positions = by_axis<D>(a.x, a.points, padded), directions =
      DIRECTED ? by_axis<D>(a.along, a.points, padded) : std::vector<float>();
  const Axes axes{positions.data(), directions.data(), padded};
  const auto points = [&](int32_t l, int64_t begin, int64_t end) {
    const auto run = [&]<bool HASHED>() {
      if (pass == GridPass::forward) forward_level<D, F, SMOOTH, HASHED, DIRECTED, T>(call, l, axes, begin, end);
      else backward_x_level<D, F, SMOOTH, HASHED, DIRECTED, T>(call, l, axes, begin, end);
    };
    if (a.levels[l].hashed) run.template operator()<true>();
    else run.template operator()<false>();
  };
  const auto rows = [&](int32_t l) {
    if (a.levels[l].hashed) backward_table_level<D, F, SMOOTH, true, DIRECTED>(call, l, axes);
    else backward_table_level<D, F, SMOOTH, false, DIRECTED>(call, l, axes);
  };
  if (pass == GridPass::backward_table) {
    const int64_t hands = static_cast<int64_t>(torch::stable::get_num_threads());
    torch::stable::parallel_for(0, hands, 1, [&](int64_t begin, int64_t end) {
      for (int64_t hand = begin; hand < end; ++hand)
        for (int64_t l = hand; l < a.level_count; l += hands)
          if (a.level_mask >> l & 1) rows(static_cast<int32_t>(l));
    });
    return;
  }
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  torch::stable::parallel_for(0, padded / LANES, 16, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * LANES, last = end * LANES < a.points ? end * LANES : a.points;
    for (int32_t l = 0; l < a.level_count; ++l) {
      if (a.level_mask >> l & 1) points(l, first, last);
      else if (pass == GridPass::forward)
        for (int64_t i = first; i < last; ++i) std::memset(call.out + i * width + l * F, 0, sizeof(float) * F);
    }
  });
}

void grid_cpu(const GridCall& call, GridPass pass) {
  dispatch_grid(call, [&]<int D, int F, bool SMOOTH, bool DIRECTED>() {
    if (call.half && pass != GridPass::backward_table) run_pass<D, F, SMOOTH, DIRECTED, half_t>(call, pass);
    else run_pass<D, F, SMOOTH, DIRECTED, float>(call, pass);
  });
}

}  // namespace
#endif

namespace {

// `along` [N, D], or [0] for none. `levels` [L, 6] int64 on the CPU: scale and shift (float bits), stride, rows, offset,
// hashed. `options`: features, smooth, half, bounded, level mask.
GridCall make_call(const Tensor& x, const Tensor& along, const Tensor& levels, const Tensor& options) {
  const int64_t* o = in<int64_t>(options);
  GridCall call{};
  call.features = static_cast<int32_t>(o[0]);
  call.smooth = static_cast<int32_t>(o[1]);
  call.half = static_cast<int32_t>(o[2]);
  call.dims = static_cast<int32_t>(x.size(1));
  call.args.x = in<float>(x);
  call.args.along = along.dim() == 2 ? in<float>(along) : nullptr;
  call.args.points = x.size(0);
  call.args.bounded = static_cast<int32_t>(o[3]);
  call.args.level_mask = static_cast<uint32_t>(o[4]);
  call.args.level_count = static_cast<int32_t>(levels.size(0));
  const int64_t* row = in<int64_t>(levels);
  for (int32_t l = 0; l < call.args.level_count; ++l, row += 6) {
    GridLevel& level = call.args.levels[l];
    const uint32_t scale = static_cast<uint32_t>(row[0]), shift = static_cast<uint32_t>(row[1]);
    std::memcpy(&level.scale, &scale, sizeof scale);
    std::memcpy(&level.shift, &shift, sizeof shift);
    level.stride = static_cast<uint32_t>(row[2]);
    level.rows = static_cast<uint32_t>(row[3]);
    level.offset = row[4];
    level.hashed = static_cast<int32_t>(row[5]);
  }
  return call;
}

void run(const GridCall& call, GridPass pass, const Tensor& x) {
  if (call.args.points == 0) return;
#if defined(FIELDBOOK_CUDA)
  grid_cuda(call, pass, current_stream(x));
#else
  grid_cpu(call, pass);
#endif
}

void grid_forward_op(Tensor x, Tensor along, Tensor table, Tensor levels, Tensor options, Tensor result) {
  GridCall call = make_call(x, along, levels, options);
  call.table = table.data_ptr();
  call.out = out<float>(result);
  run(call, GridPass::forward, x);
}

void grid_backward_table_op(Tensor x, Tensor along, Tensor grad, Tensor levels, Tensor options, Tensor result) {
  GridCall call = make_call(x, along, levels, options);
  call.grad = in<float>(grad);
  call.out = out<float>(result);
  run(call, GridPass::backward_table, x);
}

void grid_backward_x_op(Tensor x, Tensor along, Tensor table, Tensor grad, Tensor levels, Tensor options,
                        Tensor result) {
  GridCall call = make_call(x, along, levels, options);
  call.table = table.data_ptr();
  call.grad = in<float>(grad);
  call.out = out<float>(result);
  run(call, GridPass::backward_x, x);
}

}  // namespace
}  // namespace fieldbook

#define FB_GRID(name, more) name "(Tensor x, Tensor along, " more ", Tensor levels, Tensor options, Tensor(a!) result) -> ()"

FB_LIBRARY(m) {
  m.def(FB_GRID("grid_forward", "Tensor table"));
  m.def(FB_GRID("grid_backward_table", "Tensor grad"));
  m.def(FB_GRID("grid_backward_x", "Tensor table, Tensor grad"));
}

FB_LIBRARY_IMPL(m) {
  m.impl("grid_forward", TORCH_BOX(&fieldbook::grid_forward_op));
  m.impl("grid_backward_table", TORCH_BOX(&fieldbook::grid_backward_table_op));
  m.impl("grid_backward_x", TORCH_BOX(&fieldbook::grid_backward_x_op));
}
