// Upkeep of an occupancy grid: Mueller et al. 2022, "Instant Neural Graphics Primitives", appendix C.
// One element = one cell, byte or coordinate triple.
#pragma once
#include "common.h"
#include "morton.h"

namespace fieldbook {

// A cell's value decays, and rises at once; a negative one was never seen and stays.
struct OccupancyUpdate {
  float* density;        // [cells]
  const int64_t* cells;  // [K], or null: cell i
  const float* values;   // [K]
  int64_t total;
  float decay;

  FB_HD void operator()(int64_t i) const {
    const int64_t cell = cells ? cells[i] : i;
    if (cell < 0 || cell >= total) return;
    const float old = density[cell], faded = decay * old;
    if (old >= 0.0f) density[cell] = values[i] > faded ? values[i] : faded;
  }
};

struct PackBits {
  const float* density;  // [8 * bytes]
  uint8_t* bits;
  float threshold;

  FB_HD void operator()(int64_t i) const {
    uint32_t byte = 0;
    for (int b = 0; b < 8; ++b) byte |= static_cast<uint32_t>(density[i * 8 + b] > threshold) << b;
    bits[i] = static_cast<uint8_t>(byte);
  }
};

struct MortonEncode {
  const int64_t* coords;  // [N, 3]
  int64_t* index;         // [N]

  FB_HD void operator()(int64_t i) const {
    const int64_t* c = coords + i * 3;
    index[i] = morton_encode(static_cast<uint32_t>(c[0]), static_cast<uint32_t>(c[1]), static_cast<uint32_t>(c[2]));
  }
};

struct MortonDecode {
  const int64_t* index;  // [N]
  int64_t* coords;       // [N, 3]

  FB_HD void operator()(int64_t i) const {
    for (int a = 0; a < 3; ++a) coords[i * 3 + a] = gather_bits(static_cast<uint32_t>(index[i]) >> a);
  }
};

// A camera that looks for cells: rows of world-to-camera with z forward, the position, and the inward normals of the
// four side planes, each with one component along x or y and one along z.
struct Viewer {
  float right[3], down[3], forward[3], position[3];
  float left_x, left_z, right_x, right_z, top_y, top_z, bottom_y, bottom_z;
};

// Sets cells that no camera can see to -1. A cell counts as the ball around it: none is lost that shows a corner.
struct MarkUnseen {
  float* density;         // [C, H, H, H]
  const Viewer* viewers;  // [K]
  int64_t viewer_count;
  float centre[3];
  float half, min_distance;
  int32_t resolution;

  FB_HD bool sees(const Viewer& v, const float* p, float radius) const {
    float x = 0.0f, y = 0.0f, z = 0.0f;
    for (int a = 0; a < 3; ++a) {
      const float r = p[a] - v.position[a];
      x += v.right[a] * r;
      y += v.down[a] * r;
      z += v.forward[a] * r;
    }
    return z > min_distance - radius && v.left_x * x + v.left_z * z > -radius &&
           v.right_x * x + v.right_z * z > -radius && v.top_y * y + v.top_z * z > -radius &&
           v.bottom_y * y + v.bottom_z * z > -radius;
  }

  FB_HD void operator()(int64_t i) const {
    if (!(density[i] >= 0.0f)) return;
    const int64_t h = resolution, level = i / (h * h * h);
    const int64_t index[3] = {i / (h * h) % h, i / h % h, i % h};
    const float cell = 2.0f * half * static_cast<float>(int64_t{1} << level) / static_cast<float>(h);
    float p[3];
    for (int a = 0; a < 3; ++a) p[a] = centre[a] + (static_cast<float>(index[a]) + 0.5f - 0.5f * h) * cell;
    for (int64_t k = 0; k < viewer_count; ++k)
      if (sees(viewers[k], p, 0.8660254f * cell)) return;
    density[i] = -1.0f;
  }
};

}  // namespace fieldbook
