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

// Which factors of a corner a pass needs: none, its weight, the weight's derivative along v, or both.
enum class Factors { none, weight, slope, both };

// Cells, rows and factors of a block of points at one level: those of ops/grid.h.
template <int D, bool SMOOTH, bool HASHED, Factors FACTORS>
struct Block {
  static constexpr int CORNERS = 1 << D;
  static constexpr bool WEIGHT = FACTORS == Factors::weight || FACTORS == Factors::both;
  static constexpr bool SLOPE = FACTORS == Factors::slope || FACTORS == Factors::both;
  alignas(64) uint32_t row[CORNERS][LANES];
  alignas(64) float weight[WEIGHT ? CORNERS : 1][LANES];
  alignas(64) float slope[SLOPE ? CORNERS : 1][LANES];

  FB_HD void fill(const GridLevel& level, const Axes& axes, int64_t first, bool bounded) {
    uint32_t outside = 0;
#pragma omp simd reduction(| : outside)
    for (int lane = 0; lane < LANES; ++lane) {
      float x[D], v[D] = {};
      for (int d = 0; d < D; ++d) x[d] = axes.x[d * axes.padded + first + lane];
      if constexpr (SLOPE)
        for (int d = 0; d < D; ++d) v[d] = axes.along[d * axes.padded + first + lane];
      const GridCell<D> here = grid_cell<D, SMOOTH>(level, x, bounded);
      for (int c = 0; c < CORNERS; ++c) {
        uint32_t at[D];
        for (int d = 0; d < D; ++d) at[d] = here.corner[d] + (c >> d & 1);
        const uint32_t r = grid_row<D, HASHED>(level, at);
        row[c][lane] = r;
        outside |= !HASHED & (r >= level.rows);
        if constexpr (WEIGHT) weight[c][lane] = here.inside ? factor<D, false>(here, c, v) : 0.0f;
        if constexpr (SLOPE) slope[c][lane] = here.inside ? factor<D, true>(here, c, v) : 0.0f;
      }
    }
    if (outside)
      for (int c = 0; c < CORNERS; ++c)
        for (int lane = 0; lane < LANES; ++lane) row[c][lane] = wrapped(row[c][lane], level.rows);
  }

  template <bool WRITTEN, int F, class T>
  FB_HD void fetch(const T* table) const {
    for (int lane = 0; lane < LANES; ++lane)
      for (int c = 0; c < CORNERS; ++c) __builtin_prefetch(table + static_cast<int64_t>(row[c][lane]) * F, WRITTEN, 3);
  }
};

// Numbers of a block: [LANES] of a row that starts at a multiple of 64 bytes.
using Lanes = float __attribute__((vector_size(LANES * sizeof(float)), may_alias));

inline const Lanes* lanes(const float* row) { return reinterpret_cast<const Lanes*>(row); }
inline Lanes* lanes(float* row) { return reinterpret_cast<Lanes*>(row); }

// A block's gradients in x, at one level.
template <int D, bool SMOOTH>
struct SlopeBlock {
  alignas(64) float low[D][LANES];
  alignas(64) float slope[D][LANES];
  alignas(64) float bend[D][LANES];
  alignas(64) float gradient[D][LANES];
  alignas(64) uint32_t inside[LANES];

  // `at(lane, d)`: a lane's position.
  template <class At>
  FB_HD void fill(const GridLevel& level, bool bounded, const At& at) {
#pragma omp simd
    for (int lane = 0; lane < LANES; ++lane) {
      float x[D];
      for (int d = 0; d < D; ++d) x[d] = at(lane, d);
      const GridCell<D> cell = grid_cell<D, SMOOTH>(level, x, bounded);
      inside[lane] = cell.inside;
      for (int d = 0; d < D; ++d) low[d][lane] = cell.low[d], slope[d][lane] = cell.slope[d], bend[d][lane] = cell.bend[d];
    }
  }

  // Of the sum over corners of factor * dot [2^D][LANES], taken along v [D][LANES]; zero outside.
  template <bool DIRECTED>
  FB_HD void fold(const float* dot, const float* v) {
    fold_slopes<D, DIRECTED>(lanes(low[0]), lanes(slope[0]), lanes(bend[0]), lanes(dot), lanes(v), lanes(gradient[0]));
    for (int d = 0; d < D; ++d)
#pragma omp simd
      for (int lane = 0; lane < LANES; ++lane) gradient[d][lane] = inside[lane] ? gradient[d][lane] : 0.0f;
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
