// How the kernels of a GPU add to a table that all threads share.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace fieldbook {

// Adds F neighbouring floats of a row; sm_90 adds two or four of them in one transaction.
template <int F>
struct AtomicAdd {
  float* out;
  __device__ __forceinline__ void operator()(int64_t at, const float* v) const {
#if __CUDA_ARCH__ >= 900
    if constexpr (F % 4 == 0) {
      for (int f = 0; f < F; f += 4)
        atomicAdd(reinterpret_cast<float4*>(out + at + f), make_float4(v[f], v[f + 1], v[f + 2], v[f + 3]));
    } else if constexpr (F == 2) {
      atomicAdd(reinterpret_cast<float2*>(out + at), make_float2(v[0], v[1]));
    } else {
      atomicAdd(out + at, v[0]);
    }
#else
    for (int f = 0; f < F; ++f) atomicAdd(out + at + f, v[f]);
#endif
  }
};

}  // namespace fieldbook
