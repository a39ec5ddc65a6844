// Volume rendering along a ray (Max 1995, "Optical models for direct volume rendering"; Mildenhall et al. 2020,
// equation 3). M samples of N rays; w_i = T_i alpha_i with T_i the product of 1 - alpha_j, j < i. A ray stops after the
// sample that takes T below `early_stop`. One element = one ray.
#pragma once
#include "lanes.h"

namespace fieldbook {

constexpr int MAX_CHANNELS = 16;

struct CompositeSamples {
  const float* value;      // [M] density; or alpha
  const float* rgb;        // [M, C]
  const float* t_start;    // [M]
  const float* t_end;      // [M]
  const float* extra;      // [M], or null
  const int64_t* offsets;  // [N + 1]
  int64_t samples;
  int32_t channels;
  float early_stop;
};

template <int C>
FB_LANES int channels_of(const CompositeSamples& s) {
  return C == MAX_CHANNELS ? s.channels : C;
}

// 1 - alpha of a group of lanes; 1 where there is no sample.
template <bool ALPHA>
FB_LANES Lanes survive_of(const CompositeSamples& s, int64_t at, int count) {
  const Lanes value = load(s.value + at, count);
  if constexpr (ALPHA) return 1.0f - value;
  const Lanes x = value * (load(s.t_end + at, count) - load(s.t_start + at, count));
  // exp(-infinity) is a fine number; the second term makes such a ray's outputs NaN, which the caller reports.
  return exp_lanes(-x) + 0.0f * x;
}

FB_LANES Lanes middle_of(const CompositeSamples& s, int64_t at, int count) {
  return 0.5f * (load(s.t_start + at, count) + load(s.t_end + at, count));
}

// What a ray adds up, lane by lane. C: channels at compile time; MAX_CHANNELS: up to as many, known at run time.
template <int C>
struct CompositeSums {
  Lanes rgb[C] = {};
  Lanes opacity = {}, depth = {}, extra = {};
};

// Walks a ray from `transmittance` on; writes `weights` ([M], or null). Returns whether the ray stopped early.
template <int C, bool ALPHA>
FB_LANES bool composite_walk(const CompositeSamples& s, const Segment& ray, float transmittance, float* weights,
                             CompositeSums<C>& sums) {
  const int channels = channels_of<C>(s);
  bool stopped = false;
  Lanes carry = fill(transmittance);
  int64_t at = ray.begin;
  for (; at < ray.end && !stopped; at += LANES) {
    const int count = ray.left(at);
    const Lanes survive = survive_of<ALPHA>(s, at, count);
    const Lanes behind = running_product(survive) * carry;
    Lanes weight = after(behind, carry) * (1.0f - survive);
    const int stop = first_below(behind, s.early_stop);
    int used = count;
    if (stop < LANES) {
      stopped = true;
      used = stop + 1;
      weight = keep_first(weight, used);
    }
    carry = last(behind);
    if (weights) store(weights + at, weight, count);
    Lanes rgb[C];
    load_rows<C>(s.rgb + at * channels, used, channels, rgb);
    FB_UNROLL
    for (int c = 0; c < C; ++c) sums.rgb[c] += weight * rgb[c];
    sums.opacity += weight;
    sums.depth += weight * middle_of(s, at, used);
    if (s.extra) sums.extra += load(s.extra + at, used);
  }
  for (; weights && at < ray.end; at += LANES) store(weights + at, Lanes{}, ray.left(at));
  return stopped;
}

template <int C, bool ALPHA>
struct CompositeForward {
  CompositeSamples samples;
  float* rgb;      // [N, C]
  float* opacity;  // [N]
  float* depth;    // [N]
  float* weights;  // [M]
  float* extra;    // [N], or null

  FB_LANES void operator()(int64_t ray) const {
    CompositeSums<C> sums;
    composite_walk<C, ALPHA>(samples, segment_of(samples.offsets, ray, samples.samples), 1.0f, weights, sums);
    const int channels = channels_of<C>(samples);
    FB_UNROLL
    for (int c = 0; c < C; ++c) {
      const float value = total(sums.rgb[c]);
      if (c < channels && is_first_lane()) rgb[ray * channels + c] = value;
    }
    const float o = total(sums.opacity), d = total(sums.depth), e = total(sums.extra);
    if (!is_first_lane()) return;
    opacity[ray] = o;
    depth[ray] = d;
    if (extra) extra[ray] = e;
  }
};

// The gradient. With g_i = dL/dw_i and R_i = sum over j > i of g_j alpha_j times the product of 1 - alpha_k, i < k < j,
// dL/dalpha_i = T_i (g_i - R_i): R is a recurrence from the ray's end, R_i = g_{i+1} alpha_{i+1} + (1 - alpha_{i+1})
// R_{i+1}. It needs no division, so alpha = 1 is no special case, and adds only terms as large as the result.
template <int C, bool ALPHA>
struct CompositeBackward {
  CompositeSamples samples;
  const float* grad_rgb;      // [N, C], or null, like all below
  const float* grad_opacity;  // [N]
  const float* grad_depth;    // [N]
  const float* grad_weights;  // [M]
  const float* grad_extra;    // [N]
  float* to_value;            // [M]
  float* to_rgb;              // [M, C], or null
  float* to_extra;            // [M], or null

  FB_LANES void operator()(int64_t ray) const {
    const Segment s = segment_of(samples.offsets, ray, samples.samples);
    const int64_t stop = transmittances(s);
    clear(stop, s.end);
    if (stop == s.begin) return;
    RayGrad g;
    load_grad(ray, g);
    const Segment used{s.begin, stop};
    Lanes behind = {};
    for (int64_t at = used.last_start(); at >= used.begin; at -= LANES) behind = chunk(at, used.left(at), g, behind);
  }

 private:
  struct RayGrad {
    float rgb[C], opacity, depth, extra;
  };

  FB_LANES void load_grad(int64_t ray, RayGrad& g) const {
    const int channels = channels_of<C>(samples);
    FB_UNROLL
    for (int c = 0; c < C; ++c) g.rgb[c] = grad_rgb && c < channels ? grad_rgb[ray * channels + c] : 0.0f;
    g.opacity = grad_opacity ? grad_opacity[ray] : 0.0f;
    g.depth = grad_depth ? grad_depth[ray] : 0.0f;
    g.extra = grad_extra ? grad_extra[ray] : 0.0f;
  }

  // T before every sample that is used waits in to_value; returns the end of these.
  FB_LANES int64_t transmittances(const Segment& s) const {
    const int channels = channels_of<C>(samples);
    Lanes carry = fill(1.0f);
    for (int64_t at = s.begin; at < s.end; at += LANES) {
      const int count = s.left(at);
      const Lanes behind = running_product(survive_of<ALPHA>(samples, at, count)) * carry;
      store(to_value + at, after(behind, carry), count);
      // The way back visits these from the end, which the CPU's own prefetching does not foresee.
      prefetch_rows(samples.rgb + at * channels, channels);
      if (to_rgb) prefetch_rows(to_rgb + at * channels, channels);
      const int stop = first_below(behind, samples.early_stop);
      if (stop < LANES) return at + stop + 1;
      carry = last(behind);
    }
    return s.end;
  }

  FB_LANES void clear(int64_t begin, int64_t end) const {
    const int channels = channels_of<C>(samples);
    const Segment rest{begin, end}, rows{begin * channels, end * channels};
    for (int64_t at = begin; at < end; at += LANES) {
      store(to_value + at, Lanes{}, rest.left(at));
      if (to_extra) store(to_extra + at, Lanes{}, rest.left(at));
    }
    for (int64_t at = rows.begin; to_rgb && at < rows.end; at += LANES) store(to_rgb + at, Lanes{}, rows.left(at));
  }

  // Writes the gradients of one group of lanes; returns R before it.
  FB_LANES Lanes chunk(int64_t at, int count, const RayGrad& g, Lanes behind) const {
    const int channels = channels_of<C>(samples);
    const Lanes survive = survive_of<ALPHA>(samples, at, count), before = load(to_value + at, count);
    const Lanes alpha = 1.0f - survive, weight = before * alpha;
    Lanes pull = g.opacity + g.depth * middle_of(samples, at, count);
    if (grad_weights) pull += load(grad_weights + at, count);
    Lanes rgb[C];
    load_rows<C>(samples.rgb + at * channels, count, channels, rgb);
    FB_UNROLL
    for (int c = 0; c < C; ++c) pull += g.rgb[c] * rgb[c];
    const Lanes rest = recur_from_end(survive, pull * alpha, behind);
    Lanes to = before * (pull - ahead(rest, behind));
    if constexpr (!ALPHA) to *= survive * (load(samples.t_end + at, count) - load(samples.t_start + at, count));
    store(to_value + at, to, count);
    if (to_extra) store(to_extra + at, fill(g.extra), count);
    FB_UNROLL
    for (int c = 0; c < C; ++c) rgb[c] = g.rgb[c] * weight;
    if (to_rgb) store_rows<C>(to_rgb + at * channels, rgb, count, channels);
    return first(rest);
  }
};

// One step of rendering without gradients: ray alive[i] goes on by the samples of row i from T = 1 - opacity.
template <int C>
struct CompositeAlive {
  CompositeSamples samples;
  const int64_t* alive;  // [A]
  int64_t rays, steps;
  float* rgb;      // [N, C], added to, like all below
  float* opacity;  // [N]
  float* depth;    // [N]
  uint8_t* keep;   // [A]: the ray used `steps` samples and goes on

  FB_LANES void operator()(int64_t i) const {
    const int64_t ray = alive[i];
    if (ray < 0 || ray >= rays) {
      if (is_first_lane()) keep[i] = 0;
      return;
    }
    const Segment s = segment_of(samples.offsets, i, samples.samples);
    CompositeSums<C> sums;
    const bool stopped = composite_walk<C, false>(samples, s, 1.0f - opacity[ray], nullptr, sums);
    const int channels = channels_of<C>(samples);
    FB_UNROLL
    for (int c = 0; c < C; ++c) {
      const float value = total(sums.rgb[c]);
      if (c < channels && is_first_lane()) rgb[ray * channels + c] += value;
    }
    const float o = total(sums.opacity), d = total(sums.depth);
    if (!is_first_lane()) return;
    opacity[ray] += o;
    depth[ray] += d;
    keep[i] = !stopped && s.end - s.begin == steps;
  }
};

}  // namespace fieldbook
