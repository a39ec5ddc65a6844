// Encodings of directions and positions that have no parameters: real spherical harmonics, and sines and cosines.
#pragma once
#include "lanes.h"

namespace fieldbook {

constexpr int MAX_DEGREE = 8;

constexpr double constexpr_sqrt(double v) {
  double root = v > 1.0 ? v : 1.0;
  for (int i = 0; i < 60; ++i) root = 0.5 * (root + v / root);
  return root;
}

// Y_lm = q_lm(z) times the real (m >= 0) or imaginary part of (x + iy)^|m|. This is q_mm, with the sign (-1)^m that
// tiny-cuda-nn and torch-ngp keep.
constexpr double harmonic_start(int m) {
  double square = (m == 0 ? 1.0 : 2.0) * (2 * m + 1) / (4.0 * 3.14159265358979323846);
  for (int i = 1; i <= m; ++i) square *= (2.0 * i - 1.0) / (2.0 * i);
  return m % 2 ? -constexpr_sqrt(square) : constexpr_sqrt(square);
}

// q_{l+1,m} = up(l + 1, m) z q_lm - up(l + 1, m) / up(l, m) q_{l-1,m}
constexpr double harmonic_up(int l, int m) { return constexpr_sqrt((4.0 * l * l - 1.0) / (1.0 * l * l - 1.0 * m * m)); }

// As members, so that device code uses the numbers and not the functions.
template <int L, int M>
struct HarmonicStep {
  static constexpr float start = static_cast<float>(harmonic_start(M));
  static constexpr float up = static_cast<float>(harmonic_up(L + 1, M));
  static constexpr double below = harmonic_up(L > M ? L : M + 1, M);
  static constexpr float back = L > M ? static_cast<float>(harmonic_up(L + 1, M) / below) : 0.0f;
};

// Calls visit(l, q, slope) for l = M..DEGREE-1 with q = q_lM(z) and slope = dq/dz.
template <int DEGREE, int M, int L = M, class Visit>
FB_LANES void harmonic_column(Lanes z, Lanes q, Lanes q_below, Lanes slope, Lanes slope_below, const Visit& visit) {
  visit(L, q, slope);
  if constexpr (L + 1 < DEGREE) {
    constexpr float up = HarmonicStep<L, M>::up, back = HarmonicStep<L, M>::back;
    const Lanes next = up * z * q - back * q_below;
    const Lanes next_slope = up * (q + z * slope) - back * slope_below;
    harmonic_column<DEGREE, M, L + 1>(z, next, q, next_slope, slope, visit);
  }
}

// re + i im = (x + iy)^m; `below`: of m - 1.
struct HarmonicAngle {
  Lanes re, im, re_below, im_below;
};

// Calls visit(m, l, q, slope, angle) for every m <= l < DEGREE.
template <int DEGREE, int M = 0, class Visit>
FB_LANES void harmonics(const Lanes (&d)[3], const HarmonicAngle& a, const Visit& visit) {
  harmonic_column<DEGREE, M>(d[2], fill(HarmonicStep<M, M>::start), Lanes{}, Lanes{}, Lanes{},
                             [&](int l, Lanes q, Lanes slope) { visit(M, l, q, slope, a); });
  if constexpr (M + 1 < DEGREE)
    harmonics<DEGREE, M + 1>(d, {d[0] * a.re - d[1] * a.im, d[0] * a.im + d[1] * a.re, a.re, a.im}, visit);
}

template <int DEGREE, class Visit>
FB_LANES void all_harmonics(const Lanes (&d)[3], const Visit& visit) {
  harmonics<DEGREE>(d, {fill(1.0f), Lanes{}, Lanes{}, Lanes{}}, visit);
}

// Rows of out [N, DEGREE^2]: Y_lm at l^2 + l + m. One element = a group of lanes' directions.
template <int DEGREE>
struct HarmonicsForward {
  const float* directions;  // [N, 3]
  float* out;
  int64_t points;

  FB_LANES void operator()(int64_t group) const {
    const int64_t at = group * LANES;
    const int left = Segment{0, points}.left(at);
    if (left == LANES) write(at, LANES);  // a number that the compiler knows spares it masks and branches
    else write(at, left);
  }

 private:
  FB_LANES void write(int64_t at, int left) const {
    constexpr int SIZE = DEGREE * DEGREE;
    Lanes d[3], y[SIZE];
    load_rows(directions + 3 * at, left, 3, d);
    all_harmonics<DEGREE>(d, [&](int m, int l, Lanes q, Lanes, const HarmonicAngle& a) {
      y[l * l + l + m] = q * a.re;
      if (m > 0) y[l * l + l - m] = q * a.im;
    });
    store_rows(out + SIZE * at, y, left, SIZE);
  }
};

// to_directions [N, 3] from grad [N, DEGREE^2]; the harmonics are computed again.
template <int DEGREE>
struct HarmonicsBackward {
  const float* directions;
  const float* grad;
  float* to_directions;
  int64_t points;

  FB_LANES void operator()(int64_t group) const {
    constexpr int SIZE = DEGREE * DEGREE;
    const Segment all{0, points};
    const int64_t at = group * LANES;
    Lanes d[3], g[SIZE], to[3] = {};
    load_rows(directions + 3 * at, all.left(at), 3, d);
    load_rows(grad + SIZE * at, all.left(at), SIZE, g);
    all_harmonics<DEGREE>(d, [&](int m, int l, Lanes q, Lanes slope, const HarmonicAngle& a) {
      const Lanes real = g[l * l + l + m];
      to[2] += slope * real * a.re;
      if (m == 0) return;
      const Lanes imaginary = g[l * l + l - m], both = static_cast<float>(m) * q;
      to[2] += slope * imaginary * a.im;
      to[0] += both * (real * a.re_below + imaginary * a.im_below);
      to[1] += both * (imaginary * a.re_below - real * a.im_below);
    });
    store_rows(to_directions + 3 * at, to, all.left(at), 3);
  }
};

// A number as the sum of two floats.
struct TwoFloats {
  float high, low;
};

struct SinCos {
  float sin, cos;
};

// sin and cos of (t * quarters) quarter turns. The product is kept in two floats while whole quarters are taken off, so
// that the error is 6e-8 as long as there are fewer than 2^22 of these.
FB_HD SinCos sin_cos_quarters(float t, TwoFloats quarters) {
  const float high = t * quarters.high;
  const float low = fmaf(t, quarters.high, -high) + t * quarters.low;
  const float whole = floorf(high + 0.5f);
  const float r = (high - whole) + low, square = r * r;
  const float quadrant = whole - 4.0f * floorf(0.25f * whole);  // 0 to 3
  // Minimax on [-1/2, 1/2].
  const float s =
      r * (1.570796305f + square * (-0.6459629382f + square * (7.967590293e-2f + square * -4.592288963e-3f)));
  const float c = 1.0f + square * (-1.233700543f +
                                   square * (0.2536692440f + square * (-2.086028850e-2f + square * 9.040216515e-4f)));
  const bool swap = quadrant == 1.0f || quadrant == 3.0f;
  const float sine = swap ? c : s, cosine = swap ? s : c;
  return {quadrant >= 2.0f ? -sine : sine, quadrant == 1.0f || quadrant == 2.0f ? -cosine : cosine};
}

// A row of the frequency encoding of D numbers: those themselves if `input`, then sines and cosines of x 2^k scale.
struct FrequencyShape {
  int64_t points;
  int32_t dims, octaves, input, sines_first;
  TwoFloats quarters;  // scale in quarter turns

  FB_HD int32_t waves() const { return dims * octaves; }
  FB_HD int64_t width() const { return 2 * static_cast<int64_t>(waves()) + (input ? dims : 0); }
  // Of octave k, dimension d.
  FB_HD int64_t sine_at(int32_t k, int32_t d) const {
    return (input ? dims : 0) + (sines_first ? k : 2 * k) * static_cast<int64_t>(dims) + d;
  }
  FB_HD int64_t sine_to_cosine() const { return sines_first ? waves() : dims; }
};

// One element = one dimension of one point at one octave.
struct FrequencyForward {
  FrequencyShape shape;
  const float* x;  // [N, D]
  float* out;

  FB_HD void operator()(int64_t i) const {
    const int64_t point = i / shape.waves();
    const int32_t wave = static_cast<int32_t>(i % shape.waves()), k = wave / shape.dims, d = wave % shape.dims;
    const float v = x[point * shape.dims + d];
    float* row = out + point * shape.width();
    if (shape.input && k == 0) row[d] = v;
    write(row, v, static_cast<float>(1u << k), shape.sine_at(k, d));
  }

  FB_HD void write(float* row, float v, float octave, int64_t sine_at) const {
    const SinCos wave = sin_cos_quarters(v * octave, shape.quarters);
    row[sine_at] = wave.sin;
    row[sine_at + shape.sine_to_cosine()] = wave.cos;
  }
};

// One element = one dimension of one point; sines and cosines are read from the forward pass's output.
struct FrequencyBackward {
  FrequencyShape shape;
  float scale;
  const float* out;   // [N, width]
  const float* grad;  // [N, width]
  float* to_x;        // [N, D]

  FB_HD void operator()(int64_t i) const {
    const int32_t d = static_cast<int32_t>(i % shape.dims);
    const int64_t row = i / shape.dims * shape.width(), step = shape.sine_to_cosine();
    float sum = shape.input ? grad[row + d] : 0.0f, frequency = scale;
    for (int32_t k = 0; k < shape.octaves; ++k, frequency *= 2.0f) {
      const int64_t at = row + shape.sine_at(k, d);
      sum += frequency * (grad[at] * out[at + step] - grad[at + step] * out[at]);
    }
    to_x[i] = sum;
  }
};

}  // namespace fieldbook
