// The launches of compositing, and the choice of template by the number of channels and the form of the input.
#pragma once
#include "ops/composite.h"

namespace fieldbook {

struct CompositeOut {
  float *rgb, *opacity, *depth, *weights, *extra;
};

struct CompositeGrads {
  const float *rgb, *opacity, *depth, *weights, *extra;  // each may be null
  float *to_value, *to_rgb, *to_extra;                   // the last two may be null
};

struct CompositeState {
  const int64_t* alive;
  int64_t rays, steps;
  float *rgb, *opacity, *depth;
  uint8_t* keep;
};

// Calls `f.template operator()<C>()`.
template <class Function>
void dispatch_channels(int32_t channels, const Function& f) {
  if (channels == 3) f.template operator()<3>();
  else f.template operator()<MAX_CHANNELS>();
}

// Calls run(body) with the body of the forward pass, the backward pass, or a step without gradients.
template <class Run>
void composite_forward(const CompositeSamples& s, bool alpha, const CompositeOut& o, const Run& run) {
  dispatch_channels(s.channels, [&]<int C>() {
    if (alpha) run(CompositeForward<C, true>{s, o.rgb, o.opacity, o.depth, o.weights, o.extra});
    else run(CompositeForward<C, false>{s, o.rgb, o.opacity, o.depth, o.weights, o.extra});
  });
}

template <class Run>
void composite_backward(const CompositeSamples& s, bool alpha, const CompositeGrads& g, const Run& run) {
  dispatch_channels(s.channels, [&]<int C>() {
    const auto body = [&]<bool ALPHA>() {
      return CompositeBackward<C, ALPHA>{s,       g.rgb,      g.opacity, g.depth,   g.weights,
                                         g.extra, g.to_value, g.to_rgb,  g.to_extra};
    };
    if (alpha) run(body.template operator()<true>());
    else run(body.template operator()<false>());
  });
}

template <class Run>
void composite_alive(const CompositeSamples& s, const CompositeState& t, const Run& run) {
  dispatch_channels(s.channels, [&]<int C>() {
    run(CompositeAlive<C>{s, t.alive, t.rays, t.steps, t.rgb, t.opacity, t.depth, t.keep});
  });
}

#if defined(FIELDBOOK_CUDA) || defined(__CUDACC__)
void composite_forward_cuda(const CompositeSamples& s, bool alpha, const CompositeOut& out, int64_t rays,
                            void* stream);
void composite_backward_cuda(const CompositeSamples& s, bool alpha, const CompositeGrads& g, int64_t rays,
                             void* stream);
void composite_alive_cuda(const CompositeSamples& s, const CompositeState& state, int64_t rays, void* stream);
#endif

}  // namespace fieldbook
