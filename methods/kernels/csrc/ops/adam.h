// Adam (Kingma & Ba 2015) on a parameter most of whose gradient is zero. One element = one number.
#pragma once
#include "common.h"

namespace fieldbook {

struct AdamStep {
  float *param, *grad, *mean, *square;
  float rate;          // lr / (1 - beta1^t)
  float beta1, gain1;  // gain = 1 - beta, taken before the rounding: 1 - 0.999f is 1.3e-5 off
  float beta2, gain2;
  float correction;    // 1 / sqrt(1 - beta2^t)
  float epsilon;

  // Where the gradient is zero nothing moves, the moments included; the gradient is cleared for the next step.
  FB_HD void operator()(int64_t i) const {
    const float g = grad[i];
#if defined(__CUDA_ARCH__)
    if (g == 0.0f) return;
#endif
    const bool on = g != 0.0f;  // chosen at the end, without a branch: the CPU's loop then runs in vectors
    const float m = beta1 * mean[i] + gain1 * g;
    const float v = beta2 * square[i] + gain2 * g * g;
    const float moved = param[i] - rate * m / (sqrtf(v) * correction + epsilon);
    mean[i] = on ? m : mean[i];
    square[i] = on ? v : square[i];
    param[i] = on ? moved : param[i];
    grad[i] = 0.0f;
  }
};

}  // namespace fieldbook
