// Points of samples on their rays, x = o + t d, and the sums that its gradient is.
#pragma once
#include "common.h"

namespace fieldbook {

// One element = one sample.
struct RayPoints {
  const float *origins, *directions;  // [N, 3]
  const float* t;                     // [M]
  const int64_t* ray_index;           // [M]
  float* points;                      // [M, 3]
  int64_t rays;

  FB_HD void operator()(int64_t i) const {
    const int64_t r = ray_index[i];
    if (r < 0 || r >= rays) return;
    for (int a = 0; a < 3; ++a) points[i * 3 + a] = fmaf(t[i], directions[r * 3 + a], origins[r * 3 + a]);
  }
};

// One element = one ray's samples, added in order.
struct RayPointsBackward {
  const float* grad;           // [M, 3]
  const float* t;              // [M]
  const int64_t* ray_index;    // [M], equal within an element
  const int64_t* offsets;      // [elements + 1]
  float *origins, *directions; // [N, 3], zeroed
  int64_t rays, samples;

  FB_HD void operator()(int64_t i) const {
    const int64_t begin = offsets[i], end = offsets[i + 1] < samples ? offsets[i + 1] : samples;
    if (begin < 0 || begin >= end || ray_index[begin] < 0 || ray_index[begin] >= rays) return;
    float sum[3] = {}, moment[3] = {};
    for (int64_t j = begin; j < end; ++j)
      for (int a = 0; a < 3; ++a) {
        sum[a] += grad[j * 3 + a];
        moment[a] = fmaf(t[j], grad[j * 3 + a], moment[a]);
      }
    const int64_t r = ray_index[begin];
    for (int a = 0; a < 3; ++a) {
      origins[r * 3 + a] = sum[a];
      directions[r * 3 + a] = moment[a];
    }
  }
};

}  // namespace fieldbook
