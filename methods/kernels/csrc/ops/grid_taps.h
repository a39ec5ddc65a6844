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

// Where tap k lies: the point itself for k = 0, else offset k - 1 from it. `free`: it moves with x along this axis.
template <int D>
FB_HD void tap_at(const Taps& taps, int k, const float* x, float* at, bool* free) {
  for (int d = 0; d < D; ++d) {
    at[d] = k == 0 ? x[d] : x[d] + taps.offsets[(k - 1) * D + d];
    free[d] = k == 0 || !taps.clamped || (at[d] >= 0.0f && at[d] <= 1.0f);
    if (!free[d]) at[d] = clamp(at[d], 0.0f, 1.0f);
  }
}

template <int D>
FB_HD bool same_cell(const GridCell<D>& a, const GridCell<D>& b) {
  bool same = true;
  for (int d = 0; d < D; ++d) same &= a.corner[d] == b.corner[d];
  return same;
}

// Calls use(k, cell, is_near, free) for the point and its taps; near ones lie in the point's cell.
template <int D, bool SMOOTH, class Use>
FB_HD void each_tap(const GridLevel& level, const float* x, const Taps& taps, bool bounded, const GridCell<D>& centre,
                    const Use& use) {
  for (int k = 0; k <= taps.count; ++k) {
    float at[D];
    bool free[D];
    tap_at<D>(taps, k, x, at, free);
    const GridCell<D> cell = grid_cell<D, SMOOTH>(level, at, bounded);
    use(k, cell, same_cell(cell, centre), free);
  }
}

template <int D, int F, bool HASHED, class T>
FB_HD void load_corner(const GridLevel& level, const GridCell<D>& cell, int corner, const T* table, float* entry) {
  const T* row = table + (level.offset + corner_row<D, HASHED>(level, cell, corner)) * F;
  for (int f = 0; f < F; ++f) entry[f] = to_float(row[f]);
}

// out[F] at the point; out + k * stride at tap k.
template <int D, int F, bool SMOOTH, bool HASHED, class T>
FB_HD void grid_taps_forward(const GridLevel& level, const float* x, const Taps& taps, bool bounded, const T* table,
                             float* out, int64_t stride) {
  const GridCell<D> centre = grid_cell<D, SMOOTH>(level, x, bounded);
  float held[1 << D][F];
  for (int c = 0; c < (1 << D); ++c) load_corner<D, F, HASHED>(level, centre, c, table, held[c]);
  each_tap<D, SMOOTH>(level, x, taps, bounded, centre, [&](int k, const GridCell<D>& cell, bool near, const bool*) {
    float sum[F];
    for (int f = 0; f < F; ++f) sum[f] = 0.0f;
    for (int c = 0; c < (1 << D); ++c) {
      float other[F];
      if (!near) load_corner<D, F, HASHED>(level, cell, c, table, other);
      const float w = corner_weight<D>(cell, c);
      for (int f = 0; f < F; ++f) sum[f] += w * (near ? held[c][f] : other[f]);
    }
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
  each_tap<D, SMOOTH>(level, x, taps, bounded, centre, [&](int k, const GridCell<D>& cell, bool near, const bool*) {
    if (!cell.inside) return;
    any |= near;
    for (int c = 0; c < (1 << D); ++c) {
      const float w = corner_weight<D>(cell, c);
      float part[F];
      for (int f = 0; f < F; ++f) part[f] = w * grad[k * stride + f];
      if (near)
        for (int f = 0; f < F; ++f) held[c][f] += part[f];
      else
        add((level.offset + corner_row<D, HASHED>(level, cell, c)) * F, part);
    }
  });
  if (any)
    for (int c = 0; c < (1 << D); ++c) add((level.offset + corner_row<D, HASHED>(level, centre, c)) * F, held[c]);
}

// grad_x[D] += sum over the point, its taps and their corners of d weight / d x * <entry, grad>.
template <int D, int F, bool SMOOTH, bool HASHED, class T>
FB_HD void grid_taps_backward_x(const GridLevel& level, const float* x, const Taps& taps, bool bounded, const T* table,
                                const float* grad, int64_t stride, float* grad_x) {
  const GridCell<D> centre = grid_cell<D, SMOOTH>(level, x, bounded);
  float held[1 << D][F];
  for (int c = 0; c < (1 << D); ++c) load_corner<D, F, HASHED>(level, centre, c, table, held[c]);
  each_tap<D, SMOOTH>(level, x, taps, bounded, centre, [&](int k, const GridCell<D>& cell, bool near, const bool* free) {
    if (!cell.inside) return;
    for (int c = 0; c < (1 << D); ++c) {
      float other[F], dot = 0.0f;
      if (!near) load_corner<D, F, HASHED>(level, cell, c, table, other);
      for (int f = 0; f < F; ++f) dot += (near ? held[c][f] : other[f]) * grad[k * stride + f];
      for (int d = 0; d < D; ++d) grad_x[d] += free[d] ? corner_slope<D>(cell, c, d) * dot : 0.0f;
    }
  });
}

}  // namespace fieldbook
