// Binding of grid_encode_taps, and its launch on the CPU.
#include "grid_taps.h"

#include <bit>
#include <cmath>
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

// Features up to which corners are shared: with more, a row is a vector by itself, and one that a tap finds in the nearest
// cache is nearly free.
constexpr int MOST_SHARED = 2;

// Levels on which they are: where taps seldom leave their points' cells. Elsewhere it costs more than it saves.
template <int D>
uint32_t shared_levels(const TapsCall& call) {
  const GridArgs& a = call.grid.args;
  float reach = 0.0f;
  for (int k = 0; k < call.taps.count * D; ++k) reach += std::fabs(call.taps.offsets[k]) / call.taps.count;
  uint32_t shared = 0;
  for (int32_t l = 0; l < a.level_count; ++l)
    if (reach * a.levels[l].scale < 0.05f) shared |= 1u << l;
  return shared & a.level_mask;
}

// Neighbouring levels that a pass takes together.
struct Span {
  int32_t first, count;
};

// A block's numbers of one level and tap are few and lie far from the next tap's, so that most of a cache line is moved for
// nothing: levels go together as far as a line reaches, while their tables stay in the cache together.
template <int D, int F>
std::vector<Span> spans_of(const GridArgs& a, uint32_t shared) {
  std::vector<Span> spans;
  double kept = 0.0;
  for (int32_t l = 0; l < a.level_count; ++l) {
    if (!(shared >> l & 1)) continue;
    const double bytes = touched_rows<D>(a.levels[l]) * F * sizeof(float);
    const bool joins = !spans.empty() && spans.back().first + spans.back().count == l &&
                       (spans.back().count + 1) * F <= LANES && kept + bytes <= 9 << 20;
    kept = joins ? kept + bytes : bytes;
    if (joins) ++spans.back().count;
    else spans.push_back({l, 1});
  }
  return spans;
}

struct alignas(64) Row {
  float lane[LANES];
};

// One tap of a block of points at one level: weights, rows, and which lanes' taps lie apart from their points' cells. The
// rows of the others are those of tap 0, the point itself.
template <int D>
struct Tap {
  static constexpr int CORNERS = 1 << D;
  alignas(64) uint32_t row[CORNERS][LANES];
  alignas(64) float weight[CORNERS][LANES];
  alignas(64) uint32_t apart[LANES];
  uint32_t count;  // of lanes apart

  // Calls use(lane) for those of the first `lanes` that lie apart.
  template <class Use>
  FB_HD void each_apart(int lanes, const Use& use) const {
    if (count)
      for (int lane = 0; lane < lanes; ++lane)
        if (apart[lane]) use(lane);
  }
};

// A block of points at one level. Entries and gradients come in single numbers and are used as vectors, so they are brought
// into rows of lanes.
template <int D, int F>
struct Step {
  static constexpr int CORNERS = 1 << D;
  std::unique_ptr<Tap<D>[]> taps;
  std::unique_ptr<Row[]> grad;  // of each tap, [F]
  std::unique_ptr<Row[]> dot;   // of each tap, [CORNERS]: of its entries with its gradient, where it lies apart
  Row entry[CORNERS][F];        // about the points
  int64_t i, offset;  // first point, first number of the level's table
  int32_t l;
  int lanes;
  bool far;  // its rows are many

  explicit Step(int count) : taps(new Tap<D>[count]()), grad(new Row[count * F]()), dot(new Row[count * CORNERS]()), entry{} {}
};

// What the three passes share: levels, points, and a walk through both.
template <int D, int F, bool SMOOTH, GridPass PASS, class T>
struct TapSpan {
  using Here = Step<D, F>;
  static constexpr int CORNERS = 1 << D;

  const TapsCall& call;
  const Axes& axes;
  const Span span;
  T* const table;
  const GridArgs& args = call.grid.args;
  const int count = 1 + call.taps.count;

  // Of tap k of a lane's point, in [N, 1 + K, L * F].
  FB_HD int64_t at(const Here& step, int lane, int k) const {
    return (((step.i + lane) * count + k) * args.level_count + step.l) * static_cast<int64_t>(F);
  }

  FB_HD T* entry(const Here& step, int lane, int k, int c) const {
    return table + step.offset + static_cast<int64_t>(step.taps[k].row[c][lane]) * F;
  }

  FB_HD Cells<D, SMOOTH> cells_of(const Here& step, int k) const {
    Cells<D, SMOOTH> cells;
    const Shift<D> shift(call.taps, k);
    cells.fill(args.levels[step.l], axes, step.i, args.bounded, [&](float x, int d) { return shift(x, d); });
    return cells;
  }

  FB_HD void fill(Here& step, int64_t i, int32_t l, int64_t end) const {
    step.i = i, step.l = l, step.lanes = static_cast<int>(end - i < LANES ? end - i : LANES);
    step.offset = args.levels[l].offset * F, step.far = is_far<D>(args.levels[l], F * sizeof(T));
    const Cells<D, SMOOTH> home = cells_of(step, 0);
    home.find_weights(step.taps[0].weight, args.bounded);
    find_rows(step, step.taps[0], home);
    for (int k = 1; k < count; ++k) {
      auto& tap = step.taps[k];
      const Cells<D, SMOOTH> cells = cells_of(step, k);
      cells.find_weights(tap.weight, args.bounded);
      tap.count = cells.differ(home, tap.apart);
      if (tap.count) find_rows(step, tap, cells);
    }
  }

  FB_HD void find_rows(const Here& step, Tap<D>& tap, const Cells<D, SMOOTH>& cells) const {
    const GridLevel& level = args.levels[step.l];
    if (level.hashed) cells.template find_rows<true>(level, tap.row);
    else cells.template find_rows<false>(level, tap.row);
  }

  // Asks for what a step needs of the table and of the array [N, 1 + K, L * F].
  FB_HD void fetch(const Here& step) const {
    const float* numbers = PASS == GridPass::forward ? call.grid.out : call.grid.grad;
    if (step.l == span.first)
      for (int lane = 0; lane < step.lanes; ++lane)
        for (int k = 0; k < count; ++k) __builtin_prefetch(numbers + at(step, lane, k), PASS == GridPass::forward, 3);
    if (!step.far) return;
    const auto ask = [&](int lane, int k) {
      for (int c = 0; c < CORNERS; ++c) __builtin_prefetch(entry(step, lane, k, c), PASS == GridPass::backward_table, 3);
    };
    for (int lane = 0; lane < LANES; ++lane) ask(lane, 0);
    for (int k = 1; k < count; ++k) step.taps[k].each_apart(LANES, [&](int lane) { ask(lane, k); });
  }

  FB_HD void bring(Here& step) const {
    for (int lane = 0; lane < step.lanes; ++lane) {
      if constexpr (PASS != GridPass::backward_table)
        for (int c = 0; c < CORNERS; ++c) {
          const T* from = entry(step, lane, 0, c);
          for (int f = 0; f < F; ++f) step.entry[c][f].lane[lane] = to_float(from[f]);
        }
      if constexpr (PASS != GridPass::forward)
        for (int k = 0; k < count; ++k) {
          const float* grad = call.grid.grad + at(step, lane, k);
          for (int f = 0; f < F; ++f) step.grad[k * F + f].lane[lane] = grad[f];
        }
    }
    if constexpr (PASS == GridPass::backward_x)
      for (int k = 1; k < count; ++k)
        step.taps[k].each_apart(step.lanes, [&](int lane) {
          const float* grad = call.grid.grad + at(step, lane, k);
          for (int c = 0; c < CORNERS; ++c) {
            const T* from = entry(step, lane, k, c);
            float total = 0.0f;
            for (int f = 0; f < F; ++f) total += to_float(from[f]) * grad[f];
            step.dot[k * CORNERS + c].lane[lane] = total;
          }
        });
  }

  // Calls use(step) for the blocks of points in turn and for all levels of each. A step is filled, and what it needs asked
  // for, while the one before it is under way; and between bringing its numbers and using them as vectors, which waits for
  // the stores that brought them, lies the filling of the next.
  template <class Use>
  FB_HD void each_step(int64_t begin, int64_t end, const Use& use) const {
    Here steps[2] = {Here(count), Here(count)};
    const int64_t total = (end - begin + LANES - 1) / LANES * span.count;
    for (int64_t s = 0; s <= total; ++s) {
      Here &next = steps[s & 1], &now = steps[(s & 1) ^ 1];
      if (s > 0) bring(now);
      if (s < total) {
        fill(next, begin + s / span.count * LANES, span.first + static_cast<int32_t>(s % span.count), end);
        fetch(next);
      }
      if (s > 0) use(now);
    }
  }
};

template <int D, int F, bool SMOOTH, class T>
void forward_span(const TapsCall& call, Span span, const Axes& axes, int64_t begin, int64_t end) {
  using Levels = TapSpan<D, F, SMOOTH, GridPass::forward, const T>;
  const Levels here{call, axes, span, static_cast<const T*>(call.grid.table)};
  const std::unique_ptr<Row[]> sums(new Row[here.count * F]);
  here.each_step(begin, end, [&](const typename Levels::Here& step) {
    for (int k = 0; k < here.count; ++k) {
      const auto& tap = step.taps[k];
      Row* sum = sums.get() + k * F;
      for (int f = 0; f < F; ++f)
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane) {
          float total = 0.0f;
          for (int c = 0; c < Levels::CORNERS; ++c) total += tap.weight[c][lane] * step.entry[c][f].lane[lane];
          sum[f].lane[lane] = total;
        }
      tap.each_apart(step.lanes, [&](int lane) {
        float total[F] = {};
        for (int c = 0; c < Levels::CORNERS; ++c) {
          const T* other = here.entry(step, lane, k, c);
          for (int f = 0; f < F; ++f) total[f] += tap.weight[c][lane] * to_float(other[f]);
        }
        for (int f = 0; f < F; ++f) sum[f].lane[lane] = total[f];
      });
    }
    for (int lane = 0; lane < step.lanes; ++lane)
      for (int k = 0; k < here.count; ++k) {
        float* out = call.grid.out + here.at(step, lane, k);
        for (int f = 0; f < F; ++f) out[f] = sums[k * F + f].lane[lane];
      }
  });
}

template <int D, int F, bool SMOOTH>
void backward_table_span(const TapsCall& call, Span span, const Axes& axes) {
  using Levels = TapSpan<D, F, SMOOTH, GridPass::backward_table, float>;
  const Levels here{call, axes, span, call.grid.out};
  Row held[Levels::CORNERS][F];
  here.each_step(0, here.args.points, [&](const typename Levels::Here& step) {
    std::memset(held, 0, sizeof held);
    for (int k = 0; k < here.count; ++k) {
      const auto& tap = step.taps[k];
      const Row* grad = step.grad.get() + k * F;
      for (int c = 0; c < Levels::CORNERS; ++c)
        for (int f = 0; f < F; ++f)
#pragma omp simd
          for (int lane = 0; lane < LANES; ++lane)
            held[c][f].lane[lane] += tap.apart[lane] ? 0.0f : tap.weight[c][lane] * grad[f].lane[lane];
      tap.each_apart(step.lanes, [&](int lane) {
        for (int c = 0; c < Levels::CORNERS; ++c) {
          float* other = here.entry(step, lane, k, c);
          for (int f = 0; f < F; ++f) other[f] += tap.weight[c][lane] * grad[f].lane[lane];
        }
      });
    }
    for (int lane = 0; lane < step.lanes; ++lane)
      for (int c = 0; c < Levels::CORNERS; ++c) {
        float* entry = here.entry(step, lane, 0, c);
        for (int f = 0; f < F; ++f) entry[f] += held[c][f].lane[lane];
      }
  });
}

template <int D, int F, bool SMOOTH, class T>
void backward_x_span(const TapsCall& call, Span span, const Axes& axes, int64_t begin, int64_t end) {
  using Levels = TapSpan<D, F, SMOOTH, GridPass::backward_x, const T>;
  const Levels here{call, axes, span, static_cast<const T*>(call.grid.table)};
  Row dots[Levels::CORNERS];
  alignas(64) float gradient[D][LANES], sum[D][LANES];
  here.each_step(begin, end, [&](const typename Levels::Here& step) {
    std::memset(sum, 0, sizeof sum);
    for (int k = 0; k < here.count; ++k) {
      const Row *grad = step.grad.get() + k * F, *dot = step.dot.get() + k * Levels::CORNERS;
      const auto& tap = step.taps[k];
      for (int c = 0; c < Levels::CORNERS; ++c)
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane) {
          float total = 0.0f;
          for (int f = 0; f < F; ++f) total += step.entry[c][f].lane[lane] * grad[f].lane[lane];
          dots[c].lane[lane] = tap.apart[lane] ? dot[c].lane[lane] : total;
        }
      // The cells are found again: cheaper than to keep them.
      here.cells_of(step, k).template find_gradient<false>(dots[0].lane, nullptr, gradient, here.args.bounded);
      const Shift<D> shift(call.taps, k);
      for (int d = 0; d < D; ++d) {
        const float* x = axes.x + d * axes.padded + step.i;
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane) sum[d][lane] += shift.follows(x[lane], d) ? gradient[d][lane] : 0.0f;
      }
    }
    for (int lane = 0; lane < step.lanes; ++lane)
      for (int d = 0; d < D; ++d) call.grid.out[(step.i + lane) * D + d] += sum[d][lane];
  });
}

// Calls run(i, k, d, number) for each number of the taps' positions [N, 1 + K, D].
template <int D, class Run>
void each_position(const TapsCall& call, const Run& run) {
  torch::stable::parallel_for(0, call.grid.args.points, 4096, [&](int64_t begin, int64_t end) {
    const int count = 1 + call.taps.count;
    for (int64_t i = begin; i < end; ++i)
      for (int k = 0; k < count; ++k)
        for (int d = 0; d < D; ++d) run(i, k, d, (i * count + k) * D + d);
  });
}

// All taps as points of their own, on the levels that are not shared.
template <int D>
void run_alone(const TapsCall& call, GridPass pass, uint32_t shared) {
  GridCall alone = call.grid;
  GridArgs& a = alone.args;
  a.level_mask &= ~shared;
  a.left_alone = shared;
  const bool writes = a.level_mask || (pass == GridPass::forward && std::popcount(shared) < a.level_count);
  if (!writes) return;
  const int64_t numbers = a.points * (1 + call.taps.count) * D;
  std::vector<float> x(numbers), gradient(pass == GridPass::backward_x ? numbers : 0);
  std::vector<Shift<D>> shifts;
  for (int k = 0; k <= call.taps.count; ++k) shifts.emplace_back(call.taps, k);
  each_position<D>(call, [&](int64_t i, int k, int d, int64_t to) { x[to] = shifts[k](call.grid.args.x[i * D + d], d); });
  a.x = x.data(), a.points *= 1 + call.taps.count;
  if (pass == GridPass::backward_x) alone.out = gradient.data();
  grid_cpu(alone, pass);
  if (pass == GridPass::backward_x)
    each_position<D>(call, [&](int64_t i, int k, int d, int64_t from) {
      if (shifts[k].follows(call.grid.args.x[i * D + d], d)) call.grid.out[i * D + d] += gradient[from];
    });
}

template <int D, int F, bool SMOOTH, class T>
void run_points(const TapsCall& call, GridPass pass, const Axes& axes, const std::vector<Span>& spans) {
  each_run(call.grid.args.points, static_cast<int32_t>(spans.size()), [&](int32_t s, int64_t begin, int64_t end) {
    if (pass == GridPass::forward) forward_span<D, F, SMOOTH, T>(call, spans[s], axes, begin, end);
    else backward_x_span<D, F, SMOOTH, T>(call, spans[s], axes, begin, end);
  });
}

void grid_taps_cpu(const TapsCall& call, GridPass pass) {
  dispatch_shape(call.grid, [&]<int D, int F, bool SMOOTH>() {
    const GridArgs& a = call.grid.args;
    const uint32_t shared = F <= MOST_SHARED ? shared_levels<D>(call) : 0;
    run_alone<D>(call, pass, shared);
    if constexpr (F <= MOST_SHARED) {
      const std::vector<Span> spans = spans_of<D, F>(a, shared);
      if (spans.empty()) return;
      const int64_t padded = padded_to_lanes(a.points);
      const auto x = by_axis<D>(a.x, a.points, padded);
      const Axes axes{x.get(), nullptr, padded};
      if (pass == GridPass::backward_table)
        each_alone(static_cast<int32_t>(spans.size()),
                   [&](int32_t s) { backward_table_span<D, F, SMOOTH>(call, spans[s], axes); });
      else if (call.grid.half) run_points<D, F, SMOOTH, half_t>(call, pass, axes, spans);
      else run_points<D, F, SMOOTH, float>(call, pass, axes, spans);
    }
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
