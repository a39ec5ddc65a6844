// A small ReLU network without biases on a block of samples: every activation is a row of LANES * VECTORS floats, so
// that a layer is a handful of multiply-adds per vector register and nothing leaves the cache between layers.
#pragma once
#include "common.h"

namespace fieldbook {

typedef float vec16 __attribute__((vector_size(64)));

constexpr int LANES = 16;
constexpr int VECTORS = 16;
constexpr int BLOCK = LANES * VECTORS;  // samples; a 64-wide activation then takes 64 KB
constexpr int TILE = 8;                 // outputs that share a loaded input: 8 x 2 accumulators fill half the registers

constexpr int padded(int n) { return (n + TILE - 1) / TILE * TILE; }

// out[o] = sum over i of weights[i * stride + o] * in[i], for `outputs` (a multiple of TILE) rows.
inline void layer_rows(const float* weights, int stride, const float* in, int inputs, float* out, int outputs,
                       bool relu) {
  const vec16* x = reinterpret_cast<const vec16*>(in);
  vec16* y = reinterpret_cast<vec16*>(out);
  for (int v = 0; v < VECTORS; v += 2) {  // outside: the inputs' columns then stay in the first cache
    for (int o = 0; o < outputs; o += TILE) {
      vec16 sum[TILE][2] = {};
      for (int i = 0; i < inputs; ++i) {
        const vec16 a = x[i * VECTORS + v], b = x[i * VECTORS + v + 1];
        const float* w = weights + i * stride + o;
        for (int k = 0; k < TILE; ++k) {
          sum[k][0] += w[k] * a;
          sum[k][1] += w[k] * b;
        }
      }
      for (int k = 0; k < TILE; ++k) {
        for (int h = 0; h < 2; ++h) {
          const vec16 s = sum[k][h];
          y[(o + k) * VECTORS + v + h] = relu ? (s > 0.0f ? s : vec16{}) : s;
        }
      }
    }
  }
}

// sums[o * stride + i] += the products grad[o] * in[i], lane by lane, in tiles of 4 x 4. Adding up the lanes is left to
// the end: done here it would cost as much as the products.
inline void add_outer(const float* grad, int outputs, const float* in, int inputs, vec16* sums, int stride) {
  const vec16* g = reinterpret_cast<const vec16*>(grad);
  const vec16* x = reinterpret_cast<const vec16*>(in);
  for (int o = 0; o < outputs; o += 4) {
    for (int i = 0; i < inputs; i += 4) {
      vec16 sum[4][4];
      for (int a = 0; a < 4; ++a)
        for (int b = 0; b < 4; ++b) sum[a][b] = sums[(o + a) * stride + i + b];
      for (int v = 0; v < VECTORS; ++v)
        for (int a = 0; a < 4; ++a)
          for (int b = 0; b < 4; ++b) sum[a][b] += g[(o + a) * VECTORS + v] * x[(i + b) * VECTORS + v];
      for (int a = 0; a < 4; ++a)
        for (int b = 0; b < 4; ++b) sums[(o + a) * stride + i + b] = sum[a][b];
    }
  }
}

inline float sum_lanes(const vec16& v) {
  float total = 0.0f;
  for (int lane = 0; lane < LANES; ++lane) total += v[lane];
  return total;
}

// grad = 0 where the activation is not positive.
inline void mask_relu(const float* activation, float* grad, int rows) {
  const vec16* h = reinterpret_cast<const vec16*>(activation);
  vec16* g = reinterpret_cast<vec16*>(grad);
  for (int k = 0; k < rows * VECTORS; ++k) g[k] = h[k] > 0.0f ? g[k] : vec16{};
}

}  // namespace fieldbook
