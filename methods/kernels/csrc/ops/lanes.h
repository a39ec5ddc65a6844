// A group of lanes walks the samples of one ray, LANES at a time. On a GPU the group is a warp and `Lanes` is the float
// of one lane; on the CPU it is a vector register. A body is written once, in terms of arithmetic on `Lanes` and of the
// functions that lanes_cpu.h and lanes_cuda.h both have. Lanes behind the last sample are zero when loaded and are not
// stored.
#pragma once
#include "common.h"

#if defined(__CUDACC__)
#include "lanes_cuda.h"
#else
#include "lanes_cpu.h"
#endif

namespace fieldbook {

// The samples of a ray. Whatever the offsets are, they stay inside the M samples.
struct Segment {
  int64_t begin, end;

  // How many of the lanes that start at sample `at` have one.
  FB_LANES int left(int64_t at) const { return end - at < LANES ? static_cast<int>(end - at) : LANES; }
  // Where the last group of lanes starts; not for an empty ray.
  FB_LANES int64_t last_start() const { return begin + (end - begin - 1) / LANES * LANES; }
};

FB_LANES Segment segment_of(const int64_t* offsets, int64_t ray, int64_t samples) {
  const int64_t first = offsets[ray], last = offsets[ray + 1];
  const int64_t begin = first < 0 ? 0 : (first > samples ? samples : first);
  return {begin, last < begin ? begin : (last > samples ? samples : last)};
}

}  // namespace fieldbook
