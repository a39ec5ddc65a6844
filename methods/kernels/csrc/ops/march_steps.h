// The steps of a march along a ray: where they start, and how many fit into a distance.
#pragma once
#include "common.h"

namespace fieldbook {

constexpr float FAR_AWAY = 3.402823466e38f;
constexpr int32_t MAX_STEPS = 1 << 30;

struct MarchSpec {
  float centre[3];
  float inverse_half;
  float step_min, step_max, cone;
  float shift;            // of a step's point within the step: 0 or 0.5
  float bound;            // half side of the last cascade, in units of cascade 0's
  float half_resolution;  // H / 2
  float cell;             // 2 / H: side of a cell of cascade 0, in its half side
  float step_to_cells;    // a step's length times this, in cells of cascade 0, halved: chooses the cascade
  int32_t cascades, resolution, max_samples;
  int32_t morton;         // cells are bits in Morton order; else bytes, x slowest
  int32_t block_shift;    // log2 of a block's side in cells; 0: no blocks
};

FB_HD float step_length(const MarchSpec& s, float t) { return clamp(t * s.cone, s.step_min, s.step_max); }

// Steps of one length: step k starts at start + k * length, so a jump costs what a step costs.
struct EvenSteps {
  using Position = int32_t;
  float start, length, inverse, shift;

  FB_HD EvenSteps(const MarchSpec& s, float from)
      : start(from), length(s.step_min), inverse(1.0f / s.step_min), shift(s.shift) {}
  FB_HD Position first() const { return 0; }
  FB_HD float t(Position k) const { return fmaf(static_cast<float>(k), length, start); }
  FB_HD float point(Position k) const { return fmaf(static_cast<float>(k) + shift, length, start); }
  FB_HD float length_at(Position) const { return length; }
  FB_HD Position advance(Position k, int32_t n) const { return k + n; }
  FB_HD bool last(Position k) const { return k >= MAX_STEPS; }

  // How many steps from k on certainly have their points less than `distance` after k's and before the end, k's own
  // always among them; and the position behind them.
  FB_HD int32_t pass(Position& k, float distance, float end, float, int32_t most) const {
    const float room = minimum(distance, end - point(k));
    int32_t n = 1 + static_cast<int32_t>(clamp(room * inverse, 0.0f, static_cast<float>(most - 1)));
    while (n > 1 && point(k + n - 1) >= end) --n;
    k += n;
    return n;
  }

  // Point of the j-th step from k on; asked for in order of j on the CPU.
  FB_HD auto points_from(Position k) const {
    return [this, k](int j) { return point(k + j); };
  }
};

// Steps that grow with t.
struct ConeSteps {
  using Position = float;
  const MarchSpec& spec;
  float start;

  FB_HD ConeSteps(const MarchSpec& s, float from) : spec(s), start(from) {}
  FB_HD Position first() const { return start; }
  FB_HD float t(Position p) const { return p; }
  FB_HD float point(Position p) const { return fmaf(step_length(spec, p), spec.shift, p); }
  FB_HD float length_at(Position p) const { return step_length(spec, p); }
  FB_HD Position advance(Position p, int32_t n) const {
    for (int32_t j = 0; j < n; ++j) p += step_length(spec, p);
    return p;
  }
  FB_HD bool last(Position) const { return false; }

  // `longest`: a step as long as this would choose another cascade.
  FB_HD int32_t pass(Position& p, float distance, float end, float longest, int32_t most) const {
    const float stop = minimum(point(p) + distance, end);
    int32_t n = 1;
    for (p = advance(p, 1); n < most && point(p) < stop && length_at(p) < longest; p = advance(p, 1)) ++n;
    return n;
  }

  FB_HD auto points_from(Position p) const {
#if defined(__CUDA_ARCH__)
    return [this, p](int j) { return point(advance(p, j)); };
#else
    return [this, p](int) mutable {
      const float here = point(p);
      p = advance(p, 1);
      return here;
    };
#endif
  }
};

}  // namespace fieldbook
