// How a CPU goes through the points of one level of the grid encoding: a block of them at a time, one per vector lane.
#pragma once
#include <atomic>
#include <memory>

#include "grid.h"
#include "launch.h"

namespace fieldbook {

constexpr int LANES = 16;

inline int64_t padded_to_lanes(int64_t points) { return (points + LANES - 1) / LANES * LANES; }

// Points, and directions where there are any, each axis in a row of its own so that blocks load as vectors.
struct Axes {
  const float* x;
  const float* along;
  int64_t padded;
};

// Rows [N, D] by axis.
template <int D>
std::unique_ptr<float[]> by_axis(const float* x, int64_t points, int64_t padded) {
  std::unique_ptr<float[]> axes(new float[D * padded]);
  for (int d = 0; d < D; ++d)
    for (int64_t i = points; i < padded; ++i) axes[d * padded + i] = 0.5f;
  torch::stable::parallel_for(0, points, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int d = 0; d < D; ++d) axes[d * padded + i] = x[i * D + d];
  });
  return axes;
}

// Rows of a level that points in [0, 1] can touch, about.
template <int D>
double touched_rows(const GridLevel& level) {
  double corners = 1.0;
  for (int d = 0; d < D; ++d) corners *= level.scale + 2.0;
  return corners < level.rows ? corners : level.rows;
}

// Whether they outgrow the caches nearest to a core, so that it pays to ask for them ahead.
template <int D>
bool is_far(const GridLevel& level, int64_t row_bytes) {
  return touched_rows<D>(level) * row_bytes > (1 << 17);
}

// Calls run(task, begin, end) for all points and tasks: levels, or a few together. Each thread takes a run of points, from a
// multiple of LANES, and walks it once per task, so that one task's table stays in the cache.
template <class Run>
void each_run(int64_t points, int32_t tasks, const Run& run) {
  torch::stable::parallel_for(0, padded_to_lanes(points) / LANES, 16, [&](int64_t begin, int64_t end) {
    const int64_t last = end * LANES < points ? end * LANES : points;
    for (int32_t task = 0; task < tasks; ++task) run(task, begin * LANES, last);
  });
}

// Calls run(task) for all tasks, each in one thread, so that no row of the table has two writers and the order of its sums
// does not depend on the threads. Whoever is free takes the next, finest first: those take longest.
template <class Run>
void each_alone(int32_t tasks, const Run& run) {
  std::atomic<int32_t> left{tasks};
  const int64_t hands = static_cast<int64_t>(torch::stable::get_num_threads());
  torch::stable::parallel_for(0, hands, 1, [&](int64_t, int64_t) {
    for (int32_t task = --left; task >= 0; task = --left) run(task);
  });
}

// Numbers of a block: [LANES] of a row that starts at a multiple of 64 bytes.
using Lanes = float __attribute__((vector_size(LANES * sizeof(float)), may_alias));

using WholeLanes = uint32_t __attribute__((vector_size(LANES * sizeof(uint32_t)), may_alias));

inline const WholeLanes* lanes(const uint32_t* row) { return reinterpret_cast<const WholeLanes*>(row); }
inline WholeLanes* lanes(uint32_t* row) { return reinterpret_cast<WholeLanes*>(row); }
inline const Lanes* lanes(const float* row) { return reinterpret_cast<const Lanes*>(row); }
inline Lanes* lanes(float* row) { return reinterpret_cast<Lanes*>(row); }

// The cells of a block of points at one level, as grid_cell finds them.
template <int D, bool SMOOTH>
struct Cells {
  static constexpr int CORNERS = 1 << D;
  alignas(64) uint32_t corner[D][LANES];
  alignas(64) float low[D][LANES];
  alignas(64) float slope[D][LANES];
  alignas(64) float bend[D][LANES];
  alignas(64) uint32_t inside[LANES];

  // `at(x, d)`: a position along an axis from a point's, which are those of `axes` from `first`.
  template <class At>
  FB_HD void fill(const GridLevel& level, const Axes& axes, int64_t first, bool bounded, const At& at) {
    for (int lane = 0; lane < LANES; ++lane) inside[lane] = 1;
    for (int d = 0; d < D; ++d) {
      const float* x = axes.x + d * axes.padded + first;
#pragma omp simd
      for (int lane = 0; lane < LANES; ++lane) {
        const float here = at(x[lane], d);
        const GridAxis axis = grid_axis<SMOOTH>(level, here);
        corner[d][lane] = axis.corner, low[d][lane] = axis.low, slope[d][lane] = axis.slope, bend[d][lane] = axis.bend;
        inside[lane] &= !bounded || in_unit(here);
      }
    }
  }

  FB_HD void fill(const GridLevel& level, const Axes& axes, int64_t first, bool bounded) {
    fill(level, axes, first, bounded, [](float x, int) { return x; });
  }

  // Zeros in `rows` [count][LANES] for points outside.
  FB_HD void mask(float* rows, int count, bool bounded) const {
    if (!bounded) return;
    for (int row = 0; row < count; ++row)
#pragma omp simd
      for (int lane = 0; lane < LANES; ++lane) rows[row * LANES + lane] = inside[lane] ? rows[row * LANES + lane] : 0.0f;
  }

  FB_HD void find_weights(float (&weight)[CORNERS][LANES], bool bounded) const {
    corner_weights<D, false, Lanes>(lanes(low[0]), nullptr, lanes(weight[0]), nullptr);
    mask(weight[0], CORNERS, bounded);
  }

  // Rows in the level's table.
  template <bool HASHED>
  FB_HD void find_rows(const GridLevel& level, uint32_t (&row)[CORNERS][LANES]) const {
    corner_rows<D, HASHED>(level, lanes(corner[0]), lanes(row[0]));
    if constexpr (HASHED) return;
    uint32_t outside = 0;
    for (int c = 0; c < CORNERS; ++c)
#pragma omp simd reduction(| : outside)
      for (int lane = 0; lane < LANES; ++lane) outside |= row[c][lane] >= level.rows;
    if (outside)  // seldom, and a division for each
      for (int c = 0; c < CORNERS; ++c)
        for (int lane = 0; lane < LANES; ++lane) row[c][lane] = wrapped(row[c][lane], level.rows);
  }

  // Which lanes' cells are not the same, 0 or 1; returns how many.
  FB_HD uint32_t differ(const Cells& other, uint32_t (&apart)[LANES]) const {
    uint32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int lane = 0; lane < LANES; ++lane) {
      uint32_t moved = corner[0][lane] ^ other.corner[0][lane];
      for (int d = 1; d < D; ++d) moved |= corner[d][lane] ^ other.corner[d][lane];
      apart[lane] = moved != 0;
      count += moved != 0;
    }
    return count;
  }

  // `gradient` [D][LANES] in x of the sum over corners of factor * dot [CORNERS][LANES], along v [D][LANES] if DIRECTED.
  template <bool DIRECTED>
  FB_HD void find_gradient(const float* dot, const float* v, float (&gradient)[D][LANES], bool bounded) const {
    fold_slopes<D, DIRECTED>(lanes(low[0]), lanes(slope[0]), lanes(bend[0]), lanes(dot), lanes(v), lanes(gradient[0]));
    mask(gradient[0], D, bounded);
  }
};

// Which factors of a corner a pass needs: none, its weight, the weight's derivative along v, or both.
enum class Needs { rows, weight, slope, both };

// Rows and factors of a block of points at one level.
template <int D, bool SMOOTH, bool HASHED, Needs NEEDS>
struct Block {
  static constexpr int CORNERS = 1 << D;
  static constexpr bool SLOPE = NEEDS == Needs::slope || NEEDS == Needs::both;
  alignas(64) uint32_t row[CORNERS][LANES];
  alignas(64) float weight[CORNERS][LANES];
  alignas(64) float slope[CORNERS][LANES];

  FB_HD void fill(const GridLevel& level, const Axes& axes, int64_t first, bool bounded) {
    Cells<D, SMOOTH> cells;
    cells.fill(level, axes, first, bounded);
    cells.template find_rows<HASHED>(level, row);
    if constexpr (NEEDS == Needs::weight) cells.find_weights(weight, bounded);
    if constexpr (SLOPE) {
      alignas(64) float turn[D][LANES];
      for (int d = 0; d < D; ++d)
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane)
          turn[d][lane] = axes.along[d * axes.padded + first + lane] * cells.slope[d][lane];
      corner_weights<D, true>(lanes(cells.low[0]), lanes(turn[0]), lanes(weight[0]), lanes(slope[0]));
      cells.mask(weight[0], CORNERS, bounded);
      cells.mask(slope[0], CORNERS, bounded);
    }
  }

  template <bool WRITTEN, int F, class T>
  FB_HD void fetch(const T* table) const {
    for (int lane = 0; lane < LANES; ++lane)
      for (int c = 0; c < CORNERS; ++c) __builtin_prefetch(table + static_cast<int64_t>(row[c][lane]) * F, WRITTEN, 3);
  }
};

// Calls fill(block, i) and then use(block, i) for the blocks of points begin..end in turn, each filled while the one before
// it is still to be used: rows that fill() asks for lie all over a table, and by itself a core waits for a few at a time.
template <class Block, class Fill, class Use>
FB_HD void in_blocks(int64_t begin, int64_t end, const Fill& fill, const Use& use) {
  Block blocks[2];
  int turn = 0;
  for (int64_t i = begin; i < end + LANES; i += LANES, turn ^= 1) {
    if (i < end) fill(blocks[turn], i);
    if (i > begin) use(blocks[turn ^ 1], i - LANES);
  }
}

}  // namespace fieldbook
