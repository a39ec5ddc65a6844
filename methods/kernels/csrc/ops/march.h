// Marching through an occupancy grid: Mueller et al. 2022, "Instant Neural Graphics Primitives", appendix C.
// One element = one ray. Lengths here are in units of the half side of cascade 0, about the grid's centre; t is the
// caller's. A step is emitted exactly if its point lies in an occupied cell; blocks and groups are only ways to decide
// many steps at once.
#pragma once
#include "march_steps.h"
#include "morton.h"
#include "vote.h"

namespace fieldbook {

struct MarchArgs {
  const float *origins, *directions;  // [N, 3]
  const float *near_t, *far_t;        // [N]
  const float* noise;                 // [N] or null
  const int64_t* alive;               // [A] ray of element i, or null: ray i
  const uint32_t* bits;               // [C * H^3 / 32] occupied cells, lowest bit first
  const uint8_t* blocks;              // [C, (H >> block_shift)^3]: any cell of the block is occupied
  int64_t rays, total;                // elements: A, or N; N
  MarchSpec spec;
};

struct MarchRay {
  float origin[3], direction[3];
  float inverse[3];  // of direction; large where it does not move
  int32_t ahead[3];  // cells from a block's low face to the one the ray leaves by
  float start, end;  // t of the first step; no step's point lies at or past the end
  float entry;       // nor before this
  float far_t;       // as given
};

struct MarchCell {
  int32_t index[3];
  int32_t level;
  float at[3];   // the point in cells of this level
  float scale;   // cells of this level per unit
  bool covered;  // a finer cascade holds this cell too
};

// frexp's exponent of v >= 0, within [0, most].
FB_HD int32_t cascade_of(float v, int32_t most) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  const int32_t exponent = static_cast<int32_t>(bits >> 23) - 126;
  return exponent < 0 ? 0 : exponent > most ? most : exponent;
}

FB_HD float power_of_two(int32_t exponent) {
  const int32_t bits = (exponent + 127) << 23;
  float v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

// Entry and exit of a box's slabs. An axis along which the ray does not move decides by its origin alone, so that
// no 0 * infinity arises.
FB_HD bool slabs(const float* origin, const float* direction, const float* low, const float* high, float still,
                 float* entry, float* exit) {
  *entry = -FAR_AWAY;
  *exit = FAR_AWAY;
  for (int a = 0; a < 3; ++a) {
    if (fabsf(direction[a]) <= still) {
      if (origin[a] < low[a] || origin[a] > high[a]) return false;
      continue;
    }
    const float t0 = (low[a] - origin[a]) / direction[a], t1 = (high[a] - origin[a]) / direction[a];
    *entry = maximum(*entry, minimum(t0, t1));
    *exit = minimum(*exit, maximum(t0, t1));
  }
  return *entry <= *exit;
}

struct RayBox {
  const float *origins, *directions;  // [N, 3]
  float low[3], high[3], min_near;
  float *near_t, *far_t;              // [N]

  FB_HD void operator()(int64_t i) const {
    float entry, exit;
    const bool hit = slabs(origins + i * 3, directions + i * 3, low, high, 0.0f, &entry, &exit);
    near_t[i] = hit ? maximum(entry, min_near) : FAR_AWAY;
    far_t[i] = hit ? exit : FAR_AWAY;
  }
};

FB_HD MarchRay march_ray_of(const MarchArgs& a, int64_t i) {
  const MarchSpec& s = a.spec;
  const int64_t r = a.alive ? a.alive[i] : i;
  MarchRay ray{};
  ray.end = -FAR_AWAY;
  if (r < 0 || r >= a.total) return ray;
  for (int d = 0; d < 3; ++d) {
    ray.origin[d] = (a.origins[r * 3 + d] - s.centre[d]) * s.inverse_half;
    ray.direction[d] = a.directions[r * 3 + d] * s.inverse_half;
    ray.inverse[d] = copysignf(1.0f / maximum(fabsf(ray.direction[d]), 1e-30f), ray.direction[d]);
    ray.ahead[d] = ray.inverse[d] > 0.0f ? 1 << s.block_shift : 0;
  }
  ray.far_t = a.far_t[r];
  const float near_t = a.near_t[r];
  ray.start = a.noise ? fmaf(step_length(s, near_t), a.noise[r], near_t) : near_t;
  // A little larger than the grid, so that a ray whose near and far are the grid's own loses no step to rounding.
  const float edge = s.bound * 1.000001f;
  const float low[3] = {-edge, -edge, -edge}, high[3] = {edge, edge, edge};
  float exit;
  const bool hit = slabs(ray.origin, ray.direction, low, high, 1e-20f, &ray.entry, &exit);
  const float end = minimum(ray.far_t, exit);
  // Where a step is lost in t's rounding there is no march; NaN ends here too.
  if (hit && end * 6e-8f < s.step_min && ray.start * -6e-8f < s.step_min) ray.end = end;
  return ray;
}

FB_HD MarchCell march_cell(const MarchSpec& s, const MarchRay& ray, float t, float length) {
  MarchCell cell{};
  cell.scale = s.half_resolution;
  float point[3], most = 0.0f;
  for (int d = 0; d < 3; ++d) {
    point[d] = fmaf(t, ray.direction[d], ray.origin[d]);
    most = maximum(most, fabsf(point[d]));
  }
  int32_t by_length = 0;
  if (s.cascades > 1) {
    by_length = cascade_of(length * s.step_to_cells, s.cascades - 1);
    const int32_t by_point = cascade_of(most, s.cascades - 1);
    cell.level = by_point > by_length ? by_point : by_length;
    cell.scale *= power_of_two(-cell.level);
  }
  const int32_t top = s.resolution - 1, quarter = s.resolution / 4;
  bool inner = cell.level > by_length;
  for (int d = 0; d < 3; ++d) {
    cell.at[d] = fmaf(point[d], cell.scale, s.half_resolution);
    const int32_t index = static_cast<int32_t>(cell.at[d]);
    cell.index[d] = index < 0 ? 0 : index > top ? top : index;
    inner = inner && cell.index[d] >= quarter && cell.index[d] < 3 * quarter;
  }
  // A point on the very edge of a cascade counts to the next, whose cell there may lie inside.
  cell.covered = inner;
  return cell;
}

// How far along t the ray certainly stays in the cell's block. Rounding is always against the jump, so no step is
// decided by a block that it is not in; the result may be negative.
FB_HD float stay(const MarchSpec& s, const MarchRay& ray, const MarchCell& c, float t) {
  const float slack = s.half_resolution * 1e-6f;
  float distance = FAR_AWAY;
  for (int d = 0; d < 3; ++d) {
    const int32_t face = (c.index[d] >> s.block_shift << s.block_shift) + ray.ahead[d];
    const float room = static_cast<float>(face) - c.at[d];
    distance = minimum(distance, fmaf(room, ray.inverse[d], -slack * fabsf(ray.inverse[d])));
  }
  return fmaf(distance * power_of_two(c.level), s.cell * 0.9999995f, fabsf(t) * -5e-7f);
}

FB_HD bool block_occupied(const MarchArgs& a, const MarchCell& c) {
  const int32_t b = a.spec.block_shift, side = a.spec.resolution >> b;
  return a.blocks[((c.level * side + (c.index[0] >> b)) * side + (c.index[1] >> b)) * side + (c.index[2] >> b)];
}

// Which cell of its cascade, which has `scale` cells per unit, holds the ray's point at t.
template <bool MORTON>
FB_HD uint32_t cell_at(const MarchSpec& s, const MarchRay& ray, float scale, float t) {
  int32_t index[3];
  for (int d = 0; d < 3; ++d) {
    const int32_t i = static_cast<int32_t>(fmaf(fmaf(t, ray.direction[d], ray.origin[d]), scale, s.half_resolution));
    index[d] = i < 0 ? 0 : i >= s.resolution ? s.resolution - 1 : i;
  }
  if constexpr (MORTON) return morton_encode(index[0], index[1], index[2]);
  else return static_cast<uint32_t>((index[0] * s.resolution + index[1]) * s.resolution + index[2]);
}

// Bit k: step k of the `count` from p on, all of them in the cell's cascade, lies in an occupied cell.
template <bool MORTON, class Steps>
FB_LANES uint32_t look_up(const MarchArgs& a, const MarchRay& ray, const Steps& steps, typename Steps::Position p,
                          const MarchCell& cell, int count) {
  const MarchSpec& s = a.spec;
  const int64_t first = cell.level * static_cast<int64_t>(s.resolution) * s.resolution * s.resolution;
  const uint32_t *bits = a.bits + first / 32, offset = first % 32;
  const auto place = [&](float t) { return cell_at<MORTON>(s, ray, cell.scale, t) + offset; };
  return vote(count, steps.points_from(p), place, [bits](uint32_t i) { return bits[i >> 5] >> (i & 31) & 1u; });
}

// Marches one ray. `sink(position, mask)` takes groups of steps in order: bit k is step k from the position on.
// Returns the position behind the last step looked at.
template <bool MORTON, class Steps, class Sink>
FB_LANES typename Steps::Position march_ray(const MarchArgs& a, const MarchRay& ray, const Steps& steps, Sink& sink) {
  const MarchSpec& s = a.spec;
  typename Steps::Position p = steps.first();
  int32_t left = s.max_samples;
  if (steps.point(p) < ray.entry && ray.entry < ray.end) {
    const float ahead = ray.entry - steps.point(p) - 2.0f * steps.length_at(p);
    if (ahead > 0.0f) steps.pass(p, ahead, ray.end, FAR_AWAY, MAX_STEPS / 2);
    while (steps.point(p) < ray.entry && !steps.last(p)) p = steps.advance(p, 1);
  }
  while (left > 0 && !steps.last(p)) {
    const float t = steps.point(p);
    if (!(t < ray.end)) break;
    const MarchCell cell = march_cell(s, ray, t, steps.length_at(p));
    const float longest = cell.level == s.cascades - 1 ? FAR_AWAY : power_of_two(cell.level) / s.step_to_cells;
    const float distance = cell.covered ? -1.0f : stay(s, ray, cell, t);
    if (s.block_shift > 0 && !block_occupied(a, cell)) {
      steps.pass(p, distance, ray.end, longest, MAX_STEPS / 2);
      continue;
    }
    const typename Steps::Position from = p;
    const int32_t n = steps.pass(p, distance, ray.end, longest, GROUP);
    uint32_t mask = look_up<MORTON>(a, ray, steps, from, cell, n);
    if (mask == 0) continue;
    while (bits_set(mask) > left) mask &= ~(1u << highest_bit(mask));
    sink(from, mask);
    left -= bits_set(mask);
    if (left == 0) p = steps.advance(from, highest_bit(mask) + 1);
  }
  return p;
}

// Calls `f(steps)` with the kind of steps that the spec asks for.
template <class Function>
FB_LANES void with_steps(const MarchSpec& s, const MarchRay& ray, const Function& f) {
  if (s.cone == 0.0f) f(EvenSteps(s, ray.start));
  else f(ConeSteps(s, ray.start));
}

// Where the next march of the ray goes on; a ray that is done stays done.
template <class Steps>
FB_HD float resume_at(const Steps& steps, typename Steps::Position p, const MarchRay& ray) {
  return steps.point(p) < ray.end ? steps.t(p) : maximum(ray.far_t, ray.start);
}

// Bit b of bits[i]: cell 32 i + b is occupied.
struct MarchBits {
  const uint8_t* cells;  // each 0 or 1
  uint32_t* bits;

  FB_HD void operator()(int64_t i) const {
    uint64_t eights[4];
    __builtin_memcpy(eights, cells + i * 32, sizeof eights);
    uint32_t word = 0;
    // The product brings the lowest bits of eight bytes side by side into the highest byte.
    for (int b = 0; b < 4; ++b) word |= static_cast<uint32_t>((eights[b] * 0x0102040810204080ull) >> 56) << 8 * b;
    bits[i] = word;
  }
};

// blocks[i] = any of the block's cells is occupied.
struct MarchBlocks {
  const uint32_t* bits;
  uint8_t* blocks;
  int32_t resolution, block_shift, morton;

  // The `width` bits from `first` on, a multiple of it; width divides 32.
  FB_HD uint32_t some(int64_t first, int32_t width) const {
    return bits[first / 32] >> (first % 32) & ((1u << width) - 1u);
  }

  FB_HD void operator()(int64_t i) const {
    const int64_t side = resolution >> block_shift, h = resolution;
    const int32_t width = 1 << block_shift;
    const int64_t z = i % side, y = i / side % side, x = i / side / side % side, level = i / side / side / side;
    uint32_t any = 0;
    if (morton) {
      const int64_t cells = static_cast<int64_t>(width) * width * width;
      const int64_t first = level * h * h * h + cells * morton_encode(x, y, z);
      for (int64_t b = 0; b < cells; b += 8) any |= some(first + b, 8);
    } else {
      for (int64_t u = x * width; u < (x + 1) * width; ++u)
        for (int64_t v = y * width; v < (y + 1) * width; ++v)
          any |= some(((level * h + u) * h + v) * h + z * width, width);
    }
    blocks[i] = any != 0;
  }
};

}  // namespace fieldbook
