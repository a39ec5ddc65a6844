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

// softplus(h) = log(1 + exp(beta h)) / beta and its slope, the logistic function of beta h. Both are exact where the
// exponential is nothing beside 1; NaN stays NaN.
FB_HD void softplus(float h, float beta, float inverse, float& value, float& slope) {
  const float size = h < 0.0f ? -h : h;
  const float e = exp_fast(-beta * size), r = 1.0f / (1.0f + e);
  value = 0.5f * (h + size) + inverse * log1p_unit(e);
  slope = h < 0.0f ? e * r : (h >= 0.0f ? r : h);
}

// activation: from h to softplus(h); slope may not overlap it.
inline void softplus_rows(float* __restrict activation, float* __restrict slope, int rows, float beta) {
  const float inverse = 1.0f / beta;
#pragma omp simd
  for (int k = 0; k < rows * PANEL; ++k) softplus(activation[k], beta, inverse, activation[k], slope[k]);
}

// product = weight of the row * slope.
inline void weigh_rows(const float* weights, const float* slope, float* product, int rows) {
  for (int r = 0; r < rows; ++r)
    for (int s = 0; s < PANEL; ++s) product[r * PANEL + s] = weights[r] * slope[r * PANEL + s];
}

inline void multiply_rows(const float* slope, float* x, int rows) {
  for (int k = 0; k < rows * PANEL; ++k) x[k] *= slope[k];
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
