// Small layers on a panel of samples: every activation is a row of PANEL floats and a panel's rows follow one another, so
// that a layer is a handful of multiply-adds per vector register and its inputs fit the first cache.
#pragma once
#include "common.h"

namespace fieldbook {

typedef float vec16 __attribute__((vector_size(64)));

constexpr int LANES = 16;
constexpr int VECTORS = 2;
constexpr int PANEL = LANES * VECTORS;  // samples
constexpr int TILE = 8;  // outputs that share a loaded input: 8 x 2 accumulators fill half the registers

constexpr int padded(int n) { return (n + TILE - 1) / TILE * TILE; }

// out[o] = bias[o] + the sum over i of weights[i * outputs + o] * in[i], for `outputs` (a multiple of TILE) rows.
inline void layer_rows(const float* weights, const float* bias, const float* in, int inputs, float* out, int outputs) {
  const vec16* x = reinterpret_cast<const vec16*>(in);
  vec16* y = reinterpret_cast<vec16*>(out);
  for (int o = 0; o < outputs; o += TILE) {
    vec16 sum[TILE][VECTORS];
    for (int k = 0; k < TILE; ++k)
      for (int v = 0; v < VECTORS; ++v) sum[k][v] = vec16{} + (bias != nullptr ? bias[o + k] : 0.0f);
    for (int i = 0; i < inputs; ++i) {
      const vec16 a = x[i * VECTORS], b = x[i * VECTORS + 1];
      const float* w = weights + i * outputs + o;
      for (int k = 0; k < TILE; ++k) {
        sum[k][0] += w[k] * a;
        sum[k][1] += w[k] * b;
      }
    }
    for (int k = 0; k < TILE; ++k)
      for (int v = 0; v < VECTORS; ++v) y[(o + k) * VECTORS + v] = sum[k][v];
  }
}

// sums[o * inputs + i] += the products grad[o] * in[i], lane by lane, in tiles of 4 x 4, over `panels` panels that lie
// `stride` floats apart. Adding up the lanes is left to the end: done here it would cost as much as the products.
inline void add_outer(const float* grad, int outputs, const float* in, int inputs, int panels, int64_t stride,
                      vec16* sums) {
  for (int o = 0; o < outputs; o += 4) {
    for (int i = 0; i < inputs; i += 4) {
      vec16 sum[4][4];
      for (int a = 0; a < 4; ++a)
        for (int b = 0; b < 4; ++b) sum[a][b] = sums[(o + a) * inputs + i + b];
      for (int p = 0; p < panels; ++p) {
        const vec16* g = reinterpret_cast<const vec16*>(grad + p * stride) + o * VECTORS;
        const vec16* x = reinterpret_cast<const vec16*>(in + p * stride) + i * VECTORS;
        for (int v = 0; v < VECTORS; ++v)
          for (int a = 0; a < 4; ++a)
            for (int b = 0; b < 4; ++b) sum[a][b] += g[a * VECTORS + v] * x[b * VECTORS + v];
      }
      for (int a = 0; a < 4; ++a)
        for (int b = 0; b < 4; ++b) sums[(o + a) * inputs + i + b] = sum[a][b];
    }
  }
}

// sums[o] += grad[o], lane by lane.
inline void add_rows(const float* grad, int outputs, int panels, int64_t stride, vec16* sums) {
  for (int p = 0; p < panels; ++p) {
    const vec16* g = reinterpret_cast<const vec16*>(grad + p * stride);
    for (int o = 0; o < outputs; ++o)
      for (int v = 0; v < VECTORS; ++v) sums[o] += g[o * VECTORS + v];
  }
}

inline float sum_lanes(const vec16& v) {
  float total = 0.0f;
  for (int lane = 0; lane < LANES; ++lane) total += v[lane];
  return total;
}

// Columns of `samples` (at most PANEL) rows of a [M, width] matrix to rows of a panel, zeros behind them.
inline void load_panel(const float* x, int width, int samples, float* rows) {
  for (int s = 0; s < samples; ++s)
    for (int i = 0; i < width; ++i) rows[i * PANEL + s] = x[static_cast<int64_t>(s) * width + i];
  for (int i = 0; i < width && samples < PANEL; ++i)
    for (int s = samples; s < PANEL; ++s) rows[i * PANEL + s] = 0.0f;
}

inline void store_panel(const float* rows, int width, int samples, float* out) {
  for (int s = 0; s < samples; ++s)
    for (int i = 0; i < width; ++i) out[static_cast<int64_t>(s) * width + i] = rows[i * PANEL + s];
}

}  // namespace fieldbook
