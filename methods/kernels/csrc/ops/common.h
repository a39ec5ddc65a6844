// What every kernel body shares: the host/device marker, half precision, and elementary functions that vectorise.
#pragma once
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define FB_HD __host__ __device__ __forceinline__
#define FB_UNROLL _Pragma("unroll")
#else
#define FB_HD inline __attribute__((always_inline))
#define FB_UNROLL _Pragma("GCC unroll 8")
#endif

namespace fieldbook {

// A 16-bit float as stored; arithmetic is done in float.
struct half_t {
  uint16_t bits;
};

FB_HD float to_float(float v) { return v; }

FB_HD float to_float(half_t v) {
#if defined(__CUDA_ARCH__)
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(v.bits));
  return out;
#elif defined(__FLT16_MANT_DIG__)
  _Float16 h;
  __builtin_memcpy(&h, &v.bits, sizeof h);
  return static_cast<float>(h);
#else
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16, rest = v.bits & 0x7fffu;
  uint32_t out;
  float f;
  if (rest >= 0x7c00u) {
    out = sign | 0x7f800000u | ((rest & 0x3ffu) << 13);
  } else if (rest >= 0x400u) {
    out = sign | ((rest << 13) + 0x38000000u);
  } else {
    f = static_cast<float>(rest) * 5.9604644775390625e-8f;  // subnormal: units of 2^-24
    return sign ? -f : f;
  }
  __builtin_memcpy(&f, &out, sizeof f);
  return f;
#endif
}

FB_HD float minimum(float a, float b) { return a < b ? a : b; }
FB_HD float maximum(float a, float b) { return a > b ? a : b; }
FB_HD float clamp(float v, float low, float high) { return minimum(maximum(v, low), high); }

// exp(x) without a call, so that loops vectorise: 2^k times a polynomial on [-ln2/2, ln2/2] (Cephes' coefficients),
// 2 ulp. Exactly 0 below -87: a subnormal costs a hundred cycles on most CPUs.
FB_HD float exp_fast(float x) {
#if defined(__CUDA_ARCH__)
  return __expf(x);
#else
  const float clipped = clamp(x, -87.0f, 88.0f);
  const float k = __builtin_floorf(clipped * 1.44269504f + 0.5f);
  const float r = (clipped - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(k) + 127) << 23;
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return x < -87.0f ? 0.0f : p * scale;
#endif
}

}  // namespace fieldbook
