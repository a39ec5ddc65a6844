// Multiresolution grid encoding: Mueller et al. 2022, "Instant Neural Graphics Primitives", section 3 and appendix A.
// One element = one point at one level. N points, D dimensions, L levels, F features.
#pragma once
#include "common.h"

namespace fieldbook {

constexpr int MAX_LEVELS = 32;

struct GridLevel {
  float scale;      // cells per unit length
  float shift;      // added to x * scale: 0.5, or 0
  uint32_t stride;  // of the dense index
  uint32_t rows;    // entries of this level's table
  int64_t offset;   // first row
  int32_t hashed;   // index by hash; rows is then a power of two
};

struct GridArgs {
  const float* x;         // [N, D]
  const float* along;     // [N, D], or null: differentiate the weights along this direction first
  int64_t points;
  int32_t level_count;
  uint32_t level_mask;    // bit l: level l is on; the others give zero
  uint32_t left_alone;    // bit l: on a CPU, level l is off and nothing is written for it
  int32_t bounded;        // points outside [0, 1] give zero
  GridLevel levels[MAX_LEVELS];
};

// Where a point lies along one axis of a level.
struct GridAxis {
  uint32_t corner;
  float low;    // weight of the far corner
  float slope;  // d low / d position
  float bend;   // d slope / d position
};

template <bool SMOOTH>
FB_HD GridAxis grid_axis(const GridLevel& level, float x) {
  const float position = fmaf(x, level.scale, level.shift);
  const float base = floorf(position);
  const float t = position - base;
  return {static_cast<uint32_t>(static_cast<int32_t>(base)), SMOOTH ? t * t * (3.0f - 2.0f * t) : t,
          (SMOOTH ? 6.0f * t * (1.0f - t) : 1.0f) * level.scale,
          SMOOTH ? (6.0f - 12.0f * t) * level.scale * level.scale : 0.0f};
}

FB_HD bool in_unit(float x) { return x >= 0.0f && x <= 1.0f; }

template <int D>
struct GridCell {
  uint32_t corner[D];
  float low[D], slope[D], bend[D];  // as a GridAxis has them
  bool inside;
};

template <int D, bool SMOOTH>
FB_HD GridCell<D> grid_cell(const GridLevel& level, const float* x, bool bounded) {
  GridCell<D> cell;
  cell.inside = true;
  for (int d = 0; d < D; ++d) {
    const GridAxis axis = grid_axis<SMOOTH>(level, x[d]);
    cell.inside &= !bounded || in_unit(x[d]);
    cell.corner[d] = axis.corner, cell.low[d] = axis.low, cell.slope[d] = axis.slope, cell.bend[d] = axis.bend;
  }
  return cell;
}

// Rows [2^D] of a cell's corners, before wrapping; a Number is a uint32_t, or on a CPU a vector of them. The dense index stops
// adding axes once its stride exceeds the table, as both dialects do: in a tiled 3-D grid the finest levels therefore do
// not see z.
template <int D, bool HASHED, class Number>
FB_HD void corner_rows(const GridLevel& level, const Number* corner, Number* row) {
  constexpr uint32_t PRIMES[3] = {1u, 2654435761u, 805459861u};
  uint64_t stride = 1;
  for (int d = 0; d < D; ++d) {
    const uint32_t each = HASHED ? PRIMES[d] : stride <= level.rows ? static_cast<uint32_t>(stride) : 0u;
    const Number near = corner[d] * each, far = near + each;
    if (d == 0) row[0] = near, row[1] = far;
    for (int c = 0; d > 0 && c < (1 << d); ++c) {
      row[c + (1 << d)] = HASHED ? row[c] ^ far : row[c] + far;
      row[c] = HASHED ? row[c] ^ near : row[c] + near;
    }
    stride *= level.stride;
  }
  for (int c = 0; HASHED && c < (1 << D); ++c) row[c] = row[c] & (level.rows - 1);
}

// A dense index leaves the table at x = 1 and outside [0, 1] only; there it wraps.
FB_HD uint32_t wrapped(uint32_t row, uint32_t rows) { return row < rows ? row : row % rows; }

// Weights [2^D] of a cell's corners, and DIRECTED their derivatives along a direction, `turn` being its parts times the cell's
// slopes. `low` is a GridCell's; a Number is a float, or on a CPU a vector of them.
template <int D, bool DIRECTED, class Number>
FB_HD void corner_weights(const Number* low, const Number* turn, Number* weight, Number* slope) {
  weight[0] = 1.0f - low[0];
  weight[1] = low[0];
  if constexpr (DIRECTED) slope[0] = -turn[0], slope[1] = turn[0];
  FB_UNROLL
  for (int d = 1; d < D; ++d) {
    const Number high = 1.0f - low[d];
    FB_UNROLL
    for (int c = 0; c < (1 << d); ++c) {
      const int far = c + (1 << d);
      if constexpr (DIRECTED) {
        slope[far] = slope[c] * low[d] + weight[c] * turn[d];
        slope[c] = slope[c] * high - weight[c] * turn[d];
      }
      weight[far] = weight[c] * low[d];
      weight[c] = weight[c] * high;
    }
  }
}

// What each corner's entry is multiplied with: its weight, or DIRECTED its weight's derivative along v [D].
template <int D, bool DIRECTED>
struct Factors {
  float weight[1 << D], slope[1 << D];

  FB_HD Factors(const GridCell<D>& cell, const float* v) {
    float turn[D];
    if constexpr (DIRECTED)
      for (int d = 0; d < D; ++d) turn[d] = v[d] * cell.slope[d];
    corner_weights<D, DIRECTED>(cell.low, turn, weight, slope);
  }

  FB_HD float operator[](int corner) const { return DIRECTED ? slope[corner] : weight[corner]; }
};

// gradient[D] in x of the sum over corners of factor * dot[corner]. Corners are folded together axis by axis: interpolated,
// or their difference taken along the axis of the derivative; DIRECTED with the change of each number along v. `low`,
// `slope` and `bend` are a GridCell's; a Number is a float, or on a CPU a vector of them.
template <int D, bool DIRECTED, class Number>
FB_HD void fold_slopes(const Number* low, const Number* slope, const Number* bend, const Number* dot, const Number* v,
                       Number* gradient) {
  FB_UNROLL
  for (int axis = 0; axis < D; ++axis) {
    Number value[1 << D], change[1 << D];
    FB_UNROLL
    for (int c = 0; c < (1 << D); ++c) value[c] = dot[c];
    FB_UNROLL
    for (int d = 0; d < D; ++d)
      FB_UNROLL
      for (int i = 0; i < (1 << (D - 1 - d)); ++i) {
        const Number near = value[2 * i], step = value[2 * i + 1] - near;
        if (d == axis) value[i] = slope[d] * step;
        else value[i] = near + low[d] * step;
        if constexpr (DIRECTED) {
          const Number turn = v[d] * (d == axis ? bend[d] : slope[d]) * step;
          if (d == 0) {
            change[i] = turn;
          } else {
            const Number before = change[2 * i], after = change[2 * i + 1] - before;
            if (d == axis) change[i] = slope[d] * after + turn;
            else change[i] = before + low[d] * after + turn;
          }
        }
      }
    gradient[axis] = DIRECTED ? change[0] : value[0];
  }
}

// Where the entries [F] of a cell's corners are in the table.
template <int D, int F, bool HASHED>
struct Places {
  int64_t at[1 << D];

  FB_HD Places(const GridLevel& level, const GridCell<D>& cell) {
    uint32_t row[1 << D];
    corner_rows<D, HASHED>(level, cell.corner, row);
    for (int c = 0; c < (1 << D); ++c) at[c] = (level.offset + (HASHED ? row[c] : wrapped(row[c], level.rows))) * F;
  }

  FB_HD int64_t operator[](int corner) const { return at[corner]; }
};

// out[F] = sum over corners of factor * entry. DIRECTED this is the derivative of the features along v; the three bodies
// below, taken along v, are what the gradients of grid_backward_x are made of: to `grad`, to the table, to x.
template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, class T>
FB_HD void grid_forward(const GridLevel& level, const float* x, const float* v, bool bounded, const T* table,
                        float* out) {
  const GridCell<D> cell = grid_cell<D, SMOOTH>(level, x, bounded);
  const Factors<D, DIRECTED> factor(cell, v);
  const Places<D, F, HASHED> place(level, cell);
  float sum[F];
  for (int f = 0; f < F; ++f) sum[f] = 0.0f;
  for (int c = 0; c < (1 << D); ++c) {
    const T* entry = table + place[c];
    for (int f = 0; f < F; ++f) sum[f] += factor[c] * to_float(entry[f]);
  }
  for (int f = 0; f < F; ++f) out[f] = cell.inside ? sum[f] : 0.0f;
}

// Adds factor * grad[F] to the corners' rows by `add`; PLAIN also weight * plain[F], for the gradient of features and that
// of their derivative along v at once. This body and its two neighbours are what a GPU runs, a point and a level at a
// time; grid.cpp goes through all points of a level in registers, from the same cells, weights and rows.
template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, bool PLAIN, class Add>
FB_HD void grid_backward_table(const GridLevel& level, const float* x, const float* v, bool bounded, const float* grad,
                               const float* plain, const Add& add) {
  const GridCell<D> cell = grid_cell<D, SMOOTH>(level, x, bounded);
  if (!cell.inside) return;
  const Factors<D, DIRECTED> factor(cell, v);
  const Places<D, F, HASHED> place(level, cell);
  for (int c = 0; c < (1 << D); ++c) {
    float part[F];
    for (int f = 0; f < F; ++f) part[f] = factor[c] * grad[f];
    if constexpr (PLAIN)
      for (int f = 0; f < F; ++f) part[f] += factor.weight[c] * plain[f];
    add(place[c], part);
  }
}

// grad_x[D] += gradient in x of the sum over corners of factor * <entry, grad>.
template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, class T>
FB_HD void grid_backward_x(const GridLevel& level, const float* x, const float* v, bool bounded, const T* table,
                           const float* grad, float* grad_x) {
  const GridCell<D> cell = grid_cell<D, SMOOTH>(level, x, bounded);
  if (!cell.inside) return;
  const Places<D, F, HASHED> place(level, cell);
  float dot[1 << D], gradient[D];
  for (int c = 0; c < (1 << D); ++c) {
    const T* entry = table + place[c];
    dot[c] = 0.0f;
    for (int f = 0; f < F; ++f) dot[c] += to_float(entry[f]) * grad[f];
  }
  fold_slopes<D, DIRECTED>(cell.low, cell.slope, cell.bend, dot, v, gradient);
  for (int d = 0; d < D; ++d) grad_x[d] += gradient[d];
}

}  // namespace fieldbook
