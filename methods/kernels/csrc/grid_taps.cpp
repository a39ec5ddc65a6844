// Binding of grid_encode_taps, and its launch on the CPU.
#include "grid_taps.h"

#include <cstring>

#include "grid_call.h"
#if !defined(FIELDBOOK_CUDA)
#include "grid_blocks.h"
#endif

namespace fieldbook {

#if !defined(FIELDBOOK_CUDA)
namespace {

// One tap of a block of points at one level: cells and weights, and which lanes' taps lie apart from the points' cells.
template <int D, bool SMOOTH, bool HASHED>
struct TapBlock {
  static constexpr int CORNERS = 1 << D;
  alignas(64) uint32_t home[D][LANES];    // of the points' cells, known once place() had k = 0
  alignas(64) uint32_t corner[D][LANES];
  alignas(64) uint32_t row[CORNERS][LANES];
  alignas(64) float weight[CORNERS][LANES];
  alignas(64) uint32_t apart[LANES];

  // Returns how many lanes lie apart.
  FB_HD int place(const GridLevel& level, const Axes& axes, int64_t first, const Taps& taps, int k, bool bounded) {
    uint32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int lane = 0; lane < LANES; ++lane) {
      float x[D], at[D];
      bool free[D];
      for (int d = 0; d < D; ++d) x[d] = axes.x[d * axes.padded + first + lane];
      tap_at<D>(taps, k, x, at, free);
      const GridCell<D> cell = grid_cell<D, SMOOTH>(level, at, bounded);
      uint32_t moved = 0;
      for (int d = 0; d < D; ++d) {
        if (k == 0) home[d][lane] = cell.corner[d];
        corner[d][lane] = cell.corner[d];
        moved |= cell.corner[d] ^ home[d][lane];
      }
      apart[lane] = moved != 0;
      count += moved != 0;
      for (int c = 0; c < CORNERS; ++c) weight[c][lane] = cell.inside ? corner_weight<D>(cell, c) : 0.0f;
    }
    return static_cast<int>(count);
  }

  FB_HD void find_rows(const GridLevel& level) {
#pragma omp simd
    for (int lane = 0; lane < LANES; ++lane)
      for (int c = 0; c < CORNERS; ++c) {
        uint32_t at[D];
        for (int d = 0; d < D; ++d) at[d] = corner[d][lane] + (c >> d & 1);
        const uint32_t r = grid_row<D, HASHED>(level, at);
        row[c][lane] = HASHED ? r : wrapped(r, level.rows);
      }
  }
};

// What the three passes share: a level, its points, and walks through them.
template <int D, int F, bool SMOOTH, bool HASHED>
struct TapLevel {
  using Points = Block<D, SMOOTH, HASHED, Factors::none>;
  using Tap = TapBlock<D, SMOOTH, HASHED>;
  static constexpr int CORNERS = 1 << D;

  const TapsCall& call;
  const Axes& axes;
  const int32_t l;
  const GridArgs& args = call.grid.args;
  const GridLevel level = args.levels[l];
  const int64_t width = static_cast<int64_t>(args.level_count) * F;

  // Of tap k of point i, in [N, 1 + K, L * F].
  FB_HD int64_t at(int64_t i, int k) const { return (i * (1 + call.taps.count) + k) * width + l * F; }

  template <bool WRITTEN, class T, class Use>
  FB_HD void each_block(const T* table, int64_t begin, int64_t end, const Use& use) const {
    const bool far = is_far<D>(level, F * sizeof(T));
    const auto fill = [&](Points& block, int64_t i) {
      block.fill(level, axes, i, args.bounded);
      if (far) block.template fetch<WRITTEN, F>(table);
    };
    in_blocks<Points>(begin, end, fill, [&](const Points& block, int64_t i) {
      use(block, i, static_cast<int>(end - i < LANES ? end - i : LANES));
    });
  }

  template <class T>
  FB_HD static void load(const T* table, const Points& block, float (&entry)[CORNERS][F][LANES]) {
    for (int lane = 0; lane < LANES; ++lane)
      for (int c = 0; c < CORNERS; ++c)
        for (int f = 0; f < F; ++f)
          entry[c][f][lane] = to_float(table[static_cast<int64_t>(block.row[c][lane]) * F + f]);
  }

  FB_HD void load_grad(int64_t i, int k, int lanes, float (&grad)[F][LANES]) const {
    for (int lane = 0; lane < lanes; ++lane)
      for (int f = 0; f < F; ++f) grad[f][lane] = call.grid.grad[at(i + lane, k) + f];
  }
};

template <int D, int F, bool SMOOTH, bool HASHED, class T>
void forward_level(const TapsCall& call, int32_t l, const Axes& axes, int64_t begin, int64_t end) {
  using Level = TapLevel<D, F, SMOOTH, HASHED>;
  const Level here{call, axes, l};
  const T* table = static_cast<const T*>(call.grid.table) + here.level.offset * F;
  alignas(64) float entry[Level::CORNERS][F][LANES], sum[F][LANES];
  typename Level::Tap tap;
  here.template each_block<false>(table, begin, end, [&](const typename Level::Points& block, int64_t i, int lanes) {
    Level::load(table, block, entry);
    for (int k = 0; k <= call.taps.count; ++k) {
      const int apart = tap.place(here.level, axes, i, call.taps, k, here.args.bounded);
      if (apart < LANES)
        for (int f = 0; f < F; ++f)
#pragma omp simd
          for (int lane = 0; lane < LANES; ++lane) {
            float total = 0.0f;
            for (int c = 0; c < Level::CORNERS; ++c) total += tap.weight[c][lane] * entry[c][f][lane];
            sum[f][lane] = total;
          }
      if (apart) tap.find_rows(here.level);
      for (int lane = 0; lane < lanes; ++lane) {
        float* out = call.grid.out + here.at(i + lane, k);
        float total[F] = {};
        if (tap.apart[lane]) {
          for (int c = 0; c < Level::CORNERS; ++c) {
            const T* other = table + static_cast<int64_t>(tap.row[c][lane]) * F;
            for (int f = 0; f < F; ++f) total[f] += tap.weight[c][lane] * to_float(other[f]);
          }
          for (int f = 0; f < F; ++f) out[f] = total[f];
        } else {
          for (int f = 0; f < F; ++f) out[f] = sum[f][lane];
        }
      }
    }
  });
}

template <int D, int F, bool SMOOTH, bool HASHED>
void backward_table_level(const TapsCall& call, int32_t l, const Axes& axes) {
  using Level = TapLevel<D, F, SMOOTH, HASHED>;
  const Level here{call, axes, l};
  float* table = call.grid.out + here.level.offset * F;
  alignas(64) float held[Level::CORNERS][F][LANES], grad[F][LANES] = {};
  typename Level::Tap tap;
  const auto use = [&](const typename Level::Points& block, int64_t i, int lanes) {
    std::memset(held, 0, sizeof held);
    for (int k = 0; k <= call.taps.count; ++k) {
      const int apart = tap.place(here.level, axes, i, call.taps, k, here.args.bounded);
      here.load_grad(i, k, lanes, grad);
      if (apart < LANES)
        for (int c = 0; c < Level::CORNERS; ++c)
          for (int f = 0; f < F; ++f)
#pragma omp simd
            for (int lane = 0; lane < LANES; ++lane)
              held[c][f][lane] += tap.apart[lane] ? 0.0f : tap.weight[c][lane] * grad[f][lane];
      if (!apart) continue;
      tap.find_rows(here.level);
      for (int lane = 0; lane < lanes; ++lane)
        if (tap.apart[lane])
          for (int c = 0; c < Level::CORNERS; ++c) {
            float* other = table + static_cast<int64_t>(tap.row[c][lane]) * F;
            for (int f = 0; f < F; ++f) other[f] += tap.weight[c][lane] * grad[f][lane];
          }
    }
    for (int lane = 0; lane < lanes; ++lane)
      for (int c = 0; c < Level::CORNERS; ++c) {
        float* entry = table + static_cast<int64_t>(block.row[c][lane]) * F;
        for (int f = 0; f < F; ++f) entry[f] += held[c][f][lane];
      }
  };
  here.template each_block<true>(table, 0, here.args.points, use);
}

// Adds to `gradient` [D][LANES] that of the sum over corners of weight * dot, in x, where tap k moves with x.
template <int D, bool SMOOTH>
FB_HD void add_slopes(const GridLevel& level, const Axes& axes, int64_t first, const Taps& taps, int k, bool bounded,
                      const float (&dot)[1 << D][LANES], float (&gradient)[D][LANES]) {
#pragma omp simd
  for (int lane = 0; lane < LANES; ++lane) {
    float x[D], at[D];
    bool free[D];
    for (int d = 0; d < D; ++d) x[d] = axes.x[d * axes.padded + first + lane];
    tap_at<D>(taps, k, x, at, free);
    const GridCell<D> cell = grid_cell<D, SMOOTH>(level, at, bounded);
    for (int d = 0; d < D; ++d) {
      float sum = 0.0f;
      for (int c = 0; c < (1 << D); ++c) sum += corner_slope<D>(cell, c, d) * dot[c][lane];
      gradient[d][lane] += cell.inside && free[d] ? sum : 0.0f;
    }
  }
}

template <int D, int F, bool SMOOTH, bool HASHED, class T>
void backward_x_level(const TapsCall& call, int32_t l, const Axes& axes, int64_t begin, int64_t end) {
  using Level = TapLevel<D, F, SMOOTH, HASHED>;
  const Level here{call, axes, l};
  const T* table = static_cast<const T*>(call.grid.table) + here.level.offset * F;
  alignas(64) float entry[Level::CORNERS][F][LANES], grad[F][LANES] = {}, dot[Level::CORNERS][LANES];
  alignas(64) float gradient[D][LANES];
  typename Level::Tap tap;
  here.template each_block<false>(table, begin, end, [&](const typename Level::Points& block, int64_t i, int lanes) {
    Level::load(table, block, entry);
    std::memset(gradient, 0, sizeof gradient);
    for (int k = 0; k <= call.taps.count; ++k) {
      const int apart = tap.place(here.level, axes, i, call.taps, k, here.args.bounded);
      here.load_grad(i, k, lanes, grad);
      for (int c = 0; c < Level::CORNERS; ++c)
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane) {
          float total = 0.0f;
          for (int f = 0; f < F; ++f) total += entry[c][f][lane] * grad[f][lane];
          dot[c][lane] = total;
        }
      if (apart) {
        tap.find_rows(here.level);
        for (int lane = 0; lane < lanes; ++lane)
          if (tap.apart[lane])
            for (int c = 0; c < Level::CORNERS; ++c) {
              const T* other = table + static_cast<int64_t>(tap.row[c][lane]) * F;
              float total = 0.0f;
              for (int f = 0; f < F; ++f) total += to_float(other[f]) * grad[f][lane];
              dot[c][lane] = total;
            }
      }
      add_slopes<D, SMOOTH>(here.level, axes, i, call.taps, k, here.args.bounded, dot, gradient);
    }
    for (int lane = 0; lane < lanes; ++lane)
      for (int d = 0; d < D; ++d) call.grid.out[(i + lane) * D + d] += gradient[d][lane];
  });
}

template <int D, int F, bool SMOOTH, class T>
void run_points(const TapsCall& call, GridPass pass, const Axes& axes) {
  const GridArgs& a = call.grid.args;
  const int64_t width = static_cast<int64_t>(a.level_count) * F, taps = 1 + call.taps.count;
  each_run(a, [&](int32_t l, int64_t begin, int64_t end) {
    if (!(a.level_mask >> l & 1)) {
      if (pass == GridPass::forward)
        for (int64_t i = begin * taps; i < end * taps; ++i)
          std::memset(call.grid.out + i * width + l * F, 0, sizeof(float) * F);
      return;
    }
    const auto run = [&]<bool HASHED>() {
      if (pass == GridPass::forward) forward_level<D, F, SMOOTH, HASHED, T>(call, l, axes, begin, end);
      else backward_x_level<D, F, SMOOTH, HASHED, T>(call, l, axes, begin, end);
    };
    if (a.levels[l].hashed) run.template operator()<true>();
    else run.template operator()<false>();
  });
}

void grid_taps_cpu(const TapsCall& call, GridPass pass) {
  dispatch_shape(call.grid, [&]<int D, int F, bool SMOOTH>() {
    const GridArgs& a = call.grid.args;
    const int64_t padded = padded_to_lanes(a.points);
    const auto x = by_axis<D>(a.x, a.points, padded);
    const Axes axes{x.get(), nullptr, padded};
    if (pass == GridPass::backward_table)
      each_level(a, [&](int32_t l) {
        if (a.levels[l].hashed) backward_table_level<D, F, SMOOTH, true>(call, l, axes);
        else backward_table_level<D, F, SMOOTH, false>(call, l, axes);
      });
    else if (call.grid.half) run_points<D, F, SMOOTH, half_t>(call, pass, axes);
    else run_points<D, F, SMOOTH, float>(call, pass, axes);
  });
}

}  // namespace
#endif

namespace {

// `options`: those of grid_encode, then whether taps are clamped.
TapsCall make_taps_call(const Tensor& x, const Tensor& offsets, const Tensor& levels, const Tensor& options) {
  TapsCall call{};
  call.grid = make_call(x, levels, options);
  call.taps.offsets = in<float>(offsets);
  call.taps.count = static_cast<int32_t>(offsets.size(0));
  call.taps.clamped = static_cast<int32_t>(in<int64_t>(options)[5]);
  return call;
}

void run(const TapsCall& call, GridPass pass, const Tensor& x) {
  if (call.grid.args.points == 0) return;
#if defined(FIELDBOOK_CUDA)
  grid_taps_cuda(call, pass, current_stream(x));
#else
  grid_taps_cpu(call, pass);
#endif
}

void grid_taps_forward_op(Tensor x, Tensor offsets, Tensor table, Tensor levels, Tensor options, Tensor result) {
  TapsCall call = make_taps_call(x, offsets, levels, options);
  call.grid.table = table.data_ptr();
  call.grid.out = out<float>(result);
  run(call, GridPass::forward, x);
}

void grid_taps_backward_table_op(Tensor x, Tensor offsets, Tensor grad, Tensor levels, Tensor options, Tensor result) {
  TapsCall call = make_taps_call(x, offsets, levels, options);
  call.grid.grad = in<float>(grad);
  call.grid.out = out<float>(result);
  run(call, GridPass::backward_table, x);
}

void grid_taps_backward_x_op(Tensor x, Tensor offsets, Tensor table, Tensor grad, Tensor levels, Tensor options,
                             Tensor result) {
  TapsCall call = make_taps_call(x, offsets, levels, options);
  call.grid.table = table.data_ptr();
  call.grid.grad = in<float>(grad);
  call.grid.out = out<float>(result);
  run(call, GridPass::backward_x, x);
}

}  // namespace
}  // namespace fieldbook

#define FB_TAPS(name, more) \
  name "(Tensor x, Tensor offsets, " more ", Tensor levels, Tensor options, Tensor(a!) result) -> ()"

FB_LIBRARY(m) {
  m.def(FB_TAPS("grid_taps_forward", "Tensor table"));
  m.def(FB_TAPS("grid_taps_backward_table", "Tensor grad"));
  m.def(FB_TAPS("grid_taps_backward_x", "Tensor table, Tensor grad"));
}

FB_LIBRARY_IMPL(m) {
  m.impl("grid_taps_forward", TORCH_BOX(&fieldbook::grid_taps_forward_op));
  m.impl("grid_taps_backward_table", TORCH_BOX(&fieldbook::grid_taps_backward_table_op));
  m.impl("grid_taps_backward_x", TORCH_BOX(&fieldbook::grid_taps_backward_x_op));
}
