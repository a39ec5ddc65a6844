// Adam (Kingma & Ba 2015) on a parameter most of whose gradient is zero. One element = one number.
#pragma once
#include "common.h"
#include "lanes.h"

namespace fieldbook {

FB_HD float root(float v) { return sqrtf(v); }

struct AdamStep {
  float *param, *grad, *mean, *square;
  float rate;          // lr / (1 - beta1^t)
  float beta1, gain1;  // gain = 1 - beta, taken before the rounding: 1 - 0.999f is 1.3e-5 off
  float beta2, gain2;
  float correction;    // 1 / sqrt(1 - beta2^t)
  float epsilon;

  // A float, or so many in a register.
  template <class V>
  FB_HD void move(V g, V& p, V& m, V& v) const {
    m = beta1 * m + gain1 * g;
    v = beta2 * v + gain2 * g * g;
    p -= rate * m / (root(v) * correction + epsilon);
  }

  // Where the gradient is zero nothing moves, the moments included; the gradient is cleared for the next step.
  FB_HD void operator()(int64_t i) const {
    if (grad[i] == 0.0f) return;
    move(grad[i], param[i], mean[i], square[i]);
    grad[i] = 0.0f;
  }
};

}  // namespace fieldbook
