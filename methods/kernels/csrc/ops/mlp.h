// The ReLU of a small network, on rows of a panel.
#pragma once
#include "panel.h"

namespace fieldbook {

inline void relu_rows(float* activation, int rows) {
  vec16* h = reinterpret_cast<vec16*>(activation);
  for (int k = 0; k < rows * VECTORS; ++k) h[k] = h[k] > 0.0f ? h[k] : vec16{};
}

// grad = 0 where the activation is not positive.
inline void mask_relu(const float* activation, float* grad, int rows) {
  const vec16* h = reinterpret_cast<const vec16*>(activation);
  vec16* g = reinterpret_cast<vec16*>(grad);
  for (int k = 0; k < rows * VECTORS; ++k) g[k] = h[k] > 0.0f ? g[k] : vec16{};
}

}  // namespace fieldbook
