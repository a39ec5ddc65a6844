// The softplus of a distance network and its slope, on rows of a panel.
#pragma once
#include "panel.h"

namespace fieldbook {

// log(1 + e) for e in [0, 1]: e times a polynomial of least relative error (3e-8; 1.8e-7 with the roundings).
FB_HD float log1p_unit(float e) {
  float p = 5.23269456e-3f;
  p = p * e - 2.95052435e-2f;
  p = p * e + 7.82259628e-2f;
  p = p * e - 1.36632472e-1f;
  p = p * e + 1.91060081e-1f;
  p = p * e - 2.4842982e-1f;
  p = p * e + 3.33190978e-1f;
  p = p * e - 4.99994934e-1f;
  p = p * e + 9.9999994e-1f;
  return p * e;
}

// 2^t for t <= 0, by a polynomial of least relative error on [-1/2, 1/2]. Exactly 0 below -126, and for NaN.
FB_HD float exp2_unit(float t) {
  const float clipped = maximum(t, -126.0f), k = __builtin_floorf(clipped + 0.5f), f = clipped - k;
  float p = 1.53458124e-4f;
  p = p * f + 1.33999309e-3f;
  p = p * f + 9.61848907e-3f;
  p = p * f + 5.55032864e-2f;
  p = p * f + 2.40226462e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f + 1.0f;
  const int32_t bits = (static_cast<int32_t>(k) + 127) << 23;
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return t >= -126.0f ? p * scale : 0.0f;
}

struct Sharpness {
  explicit Sharpness(double b)
      : beta(static_cast<float>(b)), inverse(static_cast<float>(1 / b)), rate(static_cast<float>(-LOG2_E * b)) {}
  static constexpr double LOG2_E = 1.4426950408889634;
  float beta, inverse, rate;  // exp(-beta x) = 2^(rate x)
};

// softplus(h) = log(1 + exp(beta h)) / beta and its slope, the logistic function of beta h. Both are exact where the
// exponential is nothing beside 1; NaN stays NaN.
FB_HD void softplus(float h, const Sharpness& sharp, float& value, float& slope) {
  const float size = h < 0.0f ? -h : h;
  const float e = exp2_unit(size * sharp.rate), r = 1.0f / (1.0f + e);
  value = (h <= 0.0f ? 0.0f : h) + sharp.inverse * log1p_unit(e);
  slope = h < 0.0f ? e * r : (h >= 0.0f ? r : h);
}

inline void softplus_rows(float* __restrict activation, float* __restrict slope, int rows, const Sharpness& sharp) {
#pragma omp simd
  for (int k = 0; k < rows * PANEL; ++k) softplus(activation[k], sharp, activation[k], slope[k]);
}

// product = weight of the row * slope.
inline void weigh_rows(const float* weights, const float* slope, float* product, int rows) {
  for (int r = 0; r < rows; ++r)
    for (int s = 0; s < PANEL; ++s) product[r * PANEL + s] = weights[r] * slope[r * PANEL + s];
}

inline void multiply_rows(const float* slope, float* x, int rows) {
  for (int k = 0; k < rows * PANEL; ++k) x[k] *= slope[k];
}

// out[s] = bias + the sum over the rows of weight * value.
inline void weigh_and_add(const float* weights, float bias, const float* value, int rows, float* out) {
  for (int s = 0; s < PANEL; ++s) out[s] = bias;
  for (int r = 0; r < rows; ++r)
    for (int s = 0; s < PANEL; ++s) out[s] += weights[r] * value[r * PANEL + s];
}

// Back through product = p * slope(h), from the gradient in product: to_p takes its place, to_h is made.
inline void product_rows(const float* __restrict slope, const float* __restrict product, float* __restrict to_p,
                         float* __restrict to_h, int rows, float beta) {
  for (int k = 0; k < rows * PANEL; ++k) {
    const float u = to_p[k];
    to_h[k] = u * product[k] * (beta * (1.0f - slope[k]));
    to_p[k] = u * slope[k];
  }
}

// Back through value = softplus(h), from the gradient in value; added to what to_h has, or instead of it.
inline void value_rows(const float* __restrict slope, const float* __restrict to_value, float* __restrict to_h,
                       int rows, bool add) {
  for (int k = 0; k < rows * PANEL; ++k) to_h[k] = to_value[k] * slope[k] + (add ? to_h[k] : 0.0f);
}

}  // namespace fieldbook
