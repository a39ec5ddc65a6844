// Compositing on a GPU: a warp per ray.
#include "composite.h"
#include "groups.h"

namespace fieldbook {

void composite_forward_cuda(const CompositeSamples& s, bool alpha, const CompositeOut& out, int64_t rays,
                            void* stream) {
  composite_forward(s, alpha, out, [&](const auto& body) { launch_groups(body, rays, stream); });
}

void composite_backward_cuda(const CompositeSamples& s, bool alpha, const CompositeGrads& g, int64_t rays,
                             void* stream) {
  composite_backward(s, alpha, g, [&](const auto& body) { launch_groups(body, rays, stream); });
}

void composite_alive_cuda(const CompositeSamples& s, const CompositeState& state, int64_t rays, void* stream) {
  composite_alive(s, state, [&](const auto& body) { launch_groups(body, rays, stream); });
}

}  // namespace fieldbook
