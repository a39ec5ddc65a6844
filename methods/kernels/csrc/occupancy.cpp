// Binding of the occupancy grid's upkeep, and its launch on the CPU.
#include "bind.h"
#include "launch.h"
#include "occupancy.h"

namespace fieldbook {
namespace {

template <class Body>
void run(const Body& body, int64_t n, int64_t grain, [[maybe_unused]] const Tensor& on) {
#if defined(FIELDBOOK_CUDA)
  occupancy_cuda(body, n, current_stream(on));
#else
  run_each(body, n, grain);
#endif
}

// `all`: `cells` is not read, value i belongs to cell i.
void occupancy_update_op(Tensor density, Tensor cells, bool all, Tensor values, double decay) {
  const OccupancyUpdate body{out<float>(density), all ? nullptr : in<int64_t>(cells), in<float>(values),
                             density.numel(), static_cast<float>(decay)};
  run(body, values.numel(), 8192, density);
}

void pack_bits_op(Tensor density, double threshold, Tensor bits) {
  run(PackBits{in<float>(density), out<uint8_t>(bits), static_cast<float>(threshold)}, bits.numel(), 4096, density);
}

void morton3d_op(Tensor coords, Tensor index) {
  run(MortonEncode{in<int64_t>(coords), out<int64_t>(index)}, index.numel(), 8192, coords);
}

void morton3d_inverse_op(Tensor index, Tensor coords) {
  run(MortonDecode{in<int64_t>(index), out<int64_t>(coords)}, index.numel(), 8192, coords);
}

// `viewers` [K, 20] float32 as Viewer has them; `geometry` float64 on the CPU: centre, half, min_distance, resolution.
void mark_unseen_op(Tensor density, Tensor viewers, Tensor geometry) {
  static_assert(sizeof(Viewer) == 20 * sizeof(float));
  const double* g = in<double>(geometry);
  MarkUnseen body{};
  body.density = out<float>(density);
  body.viewers = static_cast<const Viewer*>(viewers.data_ptr());
  body.viewer_count = viewers.size(0);
  for (int a = 0; a < 3; ++a) body.centre[a] = static_cast<float>(g[a]);
  body.half = static_cast<float>(g[3]);
  body.min_distance = static_cast<float>(g[4]);
  body.resolution = static_cast<int32_t>(g[5]);
  run(body, density.numel(), 1024, density);
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def("occupancy_update(Tensor(a!) density, Tensor cells, bool all, Tensor values, float decay) -> ()");
  m.def("pack_bits(Tensor density, float threshold, Tensor(a!) bits) -> ()");
  m.def("morton3d(Tensor coords, Tensor(a!) index) -> ()");
  m.def("morton3d_inverse(Tensor index, Tensor(a!) coords) -> ()");
  m.def("mark_unseen(Tensor(a!) density, Tensor viewers, Tensor geometry) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("occupancy_update", TORCH_BOX(&fieldbook::occupancy_update_op));
  m.impl("pack_bits", TORCH_BOX(&fieldbook::pack_bits_op));
  m.impl("morton3d", TORCH_BOX(&fieldbook::morton3d_op));
  m.impl("morton3d_inverse", TORCH_BOX(&fieldbook::morton3d_inverse_op));
  m.impl("mark_unseen", TORCH_BOX(&fieldbook::mark_unseen_op));
}
