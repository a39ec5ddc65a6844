// Binding of distortion, and its launch on the CPU.
#include "ops/distortion.h"

#include <optional>

#include "bind.h"
#include "groups.h"

namespace fieldbook {

#if defined(FIELDBOOK_CUDA)
void distortion_cuda(const DistortionForward& body, int64_t rays, void* stream);
void distortion_cuda(const DistortionBackward& body, int64_t rays, void* stream);
#endif

namespace {

template <class Body>
void run(const Body& body, const Tensor& offsets) {
  const int64_t rays = offsets.size(0) - 1;
#if defined(FIELDBOOK_CUDA)
  distortion_cuda(body, rays, current_stream(offsets));
#else
  run_groups(body, rays);
#endif
}

void distortion_forward_op(Tensor weights, Tensor t_start, Tensor t_end, Tensor offsets, Tensor loss,
                           std::optional<Tensor> slope) {
  run(DistortionForward{in<float>(weights), in<float>(t_start), in<float>(t_end), in<int64_t>(offsets),
                        weights.size(0), out<float>(loss), slope ? out<float>(*slope) : nullptr},
      offsets);
}

void distortion_backward_op(Tensor slope, Tensor grad, Tensor offsets, Tensor to_weights) {
  run(DistortionBackward{in<float>(slope), in<float>(grad), in<int64_t>(offsets), slope.size(0),
                         out<float>(to_weights)},
      offsets);
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def(
      "distortion_forward(Tensor weights, Tensor t_start, Tensor t_end, Tensor offsets, Tensor(a!) loss, "
      "Tensor(b!)? slope) -> ()");
  m.def("distortion_backward(Tensor slope, Tensor grad, Tensor offsets, Tensor(a!) to_weights) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("distortion_forward", TORCH_BOX(&fieldbook::distortion_forward_op));
  m.impl("distortion_backward", TORCH_BOX(&fieldbook::distortion_backward_op));
}
