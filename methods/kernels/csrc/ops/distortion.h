// Distortion of a ray's weights (Barron et al. 2022, "Mip-NeRF 360", equation 15), in O(n): with m_k the middle and d_k
// the length of interval k, sum over i, j of w_i w_j |m_i - m_j|, plus a third of the sum of w_i^2 d_i.
//
// Let G_k = sum over j of w_j |m_k - m_j|. Then the loss is the sum of w_k (G_k + w_k d_k / 3) and its gradient is
// 2 G_k + 2/3 w_k d_k. From k - 1 to k, G grows by the gap of the middles times the weight before k less the weight
// from k on, so one running sum gives the weights and a second one G. One element = one ray.
#pragma once
#include "lanes.h"

namespace fieldbook {

struct DistortionForward {
  const float* weights;    // [M]
  const float* t_start;    // [M]
  const float* t_end;      // [M]
  const int64_t* offsets;  // [N + 1]
  int64_t samples;
  float* loss;   // [N]
  float* slope;  // [M], the gradient of each ray's loss; or null

  FB_LANES void operator()(int64_t ray) const {
    const Segment s = segment_of(offsets, ray, samples);
    Lanes sum = {};
    if (s.begin < s.end) walk(s, sum);
    const float value = total(sum);
    if (is_first_lane()) loss[ray] = value;
  }

 private:
  FB_LANES void walk(const Segment& s, Lanes& sum) const {
    Lanes start = fill(t_start[s.begin]), end = fill(t_end[s.begin]);  // of the sample before
    Lanes weight_sum = {}, spread_sum = {}, fall = {};
    for (int64_t at = s.begin; at < s.end; at += LANES) {
      const int count = s.left(at);
      const Lanes weight = load(weights + at, count);
      weight_sum += weight;
      spread_sum += weight * gap(load(t_start + at, count), load(t_end + at, count), start, end);
    }
    const Lanes all = fill(total(weight_sum));
    Lanes before = {}, g = fill(total(spread_sum));
    for (int64_t at = s.begin; at < s.end; at += LANES) {
      const int count = s.left(at);
      const Lanes weight = load(weights + at, count);
      const Lanes t0 = load(t_start + at, count), t1 = load(t_end + at, count);
      const Lanes so_far = running_sum(weight) + before;
      const Lanes rise = keep_first(gap(t0, t1, after(t0, start), after(t1, end)), count);
      fall = rise < fall ? rise : fall;
      const Lanes growth = rise * (2.0f * after(so_far, before) - all);
      const Lanes spread = running_sum(growth) + g;
      const Lanes half_slope = spread + (1.0f / 3.0f) * weight * (t1 - t0);
      sum += weight * half_slope;
      if (slope) store(slope + at, 2.0f * half_slope, count);
      before = last(so_far);
      g = last(spread);
      start = last(t0);
      end = last(t1);
    }
    // Middles that fall have no sum like this: the loss becomes infinite, which the caller reports.
    if (total(fall) < 0.0f) sum = fill(INFINITY);
  }

  // From the middle of one interval to that of another, without the middles' rounding.
  FB_LANES static Lanes gap(Lanes t0, Lanes t1, Lanes from0, Lanes from1) {
    return 0.5f * ((t0 - from0) + (t1 - from1));
  }
};

// The samples' gradient: their ray's times their slope.
struct DistortionBackward {
  const float* slope;      // [M]
  const float* grad;       // [N]
  const int64_t* offsets;  // [N + 1]
  int64_t samples;
  float* to_weights;  // [M]

  FB_LANES void operator()(int64_t ray) const {
    const Segment s = segment_of(offsets, ray, samples);
    const float g = grad[ray];
    for (int64_t at = s.begin; at < s.end; at += LANES)
      store(to_weights + at, g * load(slope + at, s.left(at)), s.left(at));
  }
};

}  // namespace fieldbook
