// Binding of ray_points, and its launch on the CPU.
#include "ray_points.h"

#include "bind.h"
#include "launch.h"

namespace fieldbook {
namespace {

void ray_points_op(Tensor origins, Tensor directions, Tensor t, Tensor ray_index, Tensor points) {
  const RayPoints body{in<float>(origins),     in<float>(directions), in<float>(t),
                       in<int64_t>(ray_index), out<float>(points),    origins.size(0)};
#if defined(FIELDBOOK_CUDA)
  ray_points_cuda(body, t.numel(), current_stream(points));
#else
  run_each(body, t.numel(), 4096);
#endif
}

void ray_points_backward_op(Tensor grad, Tensor t, Tensor ray_index, Tensor offsets, Tensor origins,
                            Tensor directions) {
  const RayPointsBackward body{in<float>(grad),      in<float>(t),           in<int64_t>(ray_index),
                               in<int64_t>(offsets), out<float>(origins),    out<float>(directions),
                               origins.size(0),      t.numel()};
#if defined(FIELDBOOK_CUDA)
  ray_points_backward_cuda(body, offsets.numel() - 1, current_stream(grad));
#else
  run_each(body, offsets.numel() - 1, 64);
#endif
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def("ray_points(Tensor origins, Tensor directions, Tensor t, Tensor ray_index, Tensor(a!) points) -> ()");
  m.def(
      "ray_points_backward(Tensor grad, Tensor t, Tensor ray_index, Tensor offsets, Tensor(a!) origins, "
      "Tensor(b!) directions) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("ray_points", TORCH_BOX(&fieldbook::ray_points_op));
  m.impl("ray_points_backward", TORCH_BOX(&fieldbook::ray_points_backward_op));
}
