// lanes.h on the CPU: the lanes of a vector register, in the vector types of g++ and clang++.
#pragma once
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#define FB_LANES inline __attribute__((always_inline))
#define FB_UNROLL

namespace fieldbook {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t LaneInts __attribute__((vector_size(4 * LANES)));
using LaneIndices = std::make_integer_sequence<int, LANES>;

FB_LANES bool is_first_lane() { return true; }

// The same value in all lanes.
FB_LANES Lanes fill(float value) { return Lanes{} + value; }

FB_LANES Lanes root(Lanes v) {
  for (int k = 0; k < LANES; ++k) v[k] = __builtin_sqrtf(v[k]);
  return v;
}

// Lane k of the result is lane AT(k) of a followed by b.
template <class At, int... K>
FB_LANES Lanes pick(Lanes a, Lanes b, At at, std::integer_sequence<int, K...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, at(K)...);
#else
  return __builtin_shuffle(a, b, LaneInts{at(K)...});
#endif
}

template <int... K>
FB_LANES LaneInts lane_numbers(std::integer_sequence<int, K...>) {
  return LaneInts{K...};
}

// All ones in the lanes before `count`, which may be negative or more than there are.
FB_LANES LaneInts lanes_before(int count) { return lane_numbers(LaneIndices()) < count; }

// Masked loads and stores, where there are instructions for them, spare the loops a second body for the last lanes.
#if defined(__AVX512F__)
FB_LANES __mmask16 mask_of(int count) {
  return static_cast<__mmask16>(count >= LANES ? 0xffffu : count <= 0 ? 0u : (1u << count) - 1u);
}
#endif

FB_LANES Lanes load(const float* from, int count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(mask_of(count), from);
#elif defined(__AVX__)
  return _mm256_maskload_ps(from, reinterpret_cast<__m256i>(lanes_before(count)));
#else
  Lanes v = {};
  for (int k = 0; k < LANES && k < count; ++k) v[k] = from[k];
  return v;
#endif
}

FB_LANES void store(float* to, Lanes v, int count) {
  if (count >= LANES) {
    __builtin_memcpy(to, &v, sizeof v);
    return;
  }
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, mask_of(count), v);
#elif defined(__AVX__)
  _mm256_maskstore_ps(to, reinterpret_cast<__m256i>(lanes_before(count)), v);
#else
  for (int k = 0; k < count; ++k) to[k] = v[k];
#endif
}

// Rows of three: from three registers as they lie in memory to one per channel, and back.
template <int CHANNEL>
FB_LANES Lanes channel_of(const Lanes (&flat)[3]) {
  constexpr auto place = [](int k) { return 3 * k + CHANNEL; };
  constexpr auto low = [place](int k) { return place(k) < 2 * LANES ? place(k) : 0; };
  constexpr auto high = [place](int k) { return place(k) < 2 * LANES ? k : place(k) - LANES; };
  return pick(pick(flat[0], flat[1], low, LaneIndices()), flat[2], high, LaneIndices());
}

template <int PART>
FB_LANES Lanes part_of(const Lanes (&v)[3]) {
  constexpr auto place = [](int k) { return PART * LANES + k; };
  constexpr auto low = [place](int k) { return place(k) / 3 + (place(k) % 3 == 1 ? LANES : 0); };
  constexpr auto high = [place](int k) { return place(k) % 3 == 2 ? LANES + place(k) / 3 : k; };
  return pick(pick(v[0], v[1], low, LaneIndices()), v[2], high, LaneIndices());
}

// Blocks of four lanes of a followed by b: those of even number, or those of odd number.
template <int ODD>
FB_LANES Lanes every_other_block(Lanes a, Lanes b) {
  return pick(a, b, [](int k) constexpr { return (2 * (k / 4) + ODD) * 4 + k % 4; }, LaneIndices());
}

// Lanes 4l and 4l + 1 of a and b in turn; or 4l + 2 and 4l + 3.
template <int HIGH>
FB_LANES Lanes zip(Lanes a, Lanes b) {
  return pick(a, b, [](int k) constexpr { return k / 4 * 4 + 2 * HIGH + k % 4 / 2 + k % 2 * LANES; }, LaneIndices());
}

// The same in pairs of lanes.
template <int HIGH>
FB_LANES Lanes zip_pairs(Lanes a, Lanes b) {
  return pick(a, b, [](int k) constexpr { return k / 4 * 4 + 2 * HIGH + k % 2 + k % 4 / 2 * LANES; }, LaneIndices());
}

// Lane j of v[i] and lane i of v[j] change places: first within blocks of four by four, then the blocks. Shuffles that
// stay within four lanes are the fast ones.
FB_LANES void transpose(Lanes (&v)[LANES]) {
  for (int i = 0; i < LANES; i += 4) {
    const Lanes a = zip<0>(v[i], v[i + 1]), b = zip<1>(v[i], v[i + 1]);
    const Lanes c = zip<0>(v[i + 2], v[i + 3]), d = zip<1>(v[i + 2], v[i + 3]);
    v[i] = zip_pairs<0>(a, c);
    v[i + 1] = zip_pairs<1>(a, c);
    v[i + 2] = zip_pairs<0>(b, d);
    v[i + 3] = zip_pairs<1>(b, d);
  }
  if constexpr (LANES == 8) {
    for (int j = 0; j < 4; ++j) {
      const Lanes a = v[j], b = v[j + 4];
      v[j] = every_other_block<0>(a, b);
      v[j + 4] = every_other_block<1>(a, b);
    }
  } else if constexpr (LANES == 16) {
    for (int j = 0; j < 4; ++j) {
      const Lanes a = every_other_block<0>(v[j], v[j + 4]), b = every_other_block<1>(v[j], v[j + 4]);
      const Lanes c = every_other_block<0>(v[j + 8], v[j + 12]), d = every_other_block<1>(v[j + 8], v[j + 12]);
      v[j] = every_other_block<0>(a, c);
      v[j + 8] = every_other_block<1>(a, c);
      v[j + 4] = every_other_block<0>(b, d);
      v[j + 12] = every_other_block<1>(b, d);
    }
  }
}

// Rows of C floats, of which `width` are there, to one register per column.
template <int C>
FB_LANES void load_rows(const float* rows, int count, int width, Lanes (&v)[C]) {
  if constexpr (C == 3) {
    const Lanes flat[3] = {load(rows, 3 * count), load(rows + LANES, 3 * count - LANES),
                           load(rows + 2 * LANES, 3 * count - 2 * LANES)};
    v[0] = channel_of<0>(flat);
    v[1] = channel_of<1>(flat);
    v[2] = channel_of<2>(flat);
  } else {
    for (int c = 0; c < C; c += LANES) {
      Lanes block[LANES] = {};
      for (int k = 0; k < LANES; ++k)
        if (k < count) block[k] = load(rows + static_cast<int64_t>(k) * width + c, width - c);
      transpose(block);
      for (int i = 0; i < LANES && c + i < C; ++i) v[c + i] = block[i];
    }
  }
}

template <int C>
FB_LANES void store_rows(float* rows, const Lanes (&v)[C], int count, int width) {
  if constexpr (C == 3) {
    store(rows, part_of<0>(v), 3 * count);
    store(rows + LANES, part_of<1>(v), 3 * count - LANES);
    store(rows + 2 * LANES, part_of<2>(v), 3 * count - 2 * LANES);
  } else {
    for (int c = 0; c < C; c += LANES) {
      Lanes block[LANES] = {};
      for (int i = 0; i < LANES && c + i < C; ++i) block[i] = v[c + i];
      transpose(block);
      for (int k = 0; k < LANES; ++k)
        if (k < count) store(rows + static_cast<int64_t>(k) * width + c, block[k], width - c);
    }
  }
}

// Begins to fetch a group's rows of `width` floats.
FB_LANES void prefetch_rows(const float* rows, int width) {
  constexpr int LINE = 16;  // floats
  for (int i = 0; i < width * LANES; i += LINE) __builtin_prefetch(rows + i);
}

// exp(v) for v <= 88, as 2^k 2^f with f in [-1/2, 1/2]: half of exp_fast's instructions, because rounding by adding a
// large number leaves k in the last bits. The error is 6e-8 (1 + |v|) of the result, which ends at e^-87.
FB_LANES Lanes exp_lanes(Lanes v) {
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23
  const Lanes twos = (v < -87.0f ? fill(-87.0f) : v) * 1.44269504f;
  const Lanes rounded = twos + ROUND;
  const Lanes f = twos - (rounded - ROUND);
  Lanes p = 1.53533605e-4f * f + 1.33988750e-3f;
  p = p * f + 9.61843692e-3f;
  p = p * f + 5.55033237e-2f;
  p = p * f + 2.40226477e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f + 1.0f;
  LaneInts bits;
  __builtin_memcpy(&bits, &rounded, sizeof bits);
  bits = (bits << 23) + (127 << 23);
  Lanes scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

// Zero from lane `count` on.
FB_LANES Lanes keep_first(Lanes v, int count) {
  return reinterpret_cast<Lanes>(reinterpret_cast<LaneInts>(v) & lanes_before(count));
}

template <int STEP = LANES / 2>
FB_LANES float total(Lanes v) {
  v += pick(v, v, [](int k) constexpr { return k ^ STEP; }, LaneIndices());
  if constexpr (STEP > 1) return total<STEP / 2>(v);
  else return v[0];
}

// The first lane below the bound, or LANES; the lanes never rise.
FB_LANES int first_below(Lanes v, float bound) {
  if (!(v[LANES - 1] < bound)) return LANES;
  int k = 0;
  while (!(v[k] < bound)) ++k;
  return k;
}

// The first or the last lane, in all lanes.
FB_LANES Lanes first(Lanes v) { return pick(v, v, [](int) constexpr { return 0; }, LaneIndices()); }
FB_LANES Lanes last(Lanes v) { return pick(v, v, [](int) constexpr { return LANES - 1; }, LaneIndices()); }

// Every lane's left neighbour STEP away, or right one if negative; where there is none, that lane of `edge`.
template <int STEP>
FB_LANES Lanes neighbour(Lanes v, Lanes edge) {
  const auto at = [](int k) constexpr { return k - STEP >= 0 && k - STEP < LANES ? k - STEP : LANES + k; };
  return pick(v, edge, at, LaneIndices());
}

// Every lane's left neighbour; the first lane gets `carry`.
FB_LANES Lanes after(Lanes v, Lanes carry) { return neighbour<1>(v, carry); }
// Every lane's right neighbour; the last lane gets `carry`.
FB_LANES Lanes ahead(Lanes v, Lanes carry) { return neighbour<-1>(v, carry); }

// Product of a lane and all before it.
template <int STEP = 1>
FB_LANES Lanes running_product(Lanes v) {
  v *= neighbour<STEP>(v, fill(1.0f));
  if constexpr (2 * STEP < LANES) return running_product<2 * STEP>(v);
  else return v;
}

// Sum of a lane and all before it.
template <int STEP = 1>
FB_LANES Lanes running_sum(Lanes v) {
  v += neighbour<STEP>(v, Lanes{});
  if constexpr (2 * STEP < LANES) return running_sum<2 * STEP>(v);
  else return v;
}

// Sum of a lane and all behind it.
template <int STEP = 1>
FB_LANES Lanes running_sum_from_end(Lanes v) {
  v += neighbour<-STEP>(v, Lanes{});
  if constexpr (2 * STEP < LANES) return running_sum_from_end<2 * STEP>(v);
  else return v;
}

// v[k] = term[k] + factor[k] * v[k + 1], with `carry` behind the last lane.
template <int STEP = 1>
FB_LANES Lanes recur_from_end(Lanes factor, Lanes term, Lanes carry) {
  term += factor * neighbour<-STEP>(term, Lanes{});
  factor *= neighbour<-STEP>(factor, fill(1.0f));
  if constexpr (2 * STEP < LANES) return recur_from_end<2 * STEP>(factor, term, carry);
  else return term + factor * carry;
}

}  // namespace fieldbook
