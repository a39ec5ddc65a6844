// Small layers on a panel of samples: every activation is a row of PANEL floats and a panel's rows follow one another,
// so that a layer is a handful of multiply-adds per vector register and its inputs fit the first cache.
#pragma once
#include "common.h"

namespace fieldbook {

typedef float vec16 __attribute__((vector_size(64)));

constexpr int LANES = 16;
constexpr int VECTORS = 2;
constexpr int PANEL = LANES * VECTORS;  // samples
constexpr int TILE = 8;  // outputs that share a loaded input: 8 x 2 accumulators fill half the registers

constexpr int padded(int n) { return (n + TILE - 1) / TILE * TILE; }

// out[o] = bias[o] + the sum over i of weights[i * stride + o] * in[i], for `outputs` (a multiple of TILE) rows.
inline void layer_rows(const float* weights, int stride, const float* bias, const float* in, int inputs, float* out,
                       int outputs) {
  const vec16* x = reinterpret_cast<const vec16*>(in);
  vec16* y = reinterpret_cast<vec16*>(out);
  for (int o = 0; o < outputs; o += TILE) {
    vec16 sum[TILE][VECTORS];
    for (int k = 0; k < TILE; ++k)
      for (int v = 0; v < VECTORS; ++v) sum[k][v] = vec16{} + (bias != nullptr ? bias[o + k] : 0.0f);
    for (int i = 0; i < inputs; ++i) {
      const vec16 a = x[i * VECTORS], b = x[i * VECTORS + 1];
      const float* w = weights + i * stride + o;
      for (int k = 0; k < TILE; ++k) {
        sum[k][0] += w[k] * a;
        sum[k][1] += w[k] * b;
      }
    }
    for (int k = 0; k < TILE; ++k)
      for (int v = 0; v < VECTORS; ++v) y[(o + k) * VECTORS + v] = sum[k][v];
  }
}

// Rows of a gradient and rows of what it is multiplied with, in panels.
struct Factors {
  const float *grad, *in;
};

// sums[o * inputs + i] += the products grad[o] * in[i] of each pair, lane by lane, in tiles of 8 x 2, over `panels`
// panels that lie `stride` floats apart. Adding up the lanes is left to the end: done here it would cost as much as the
// products.
inline void add_outer(const Factors* pairs, int number, int outputs, int inputs, int panels, int64_t stride,
                      vec16* sums) {
  constexpr int OUT = 8, IN = 2;  // the gradient's rows of a tile stay in the first cache, the others come by
  for (int o = 0; o < outputs; o += OUT) {
    for (int i = 0; i < inputs; i += IN) {
      vec16 sum[OUT][IN];
      for (int a = 0; a < OUT; ++a)
        for (int b = 0; b < IN; ++b) sum[a][b] = sums[(o + a) * inputs + i + b];
      for (const Factors* pair = pairs; pair < pairs + number; ++pair) {
        for (int p = 0; p < panels; ++p) {
          const vec16* g = reinterpret_cast<const vec16*>(pair->grad + p * stride) + o * VECTORS;
          const vec16* x = reinterpret_cast<const vec16*>(pair->in + p * stride) + i * VECTORS;
          for (int v = 0; v < VECTORS; ++v)
            for (int a = 0; a < OUT; ++a)
              for (int b = 0; b < IN; ++b) sum[a][b] += g[a * VECTORS + v] * x[b * VECTORS + v];
        }
      }
      for (int a = 0; a < OUT; ++a)
        for (int b = 0; b < IN; ++b) sums[(o + a) * inputs + i + b] = sum[a][b];
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

// Turns a 16 x 16 block: four rounds that each deal the first eight rows between the last eight.
inline void transpose(vec16* rows) {
  for (int round = 0; round < 4; ++round) {
    vec16 dealt[LANES];
    for (int i = 0; i < LANES / 2; ++i) {
      const vec16 a = rows[i], b = rows[i + LANES / 2];
      dealt[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      dealt[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    for (int i = 0; i < LANES; ++i) rows[i] = dealt[i];
  }
}

// To rows of a panel, zeros behind them: the `width` numbers that `row(s)` points at, of `samples` (at most PANEL).
template <class Row>
inline void load_rows(const Row& row, int width, int samples, float* rows) {
  const int whole = samples == PANEL ? width / LANES * LANES : 0;
  for (int i = 0; i < whole; i += LANES) {
    for (int s = 0; s < PANEL; s += LANES) {
      vec16 block[LANES];
      for (int k = 0; k < LANES; ++k) __builtin_memcpy(&block[k], row(s + k) + i, sizeof(vec16));
      transpose(block);
      for (int k = 0; k < LANES; ++k) __builtin_memcpy(rows + (i + k) * PANEL + s, &block[k], sizeof(vec16));
    }
  }
  for (int s = 0; s < samples; ++s)
    for (int i = whole; i < width; ++i) rows[i * PANEL + s] = row(s)[i];
  for (int i = 0; i < width && samples < PANEL; ++i)
    for (int s = samples; s < PANEL; ++s) rows[i * PANEL + s] = 0.0f;
}

// The same for `samples` rows of a [M, width] matrix.
inline void load_panel(const float* x, int width, int samples, float* rows) {
  load_rows([=](int s) { return x + s * width; }, width, samples, rows);
}

inline void store_panel(const float* rows, int width, int samples, float* out) {
  const int whole = samples == PANEL ? width / LANES * LANES : 0;
  for (int i = 0; i < whole; i += LANES) {
    for (int s = 0; s < PANEL; s += LANES) {
      vec16 block[LANES];
      for (int k = 0; k < LANES; ++k) __builtin_memcpy(&block[k], rows + (i + k) * PANEL + s, sizeof(vec16));
      transpose(block);
      for (int k = 0; k < LANES; ++k) __builtin_memcpy(out + (s + k) * width + i, &block[k], sizeof(vec16));
    }
  }
  for (int s = 0; s < samples; ++s)
    for (int i = whole; i < width; ++i) out[s * width + i] = rows[i * PANEL + s];
}

}  // namespace fieldbook
