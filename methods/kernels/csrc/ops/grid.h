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
  int32_t bounded;        // points outside [0, 1] give zero
  GridLevel levels[MAX_LEVELS];
};

template <int D>
struct GridCell {
  uint32_t corner[D];
  float low[D];    // weight of the far corner along each axis
  float slope[D];  // d low / d position
  float bend[D];   // d slope / d position
  bool inside;
};

template <int D, bool SMOOTH>
FB_HD GridCell<D> grid_cell(const GridLevel& level, const float* x, bool bounded) {
  GridCell<D> cell;
  cell.inside = true;
  for (int d = 0; d < D; ++d) {
    const float v = x[d];
    cell.inside &= !bounded || (v >= 0.0f && v <= 1.0f);
    const float position = fmaf(v, level.scale, level.shift);
    const float base = floorf(position);
    const float t = position - base;
    cell.corner[d] = static_cast<uint32_t>(static_cast<int32_t>(base));
    cell.low[d] = SMOOTH ? t * t * (3.0f - 2.0f * t) : t;
    cell.slope[d] = (SMOOTH ? 6.0f * t * (1.0f - t) : 1.0f) * level.scale;
    cell.bend[d] = SMOOTH ? (6.0f - 12.0f * t) * level.scale * level.scale : 0.0f;
  }
  return cell;
}

// Row of a corner, before wrapping. The dense index stops adding axes once its stride exceeds the table, as both
// dialects do: in a tiled 3-D grid the finest levels therefore do not see z.
template <int D, bool HASHED>
FB_HD uint32_t grid_row(const GridLevel& level, const uint32_t* corner) {
  constexpr uint32_t PRIMES[3] = {1u, 2654435761u, 805459861u};
  if constexpr (HASHED) {
    uint32_t row = 0;
    for (int d = 0; d < D; ++d) row ^= corner[d] * PRIMES[d];
    return row & (level.rows - 1);
  } else {
    uint32_t row = 0;
    uint64_t stride = 1;
    for (int d = 0; d < D; ++d) {
      if (stride <= level.rows) row += corner[d] * static_cast<uint32_t>(stride);
      stride *= level.stride;
    }
    return row;
  }
}

// A dense index leaves the table at x = 1 and outside [0, 1] only; there it wraps.
FB_HD uint32_t wrapped(uint32_t row, uint32_t rows) { return row < rows ? row : row % rows; }

template <int D>
FB_HD float corner_weight(const GridCell<D>& cell, int corner) {
  float w = 1.0f;
  for (int d = 0; d < D; ++d) w *= (corner >> d & 1) ? cell.low[d] : 1.0f - cell.low[d];
  return w;
}

// d weight / d x along axis `along`.
template <int D>
FB_HD float corner_slope(const GridCell<D>& cell, int corner, int along) {
  float w = (corner >> along & 1) ? cell.slope[along] : -cell.slope[along];
  for (int d = 0; d < D; ++d)
    if (d != along) w *= (corner >> d & 1) ? cell.low[d] : 1.0f - cell.low[d];
  return w;
}

// What a corner's entry is multiplied with: its weight, or DIRECTED its weight's derivative along v [D].
template <int D, bool DIRECTED>
FB_HD float factor(const GridCell<D>& cell, int corner, const float* v) {
  if constexpr (!DIRECTED) return corner_weight<D>(cell, corner);
  float sum = 0.0f;
  for (int d = 0; d < D; ++d) sum += v[d] * corner_slope<D>(cell, corner, d);
  return sum;
}

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

template <int D, bool HASHED>
FB_HD uint32_t corner_row(const GridLevel& level, const GridCell<D>& cell, int corner) {
  uint32_t at[D];
  for (int d = 0; d < D; ++d) at[d] = cell.corner[d] + (corner >> d & 1);
  const uint32_t row = grid_row<D, HASHED>(level, at);
  return HASHED ? row : wrapped(row, level.rows);
}

// out[F] = sum over corners of factor * entry. DIRECTED this is the derivative of the features along v; the three bodies
// below, taken along v, are what the gradients of grid_backward_x are made of: to `grad`, to the table, to x.
template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, class T>
FB_HD void grid_forward(const GridLevel& level, const float* x, const float* v, bool bounded, const T* table,
                        float* out) {
  const GridCell<D> cell = grid_cell<D, SMOOTH>(level, x, bounded);
  float sum[F];
  for (int f = 0; f < F; ++f) sum[f] = 0.0f;
  for (int c = 0; c < (1 << D); ++c) {
    const T* entry = table + (level.offset + corner_row<D, HASHED>(level, cell, c)) * F;
    const float w = factor<D, DIRECTED>(cell, c, v);
    for (int f = 0; f < F; ++f) sum[f] += w * to_float(entry[f]);
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
  for (int c = 0; c < (1 << D); ++c) {
    const float w = factor<D, DIRECTED>(cell, c, v);
    float part[F];
    for (int f = 0; f < F; ++f) part[f] = w * grad[f];
    if constexpr (PLAIN) {
      const float u = corner_weight<D>(cell, c);
      for (int f = 0; f < F; ++f) part[f] += u * plain[f];
    }
    add((level.offset + corner_row<D, HASHED>(level, cell, c)) * F, part);
  }
}

// grad_x[D] += gradient in x of the sum over corners of factor * <entry, grad>.
template <int D, int F, bool SMOOTH, bool HASHED, bool DIRECTED, class T>
FB_HD void grid_backward_x(const GridLevel& level, const float* x, const float* v, bool bounded, const T* table,
                           const float* grad, float* grad_x) {
  const GridCell<D> cell = grid_cell<D, SMOOTH>(level, x, bounded);
  if (!cell.inside) return;
  float dot[1 << D], gradient[D];
  for (int c = 0; c < (1 << D); ++c) {
    const T* entry = table + (level.offset + corner_row<D, HASHED>(level, cell, c)) * F;
    dot[c] = 0.0f;
    for (int f = 0; f < F; ++f) dot[c] += to_float(entry[f]) * grad[f];
  }
  fold_slopes<D, DIRECTED>(cell.low, cell.slope, cell.bend, dot, v, gradient);
  for (int d = 0; d < D; ++d) grad_x[d] += gradient[d];
}

}  // namespace fieldbook
