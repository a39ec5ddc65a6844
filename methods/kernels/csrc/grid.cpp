// Binding of grid_encode, and its launch on the CPU.
#include <cstring>

#include "grid_call.h"
#if !defined(FIELDBOOK_CUDA)
#include "grid_blocks.h"
#endif

namespace fieldbook {

#if !defined(FIELDBOOK_CUDA)
namespace {

constexpr Needs needs_of(bool directed) { return directed ? Needs::slope : Needs::weight; }

template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, class T>
void forward_level(const GridCall& call, int32_t l, const Axes& axes, int64_t begin, int64_t end) {
  using Points = Block<D, SMOOTH, HASHED, needs_of(DIRECTED)>;
  const GridArgs& a = call.args;
  const GridLevel level = a.levels[l];
  const T* table = static_cast<const T*>(call.table) + level.offset * F;
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  const bool far = is_far<D>(level, F * sizeof(T));
  const auto fill = [&](Points& block, int64_t i) {
    block.fill(level, axes, i, a.bounded);
    if (far) block.template fetch<false, F>(table);
  };
  in_blocks<Points>(begin, end, fill, [&](const Points& block, int64_t i) {
    const int lanes = static_cast<int>(end - i < LANES ? end - i : LANES);
    for (int lane = 0; lane < lanes; ++lane) {
      float sum[F] = {};
      for (int c = 0; c < Points::CORNERS; ++c) {
        const T* entry = table + static_cast<int64_t>(block.row[c][lane]) * F;
        const float w = DIRECTED ? block.slope[c][lane] : block.weight[c][lane];
        for (int f = 0; f < F; ++f) sum[f] += w * to_float(entry[f]);
      }
      float* out = call.out + (i + lane) * width + l * F;
      for (int f = 0; f < F; ++f) out[f] = sum[f];
    }
  });
}

template <int D, int F, bool SMOOTH, bool HASHED, Needs NEEDS>
void backward_table_level(const GridCall& call, int32_t l, const Axes& axes) {
  using Points = Block<D, SMOOTH, HASHED, NEEDS>;
  const GridArgs& a = call.args;
  const GridLevel level = a.levels[l];
  float* table = call.out + level.offset * F;
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  const bool far = is_far<D>(level, F * sizeof(float));
  const auto fill = [&](Points& block, int64_t i) {
    block.fill(level, axes, i, a.bounded);
    if (far) block.template fetch<true, F>(table);
  };
  in_blocks<Points>(0, a.points, fill, [&](const Points& block, int64_t i) {
    const int lanes = static_cast<int>(a.points - i < LANES ? a.points - i : LANES);
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t at = (i + lane) * width + l * F;
      for (int c = 0; c < Points::CORNERS; ++c) {
        float* entry = table + static_cast<int64_t>(block.row[c][lane]) * F;
        if constexpr (NEEDS == Needs::weight)
          for (int f = 0; f < F; ++f) entry[f] += block.weight[c][lane] * call.grad[at + f];
        if constexpr (NEEDS == Needs::slope)
          for (int f = 0; f < F; ++f) entry[f] += block.slope[c][lane] * call.grad[at + f];
        if constexpr (NEEDS == Needs::both)
          for (int f = 0; f < F; ++f)
            entry[f] += block.slope[c][lane] * call.grad[at + f] + block.weight[c][lane] * call.plain[at + f];
      }
    }
  });
}

template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, class T>
void backward_x_level(const GridCall& call, int32_t l, const Axes& axes, int64_t begin, int64_t end) {
  using Points = Block<D, SMOOTH, HASHED, Needs::rows>;
  const GridArgs& a = call.args;
  const GridLevel level = a.levels[l];
  const T* table = static_cast<const T*>(call.table) + level.offset * F;
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  const bool far = is_far<D>(level, F * sizeof(T));
  const auto fill = [&](Points& block, int64_t i) {
    block.fill(level, axes, i, a.bounded);
    if (far) block.template fetch<false, F>(table);
  };
  alignas(64) float dot[Points::CORNERS][LANES] = {}, along[D][LANES] = {}, gradient[D][LANES];
  Cells<D, SMOOTH> cells;
  in_blocks<Points>(begin, end, fill, [&](const Points& block, int64_t i) {
    const int lanes = static_cast<int>(end - i < LANES ? end - i : LANES);
    for (int lane = 0; lane < lanes; ++lane) {
      const float* grad = call.grad + (i + lane) * width + l * F;
      for (int c = 0; c < Points::CORNERS; ++c) {
        const T* entry = table + static_cast<int64_t>(block.row[c][lane]) * F;
        float sum = 0.0f;
        for (int f = 0; f < F; ++f) sum += to_float(entry[f]) * grad[f];
        dot[c][lane] = sum;
      }
    }
    // The cells are found again: cheaper than to keep them from when the rows were.
    cells.fill(level, axes, i, a.bounded);
    if constexpr (DIRECTED)
      for (int d = 0; d < D; ++d) std::memcpy(along[d], axes.along + d * axes.padded + i, sizeof along[d]);
    cells.template find_gradient<DIRECTED>(dot[0], along[0], gradient, a.bounded);
    for (int lane = 0; lane < lanes; ++lane)
      for (int d = 0; d < D; ++d) call.out[(i + lane) * D + d] += gradient[d][lane];
  });
}

template <int D, int F, bool SMOOTH, bool DIRECTED, class T>
void run_points(const GridCall& call, GridPass pass, const Axes& axes) {
  const GridArgs& a = call.args;
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  each_run(a.points, a.level_count, [&](int32_t l, int64_t begin, int64_t end) {
    if (!(a.level_mask >> l & 1)) {
      if (pass == GridPass::forward && !(a.left_alone >> l & 1))
        for (int64_t i = begin; i < end; ++i) std::memset(call.out + i * width + l * F, 0, sizeof(float) * F);
      return;
    }
    const auto run = [&]<bool HASHED>() {
      if (pass == GridPass::forward) forward_level<D, F, SMOOTH, HASHED, DIRECTED, T>(call, l, axes, begin, end);
      else backward_x_level<D, F, SMOOTH, HASHED, DIRECTED, T>(call, l, axes, begin, end);
    };
    if (a.levels[l].hashed) run.template operator()<true>();
    else run.template operator()<false>();
  });
}

template <int D, int F, bool SMOOTH, bool DIRECTED>
void run_rows(const GridCall& call, const Axes& axes) {
  each_alone(call.args.level_count, [&](int32_t l) {
    if (!(call.args.level_mask >> l & 1)) return;
    const auto run = [&]<Needs NEEDS>() {
      if (call.args.levels[l].hashed) backward_table_level<D, F, SMOOTH, true, NEEDS>(call, l, axes);
      else backward_table_level<D, F, SMOOTH, false, NEEDS>(call, l, axes);
    };
    if constexpr (DIRECTED) {
      if (call.plain) run.template operator()<Needs::both>();
      else run.template operator()<Needs::slope>();
    } else {
      run.template operator()<Needs::weight>();
    }
  });
}

}  // namespace

void grid_cpu(const GridCall& call, GridPass pass) {
  dispatch_grid(call, [&]<int D, int F, bool SMOOTH, bool DIRECTED>() {
    const int64_t points = call.args.points, padded = padded_to_lanes(points);
    const auto x = by_axis<D>(call.args.x, points, padded);
    const auto along = DIRECTED ? by_axis<D>(call.args.along, points, padded) : nullptr;
    const Axes axes{x.get(), along.get(), padded};
    if (pass == GridPass::backward_table) run_rows<D, F, SMOOTH, DIRECTED>(call, axes);
    else if (call.half) run_points<D, F, SMOOTH, DIRECTED, half_t>(call, pass, axes);
    else run_points<D, F, SMOOTH, DIRECTED, float>(call, pass, axes);
  });
}
#endif

namespace {

// `along` [N, D], or [0] for none.
GridCall directed_call(const Tensor& x, const Tensor& along, const Tensor& levels, const Tensor& options) {
  GridCall call = make_call(x, levels, options);
  call.args.along = along.dim() == 2 ? in<float>(along) : nullptr;
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
  GridCall call = directed_call(x, along, levels, options);
  call.table = table.data_ptr();
  call.out = out<float>(result);
  run(call, GridPass::forward, x);
}

void grid_backward_table_op(Tensor x, Tensor along, Tensor grad, Tensor plain, Tensor levels, Tensor options,
                            Tensor result) {
  GridCall call = directed_call(x, along, levels, options);
  call.grad = in<float>(grad);
  call.plain = plain.dim() == 2 ? in<float>(plain) : nullptr;
  call.out = out<float>(result);
  run(call, GridPass::backward_table, x);
}

void grid_backward_x_op(Tensor x, Tensor along, Tensor table, Tensor grad, Tensor levels, Tensor options,
                        Tensor result) {
  GridCall call = directed_call(x, along, levels, options);
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
  m.def(FB_GRID("grid_backward_table", "Tensor grad, Tensor plain"));
  m.def(FB_GRID("grid_backward_x", "Tensor table, Tensor grad"));
}

FB_LIBRARY_IMPL(m) {
  m.impl("grid_forward", TORCH_BOX(&fieldbook::grid_forward_op));
  m.impl("grid_backward_table", TORCH_BOX(&fieldbook::grid_backward_table_op));
  m.impl("grid_backward_x", TORCH_BOX(&fieldbook::grid_backward_x_op));
}
