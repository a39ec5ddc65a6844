// How a body whose element is a group of lanes (ops/lanes.h) is launched: a ray's samples, or so many directions. A
// group is a warp on a GPU and a loop's turn on the CPU.
#pragma once
#include "launch.h"
#include "ops/lanes.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace fieldbook {

#if defined(__CUDACC__)

template <class Body>
struct WarpPerGroup {
  Body body;
  __device__ void operator()(int64_t i) const { body(i / LANES); }
};

// launch_each keeps warps whole, because its blocks and its stride are multiples of a warp.
template <class Body>
void launch_groups(const Body& body, int64_t groups, void* stream) {
  launch_each(WarpPerGroup<Body>{body}, groups * LANES, stream);
}

#else

// Products of transmittances become subnormal inside anything opaque, and then cost a hundred cycles each on many CPUs;
// while one of these lives, the thread takes them for zero.
class FlushSubnormals {
#if defined(__SSE__)
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

template <class Body>
void run_groups(const Body& body, int64_t groups) {
  constexpr int64_t GRAIN = 64;
  torch::stable::parallel_for(0, groups, GRAIN, [&](int64_t begin, int64_t end) {
    [[maybe_unused]] const FlushSubnormals flush;
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

#endif

}  // namespace fieldbook
