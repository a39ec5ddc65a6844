// How a body is launched: once per element, on the CPU's threads or on a GPU's. A body is a plain struct of pointers
// and sizes with `void operator()(int64_t i) const`.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>

namespace fieldbook {

template <class Body>
__global__ void each_kernel(const Body body, int64_t n) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) body(i);
}

template <class Body>
void launch_each(const Body& body, int64_t n, void* stream, int threads = 256) {
  if (n <= 0) return;
  const int64_t blocks = (n + threads - 1) / threads;
  const int grid = static_cast<int>(blocks < 0x7fffffff ? blocks : 0x7fffffff);
  each_kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(body, n);
}

}  // namespace fieldbook
#else
#include "bind.h"

namespace fieldbook {

template <class Body>
void run_each(const Body& body, int64_t n, int64_t grain) {
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace fieldbook
#endif
