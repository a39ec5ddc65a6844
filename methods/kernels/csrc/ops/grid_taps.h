// Grid encoding at a point and at taps around it, for derivatives by differences (Li et al. 2023, "Neuralangelo", section
// 3.1). Taps that stay in the point's own cell share its corners: their entries are loaded, and added to, once.
// One element = one point with its K taps at one level.
#pragma once
#include "grid.h"

namespace fieldbook {

struct Taps {
  const float* offsets;  // [K, D], added to every point
  int32_t count;         // K
  int32_t clamped;       // taps are moved into [0, 1]; the point itself is not
};

// From a point to tap k: the point itself for k = 0, else offset k - 1 from it.
template <int D>
struct Shift {
  float by[D];
  float low, high;  // of what a coordinate may become

  FB_HD Shift(const Taps& taps, int k) {
    const bool clamped = k > 0 && taps.clamped;
    low = clamped ? 0.0f : -INFINITY;
    high = clamped ? 1.0f : INFINITY;
    for (int d = 0; d < D; ++d) by[d] = k == 0 ? 0.0f : taps.offsets[(k - 1) * D + d];
  }

  FB_HD float operator()(float x, int d) const { return clamp(x + by[d], low, high); }

  // Whether the tap moves with x along an axis.
  FB_HD bool follows(float x, int d) const { return x + by[d] >= low && x + by[d] <= high; }
};

template <int D>
FB_HD bool same_cell(const GridCell<D>& a, const GridCell<D>& b) {
  bool same = true;
  for (int d = 0; d < D; ++d) same &= a.corner[d] == b.corner[d];
  return same;
}

// Calls use(k, shift, cell, is_near) for the point and its taps; near ones lie in the point's cell.
template <int D, bool SMOOTH, class Use>
FB_HD void each_tap(const GridLevel& level, const float* x, const Taps& taps, bool bounded, const GridCell<D>& centre,
                    const Use& use) {
  for (int k = 0; k <= taps.count; ++k) {
    const Shift<D> shift(taps, k);
    float at[D];
    for (int d = 0; d < D; ++d) at[d] = shift(x[d], d);
    const GridCell<D> cell = grid_cell<D, SMOOTH>(level, at, bounded);
    use(k, shift, cell, same_cell(cell, centre));
  }
}

template <int D, int F, bool HASHED, class T>
FB_HD void load_corners(const GridLevel& level, const GridCell<D>& cell, const T* table, float (&entry)[1 << D][F]) {
  const Places<D, F, HASHED> place(level, cell);
  for (int c = 0; c < (1 << D); ++c)
    for (int f = 0; f < F; ++f) entry[c][f] = to_float(table[place[c] + f]);
}

// out[F] at the point; out + k * stride at tap k.
template <int D, int F, bool SMOOTH, bool HASHED, class T>
FB_HD void grid_taps_forward(const GridLevel& level, const float* x, const Taps& taps, bool bounded, const T* table,
                             float* out, int64_t stride) {
  const GridCell<D> centre = grid_cell<D, SMOOTH>(level, x, bounded);
  float held[1 << D][F];
  load_corners<D, F, HASHED>(level, centre, table, held);
  each_tap<D, SMOOTH>(level, x, taps, bounded, centre, [&](int k, const Shift<D>&, const GridCell<D>& cell, bool near) {
    const Factors<D, false> factor(cell, nullptr);
    float sum[F];
    for (int f = 0; f < F; ++f) sum[f] = 0.0f;
    const auto add = [&](const float(&entry)[1 << D][F]) {
      for (int c = 0; c < (1 << D); ++c)
        for (int f = 0; f < F; ++f) sum[f] += factor[c] * entry[c][f];
    };
    float other[1 << D][F];
    if (near) add(held);
    else load_corners<D, F, HASHED>(level, cell, table, other), add(other);
    for (int f = 0; f < F; ++f) out[k * stride + f] = cell.inside ? sum[f] : 0.0f;
  });
}

// Adds weight * grad[F] of the point and of all taps to their corners' rows by `add`.
template <int D, int F, bool SMOOTH, bool HASHED, class Add>
FB_HD void grid_taps_backward_table(const GridLevel& level, const float* x, const Taps& taps, bool bounded,
                                    const float* grad, int64_t stride, const Add& add) {
  const GridCell<D> centre = grid_cell<D, SMOOTH>(level, x, bounded);
  float held[1 << D][F];
  for (int c = 0; c < (1 << D); ++c)
    for (int f = 0; f < F; ++f) held[c][f] = 0.0f;
  bool any = false;
  each_tap<D, SMOOTH>(level, x, taps, bounded, centre, [&](int k, const Shift<D>&, const GridCell<D>& cell, bool near) {
    if (!cell.inside) return;
    any |= near;
    const Factors<D, false> factor(cell, nullptr);
    if (near) {
      for (int c = 0; c < (1 << D); ++c)
        for (int f = 0; f < F; ++f) held[c][f] += factor[c] * grad[k * stride + f];
      return;
    }
    const Places<D, F, HASHED> place(level, cell);
    for (int c = 0; c < (1 << D); ++c) {
      float part[F];
      for (int f = 0; f < F; ++f) part[f] = factor[c] * grad[k * stride + f];
      add(place[c], part);
    }
  });
  if (!any) return;
  const Places<D, F, HASHED> place(level, centre);
  for (int c = 0; c < (1 << D); ++c) add(place[c], held[c]);
}

// grad_x[D] += sum over the point, its taps and their corners of d weight / d x * <entry, grad>.
template <int D, int F, bool SMOOTH, bool HASHED, class T>
FB_HD void grid_taps_backward_x(const GridLevel& level, const float* x, const Taps& taps, bool bounded, const T* table,
                                const float* grad, int64_t stride, float* grad_x) {
  const GridCell<D> centre = grid_cell<D, SMOOTH>(level, x, bounded);
  float held[1 << D][F];
  load_corners<D, F, HASHED>(level, centre, table, held);
  each_tap<D, SMOOTH>(level, x, taps, bounded, centre, [&](int k, const Shift<D>& shift, const GridCell<D>& cell, bool near) {
    if (!cell.inside) return;
    float dot[1 << D], gradient[D], other[1 << D][F];
    const auto times = [&](const float(&entry)[1 << D][F]) {
      for (int c = 0; c < (1 << D); ++c) {
        dot[c] = 0.0f;
        for (int f = 0; f < F; ++f) dot[c] += entry[c][f] * grad[k * stride + f];
      }
    };
    if (near) times(held);
    else load_corners<D, F, HASHED>(level, cell, table, other), times(other);
    fold_slopes<D, false, float>(cell.low, cell.slope, cell.bend, dot, nullptr, gradient);
    for (int d = 0; d < D; ++d) grad_x[d] += shift.follows(x[d], d) ? gradient[d] : 0.0f;
  });
}

}  // namespace fieldbook
