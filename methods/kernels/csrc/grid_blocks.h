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

// Whether a level's rows outgrow the caches nearest to a core, so that it pays to ask for them ahead.
template <int D>
bool is_far(const GridLevel& level, int64_t row_bytes) {
  double used = 1.0;
  for (int d = 0; d < D; ++d) used *= level.scale + 2.0;
  return (used < level.rows ? used : level.rows) * row_bytes > (1 << 17);
}

// Calls run(l, begin, end) for all points and levels, on or off. Each thread takes a run of points, from a multiple of LANES,
// and walks it once per level, so that one level's table stays in the cache.
template <class Run>
void each_run(const GridArgs& a, const Run& run) {
  torch::stable::parallel_for(0, padded_to_lanes(a.points) / LANES, 16, [&](int64_t begin, int64_t end) {
    const int64_t last = end * LANES < a.points ? end * LANES : a.points;
    for (int32_t l = 0; l < a.level_count; ++l) run(l, begin * LANES, last);
  });
}

// Calls run(l) for the levels that are on, each in one thread, so that no row of the table has two writers and the order of
// its sums does not depend on the threads. Whoever is free takes the next, finest first: those take longest.
template <class Run>
void each_level(const GridArgs& a, const Run& run) {
  std::atomic<int32_t> left{a.level_count};
  const int64_t hands = static_cast<int64_t>(torch::stable::get_num_threads());
  torch::stable::parallel_for(0, hands, 1, [&](int64_t, int64_t) {
    for (int32_t l = --left; l >= 0; l = --left)
      if (a.level_mask >> l & 1) run(l);
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
