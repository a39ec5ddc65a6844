// lanes.h on a GPU: one float per lane of a warp; all lanes of a warp are always in the same call.
#pragma once
#define FB_LANES __device__ __forceinline__
#define FB_UNROLL _Pragma("unroll")

namespace fieldbook {

constexpr int LANES = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
using Lanes = float;

FB_LANES int this_lane() { return static_cast<int>(threadIdx.x) % LANES; }
FB_LANES bool is_first_lane() { return this_lane() == 0; }

FB_LANES Lanes fill(float value) { return value; }

FB_LANES Lanes load(const float* from, int count) { return this_lane() < count ? from[this_lane()] : 0.0f; }

FB_LANES void store(float* to, Lanes v, int count) {
  if (this_lane() < count) to[this_lane()] = v;
}

// Rows of C floats, `channels` of which are used.
template <int C>
FB_LANES void load_rows(const float* rows, int count, int channels, Lanes (&v)[C]) {
  FB_UNROLL
  for (int c = 0; c < C; ++c)
    v[c] = c < channels && this_lane() < count ? rows[static_cast<int64_t>(this_lane()) * channels + c] : 0.0f;
}

template <int C>
FB_LANES void store_rows(float* rows, const Lanes (&v)[C], int count, int channels) {
  FB_UNROLL
  for (int c = 0; c < C; ++c)
    if (c < channels && this_lane() < count) rows[static_cast<int64_t>(this_lane()) * channels + c] = v[c];
}

FB_LANES void prefetch_rows(const float*, int) {}

FB_LANES Lanes exp_lanes(Lanes v) { return exp_fast(v); }
FB_LANES Lanes keep_first(Lanes v, int count) { return this_lane() < count ? v : 0.0f; }

FB_LANES float total(Lanes v) {
  for (int step = LANES / 2; step > 0; step /= 2) v += __shfl_xor_sync(ALL_LANES, v, step);
  return v;
}

FB_LANES int first_below(Lanes v, float bound) {
  const unsigned below = __ballot_sync(ALL_LANES, v < bound);
  return below ? __ffs(static_cast<int>(below)) - 1 : LANES;
}

FB_LANES float first(Lanes v) { return __shfl_sync(ALL_LANES, v, 0); }
FB_LANES float last(Lanes v) { return __shfl_sync(ALL_LANES, v, LANES - 1); }

FB_LANES Lanes after(Lanes v, float carry) {
  const float left = __shfl_up_sync(ALL_LANES, v, 1);
  return is_first_lane() ? carry : left;
}

FB_LANES Lanes ahead(Lanes v, float carry) {
  const float right = __shfl_down_sync(ALL_LANES, v, 1);
  return this_lane() == LANES - 1 ? carry : right;
}

FB_LANES Lanes running_product(Lanes v) {
  for (int step = 1; step < LANES; step *= 2) {
    const float other = __shfl_up_sync(ALL_LANES, v, step);
    v *= this_lane() >= step ? other : 1.0f;
  }
  return v;
}

FB_LANES Lanes running_sum(Lanes v) {
  for (int step = 1; step < LANES; step *= 2) {
    const float other = __shfl_up_sync(ALL_LANES, v, step);
    v += this_lane() >= step ? other : 0.0f;
  }
  return v;
}

FB_LANES Lanes running_sum_from_end(Lanes v) {
  for (int step = 1; step < LANES; step *= 2) {
    const float other = __shfl_down_sync(ALL_LANES, v, step);
    v += this_lane() + step < LANES ? other : 0.0f;
  }
  return v;
}

FB_LANES Lanes recur_from_end(Lanes factor, Lanes term, float carry) {
  for (int step = 1; step < LANES; step *= 2) {
    const float later_factor = __shfl_down_sync(ALL_LANES, factor, step);
    const float later_term = __shfl_down_sync(ALL_LANES, term, step);
    if (this_lane() + step < LANES) {
      term += factor * later_term;
      factor *= later_factor;
    }
  }
  return term + factor * carry;
}

}  // namespace fieldbook
