// Binding of grid_encode_taps, and its launch on the CPU.
#include "grid_taps.h"

#include <cstring>
#include <memory>
#include <vector>

#include "grid_call.h"
#if !defined(FIELDBOOK_CUDA)
#include "grid_blocks.h"
#endif

namespace fieldbook {

#if !defined(FIELDBOOK_CUDA)
namespace {

// Neighbouring levels that a pass takes together.
struct Span {
  int32_t first, count;
};

// A block's numbers of one level and tap are few and lie far from the next tap's, so that most of a cache line is moved for
// nothing: levels go together as far as a line reaches, while their tables stay in the cache together.
template <int D, int F>
std::vector<Span> spans_of(const GridArgs& a) {
  std::vector<Span> spans;
  double kept = 0.0;
  for (int32_t l = 0; l < a.level_count; ++l) {
    const double bytes = touched_rows<D>(a.levels[l]) * F * sizeof(float);
    const auto on = [&](int32_t level) { return a.level_mask >> level & 1; };
    const bool joins = !spans.empty() && on(l) && on(l - 1) && (spans.back().count + 1) * F <= LANES &&
                       kept + bytes <= 4 << 20;
    kept = joins ? kept + bytes : bytes;
    if (joins) ++spans.back().count;
    else spans.push_back({l, 1});
  }
  return spans;
}

// One tap of a block of points at one level: weights, rows, and which lanes' taps lie apart from their points' cells. The
// rows of the others are those of tap 0, the point itself.
template <int D, bool SMOOTH>
struct Tap {
  static constexpr int CORNERS = 1 << D;
  alignas(64) uint32_t corner[D][LANES];
  alignas(64) uint32_t row[CORNERS][LANES];
  alignas(64) float weight[CORNERS][LANES];
  alignas(64) uint32_t apart[LANES];

  // Returns how many lanes lie apart.
  FB_HD uint32_t place(const GridLevel& level, const Axes& axes, int64_t first, const Shift<D>& shift, bool bounded,
                       const Tap& home) {
    uint32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int lane = 0; lane < LANES; ++lane) {
      float at[D];
      for (int d = 0; d < D; ++d) at[d] = shift(axes.x[d * axes.padded + first + lane], d);
      const GridCell<D> cell = grid_cell<D, SMOOTH>(level, at, bounded);
      uint32_t moved = 0;
      for (int d = 0; d < D; ++d) {
        corner[d][lane] = cell.corner[d];
        moved |= cell.corner[d] ^ home.corner[d][lane];
      }
      apart[lane] = moved != 0;
      count += moved != 0;
      for (int c = 0; c < CORNERS; ++c) weight[c][lane] = cell.inside ? corner_weight<D>(cell, c) : 0.0f;
    }
    return count;
  }

  template <bool HASHED>
  FB_HD void find_row(const GridLevel& level, int lane) {
    for (int c = 0; c < CORNERS; ++c) {
      uint32_t at[D];
      for (int d = 0; d < D; ++d) at[d] = corner[d][lane] + (c >> d & 1);
      const uint32_t r = grid_row<D, HASHED>(level, at);
      row[c][lane] = HASHED ? r : wrapped(r, level.rows);
    }
  }

  template <bool HASHED>
  FB_HD void find_rows(const GridLevel& level, bool all) {
    if (all) {
#pragma omp simd
      for (int lane = 0; lane < LANES; ++lane) find_row<HASHED>(level, lane);
    } else {
      for (int lane = 0; lane < LANES; ++lane)
        if (apart[lane]) find_row<HASHED>(level, lane);
    }
  }
};

// What the three passes share: levels, points, and a walk through both.
template <int D, int F, bool SMOOTH>
struct TapSpan {
  using One = Tap<D, SMOOTH>;
  static constexpr int CORNERS = 1 << D;

  const TapsCall& call;
  const Axes& axes;
  const Span span;
  const GridArgs& args = call.grid.args;
  const int count = 1 + call.taps.count;

  // A block of points at one level.
  struct Step {
    std::unique_ptr<One[]> taps;
    int64_t i;
    int32_t l;
    int lanes;
  };

  // Of tap k of a lane's point, in [N, 1 + K, L * F].
  FB_HD int64_t at(const Step& step, int lane, int k) const {
    return (((step.i + lane) * count + k) * args.level_count + step.l) * static_cast<int64_t>(F);
  }

  FB_HD void fill(Step& step, int64_t i, int32_t l, int64_t end) const {
    step.i = i, step.l = l, step.lanes = static_cast<int>(end - i < LANES ? end - i : LANES);
    const GridLevel& level = args.levels[l];
    for (int k = 0; k < count; ++k) {
      One& tap = step.taps[k];
      const uint32_t apart = tap.place(level, axes, i, Shift<D>(call.taps, k), args.bounded, k ? step.taps[0] : tap);
      if (k == 0)
        for (int lane = 0; lane < LANES; ++lane) tap.apart[lane] = 0;
      else if (!apart)
        continue;
      if (level.hashed) tap.template find_rows<true>(level, k == 0 || apart > 3);
      else tap.template find_rows<false>(level, k == 0 || apart > 3);
    }
  }

  // Asks for what a lane needs of the table and of `numbers` [N, 1 + K, L * F].
  template <GridPass PASS, class T>
  FB_HD void fetch(const Step& step, const T* table, const float* numbers, bool far, int lane) const {
    for (int k = 0; k < count; ++k) {
      if (step.l == span.first) __builtin_prefetch(numbers + at(step, lane, k), PASS == GridPass::forward, 3);
      if (far && (k == 0 || step.taps[k].apart[lane]))
        for (int c = 0; c < CORNERS; ++c)
          __builtin_prefetch(table + (args.levels[step.l].offset + step.taps[k].row[c][lane]) * F,
                             PASS == GridPass::backward_table, 3);
    }
  }

  // Calls use(step, ahead) for the blocks of points in turn and for all levels of each; use() calls ahead(lane), which asks
  // for that lane's share of the next step: all of it at once would be more than a core can wait for.
  template <GridPass PASS, class T, class Use>
  FB_HD void each_step(const T* table, const float* numbers, int64_t begin, int64_t end, const Use& use) const {
    Step steps[2];
    for (Step& step : steps) step.taps.reset(new One[count]);
    const int64_t total = (end - begin + LANES - 1) / LANES * span.count;
    for (int64_t s = 0; s <= total; ++s) {
      Step &next = steps[s & 1], &now = steps[(s & 1) ^ 1];
      const int32_t l = span.first + static_cast<int32_t>(s % span.count);
      if (s < total) fill(next, begin + s / span.count * LANES, l, end);
      const bool far = is_far<D>(args.levels[l], F * sizeof(T));
      const auto ahead = [&](int lane) {
        if (s < total) fetch<PASS>(next, table, numbers, far, lane);
      };
      if (s > 0) use(now, ahead);
    }
  }

  template <class T>
  FB_HD static void load(const T* own, const One& tap, int lane, float (&entry)[CORNERS][F]) {
    for (int c = 0; c < CORNERS; ++c)
      for (int f = 0; f < F; ++f) entry[c][f] = to_float(own[static_cast<int64_t>(tap.row[c][lane]) * F + f]);
  }
};

template <int D, int F, bool SMOOTH, class T>
void forward_span(const TapsCall& call, Span span, const Axes& axes, int64_t begin, int64_t end) {
  using Levels = TapSpan<D, F, SMOOTH>;
  const Levels here{call, axes, span};
  const T* table = static_cast<const T*>(call.grid.table);
  const auto use = [&](const typename Levels::Step& step, const auto& ahead) {
    const T* own = table + here.args.levels[step.l].offset * F;
    for (int lane = 0; lane < step.lanes; ++lane) {
      float held[Levels::CORNERS][F], other[Levels::CORNERS][F];
      here.load(own, step.taps[0], lane, held);
      for (int k = 0; k < here.count; ++k) {
        const auto& tap = step.taps[k];
        float sum[F] = {};
        const auto add = [&](const float(&entry)[Levels::CORNERS][F]) {
          for (int c = 0; c < Levels::CORNERS; ++c)
            for (int f = 0; f < F; ++f) sum[f] += tap.weight[c][lane] * entry[c][f];
        };
        if (tap.apart[lane]) here.load(own, tap, lane, other), add(other);
        else add(held);
        float* out = call.grid.out + here.at(step, lane, k);
        for (int f = 0; f < F; ++f) out[f] = sum[f];
      }
      ahead(lane);
    }
  };
  here.template each_step<GridPass::forward>(table, call.grid.out, begin, end, use);
}

template <int D, int F, bool SMOOTH>
void backward_table_span(const TapsCall& call, Span span, const Axes& axes) {
  using Levels = TapSpan<D, F, SMOOTH>;
  const Levels here{call, axes, span};
  const auto use = [&](const typename Levels::Step& step, const auto& ahead) {
    float* own = call.grid.out + here.args.levels[step.l].offset * F;
    for (int lane = 0; lane < step.lanes; ++lane) {
      float held[Levels::CORNERS][F] = {};
      for (int k = 0; k < here.count; ++k) {
        const auto& tap = step.taps[k];
        const float* grad = call.grid.grad + here.at(step, lane, k);
        if (tap.apart[lane])
          for (int c = 0; c < Levels::CORNERS; ++c) {
            float* other = own + static_cast<int64_t>(tap.row[c][lane]) * F;
            for (int f = 0; f < F; ++f) other[f] += tap.weight[c][lane] * grad[f];
          }
        else
          for (int c = 0; c < Levels::CORNERS; ++c)
            for (int f = 0; f < F; ++f) held[c][f] += tap.weight[c][lane] * grad[f];
      }
      for (int c = 0; c < Levels::CORNERS; ++c) {
        float* entry = own + static_cast<int64_t>(step.taps[0].row[c][lane]) * F;
        for (int f = 0; f < F; ++f) entry[f] += held[c][f];
      }
      ahead(lane);
    }
  };
  here.template each_step<GridPass::backward_table>(call.grid.out, call.grid.grad, 0, here.args.points, use);
}

template <int D, int F, bool SMOOTH, class T>
void backward_x_span(const TapsCall& call, Span span, const Axes& axes, int64_t begin, int64_t end) {
  using Levels = TapSpan<D, F, SMOOTH>;
  struct alignas(64) Dots {
    float of[Levels::CORNERS][LANES];
  };
  const Levels here{call, axes, span};
  const T* table = static_cast<const T*>(call.grid.table);
  const std::unique_ptr<Dots[]> dots(new Dots[here.count]());
  SlopeBlock<D, SMOOTH> slopes;
  alignas(64) float gradient[D][LANES];
  const auto use = [&](const typename Levels::Step& step, const auto& ahead) {
    const GridLevel& level = here.args.levels[step.l];
    const T* own = table + level.offset * F;
    for (int lane = 0; lane < step.lanes; ++lane) {
      float held[Levels::CORNERS][F], other[Levels::CORNERS][F];
      here.load(own, step.taps[0], lane, held);
      for (int k = 0; k < here.count; ++k) {
        const float* grad = call.grid.grad + here.at(step, lane, k);
        const auto add = [&](const float(&entry)[Levels::CORNERS][F]) {
          for (int c = 0; c < Levels::CORNERS; ++c) {
            float total = 0.0f;
            for (int f = 0; f < F; ++f) total += entry[c][f] * grad[f];
            dots[k].of[c][lane] = total;
          }
        };
        if (step.taps[k].apart[lane]) here.load(own, step.taps[k], lane, other), add(other);
        else add(held);
      }
      ahead(lane);
    }
    std::memset(gradient, 0, sizeof gradient);
    for (int k = 0; k < here.count; ++k) {
      const Shift<D> shift(call.taps, k);
      const float* x = axes.x + step.i;
      slopes.fill(level, here.args.bounded, [&](int lane, int d) { return shift(x[d * axes.padded + lane], d); });
      slopes.template fold<false>(dots[k].of[0], nullptr);
      for (int d = 0; d < D; ++d)
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane)
          gradient[d][lane] += shift.follows(x[d * axes.padded + lane], d) ? slopes.gradient[d][lane] : 0.0f;
    }
    for (int lane = 0; lane < step.lanes; ++lane)
      for (int d = 0; d < D; ++d) call.grid.out[(step.i + lane) * D + d] += gradient[d][lane];
  };
  here.template each_step<GridPass::backward_x>(table, call.grid.grad, begin, end, use);
}

template <int D, int F, bool SMOOTH, class T>
void run_points(const TapsCall& call, GridPass pass, const Axes& axes, const std::vector<Span>& spans) {
  const GridArgs& a = call.grid.args;
  const int64_t width = static_cast<int64_t>(a.level_count) * F, taps = 1 + call.taps.count;
  each_run(a.points, static_cast<int32_t>(spans.size()), [&](int32_t s, int64_t begin, int64_t end) {
    const Span span = spans[s];
    if (a.level_mask >> span.first & 1) {
      if (pass == GridPass::forward) forward_span<D, F, SMOOTH, T>(call, span, axes, begin, end);
      else backward_x_span<D, F, SMOOTH, T>(call, span, axes, begin, end);
    } else if (pass == GridPass::forward) {
      for (int64_t i = begin * taps; i < end * taps; ++i)
        std::memset(call.grid.out + i * width + span.first * F, 0, sizeof(float) * F);
    }
  });
}

void grid_taps_cpu(const TapsCall& call, GridPass pass) {
  dispatch_shape(call.grid, [&]<int D, int F, bool SMOOTH>() {
    const GridArgs& a = call.grid.args;
    const int64_t padded = padded_to_lanes(a.points);
    const auto x = by_axis<D>(a.x, a.points, padded);
    const Axes axes{x.get(), nullptr, padded};
    const std::vector<Span> spans = spans_of<D, F>(a);
    if (pass == GridPass::backward_table)
      each_alone(static_cast<int32_t>(spans.size()), [&](int32_t s) {
        if (a.level_mask >> spans[s].first & 1) backward_table_span<D, F, SMOOTH>(call, spans[s], axes);
      });
    else if (call.grid.half) run_points<D, F, SMOOTH, half_t>(call, pass, axes, spans);
    else run_points<D, F, SMOOTH, float>(call, pass, axes, spans);
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
