// What up to 32 neighbouring steps of one ray find in a table of bits: a warp with a step per lane on a GPU, loops that
// the compiler vectorises on the CPU.
#pragma once
#include "lanes.h"

namespace fieldbook {

constexpr int GROUP = 32;

#if defined(__CUDACC__)

// Bit k of the result: test(place(value(k))) of 0 or 1, for k < count >= 1; place may be asked for a few more.
template <class Value, class Place, class Test>
FB_LANES uint32_t vote(int count, Value value, const Place& place, const Test& test) {
  static_assert(GROUP == LANES);
  const int lane = this_lane();
  return __ballot_sync(ALL_LANES, lane < count && test(place(value(lane))) != 0);
}

FB_LANES int32_t bits_set(uint32_t mask) { return __popc(mask); }
FB_LANES int32_t highest_bit(uint32_t mask) { return 31 - __clz(static_cast<int>(mask)); }

#else

template <class Value, class Place, class Test>
FB_LANES uint32_t vote(int count, Value value, const Place& place, const Test& test) {
  alignas(64) float values[GROUP];
  alignas(64) uint32_t places[GROUP];
  const int whole = (count + 15) & ~15;  // the rest of a vector costs nothing
  for (int k = 0; k < whole; ++k) values[k] = value(k);
#pragma omp simd
  for (int k = 0; k < whole; ++k) places[k] = place(values[k]);
  uint32_t mask = 0;
#pragma omp simd reduction(| : mask)
  for (int k = 0; k < whole; ++k) mask |= test(places[k]) << k;
  return mask & 0xffffffffu >> (GROUP - count);
}

FB_LANES int32_t bits_set(uint32_t mask) { return __builtin_popcount(mask); }
FB_LANES int32_t highest_bit(uint32_t mask) { return 31 - __builtin_clz(mask); }

#endif

}  // namespace fieldbook
