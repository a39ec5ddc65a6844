// Binding of grid_encode, and its launch on the CPU.
#include "grid.h"

#include <cstring>

#include "bind.h"
#include "launch.h"

namespace fieldbook {

#if !defined(FIELDBOOK_CUDA)
namespace {

// Each thread takes a run of points and walks it once per level: one level's table stays in the cache.
template <class Body>
void points_by_level(const GridCall& call, const Body& body) {
  torch::stable::parallel_for(0, call.args.points, 256, [&](int64_t begin, int64_t end) {
    for (int32_t l = 0; l < call.args.level_count; ++l) body(l, begin, end);
  });
}

template <int D, int F, bool SMOOTH, class T>
void forward(const GridCall& call) {
  const GridArgs& a = call.args;
  const T* table = static_cast<const T*>(call.table);
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  points_by_level(call, [&](int32_t l, int64_t first, int64_t last) {
    const GridLevel level = a.levels[l];
    float* out = call.out + l * F;
    const auto run = [&]<bool HASHED>() {
      for (int64_t i = first; i < last; ++i)
        grid_forward<D, F, SMOOTH, HASHED>(level, a.x + i * D, a.bounded, table, out + i * width);
    };
    if (!(a.level_mask >> l & 1)) {
      for (int64_t i = first; i < last; ++i) std::memset(out + i * width, 0, sizeof(float) * F);
    } else if (level.hashed) {
      run.template operator()<true>();
    } else {
      run.template operator()<false>();
    }
  });
}

// Parallel over levels, so that no row has two writers and the sum's order does not depend on the threads. Fine levels
// cost more than coarse ones: dealing them out like cards balances the threads.
template <int D, int F, bool SMOOTH>
void backward_table(const GridCall& call) {
  const GridArgs& a = call.args;
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  const auto add = [out = call.out](int64_t at, const float* v) {
    for (int f = 0; f < F; ++f) out[at + f] += v[f];
  };
  const auto one_level = [&](int32_t l) {
    const GridLevel level = a.levels[l];
    const auto run = [&]<bool HASHED>() {
      for (int64_t i = 0; i < a.points; ++i)
        grid_backward_table<D, F, SMOOTH, HASHED>(level, a.x + i * D, a.bounded, call.grad + i * width + l * F, add);
    };
    if (level.hashed) run.template operator()<true>();
    else run.template operator()<false>();
  };
  const int64_t hands = static_cast<int64_t>(torch::stable::get_num_threads());
  torch::stable::parallel_for(0, hands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t hand = begin; hand < end; ++hand)
      for (int64_t l = hand; l < a.level_count; l += hands)
        if (a.level_mask >> l & 1) one_level(static_cast<int32_t>(l));
  });
}

template <int D, int F, bool SMOOTH, class T>
void backward_x(const GridCall& call) {
  const GridArgs& a = call.args;
  const T* table = static_cast<const T*>(call.table);
  const int64_t width = static_cast<int64_t>(a.level_count) * F;
  points_by_level(call, [&](int32_t l, int64_t first, int64_t last) {
    if (!(a.level_mask >> l & 1)) return;
    const GridLevel level = a.levels[l];
    const auto run = [&]<bool HASHED>() {
      for (int64_t i = first; i < last; ++i)
        grid_backward_x<D, F, SMOOTH, HASHED>(level, a.x + i * D, a.bounded, table, call.grad + i * width + l * F,
                                              call.out + i * D);
    };
    if (level.hashed) run.template operator()<true>();
    else run.template operator()<false>();
  });
}

void grid_cpu(const GridCall& call, GridPass pass) {
  dispatch_grid(call, [&]<int D, int F, bool SMOOTH>() {
    if (pass == GridPass::backward_table) return backward_table<D, F, SMOOTH>(call);
    const auto typed = [&]<class T>() {
      if (pass == GridPass::forward) forward<D, F, SMOOTH, T>(call);
      else backward_x<D, F, SMOOTH, T>(call);
    };
    if (call.half) typed.template operator()<half_t>();
    else typed.template operator()<float>();
  });
}

}  // namespace
#endif

namespace {

// `levels` [L, 6] int64 on the CPU: scale and shift (float bits), stride, rows, offset, hashed. `options`: features,
// smooth, half, bounded, level mask.
GridCall make_call(const Tensor& x, const Tensor& levels, const Tensor& options) {
  const int64_t* o = in<int64_t>(options);
  GridCall call{};
  call.features = static_cast<int32_t>(o[0]);
  call.smooth = static_cast<int32_t>(o[1]);
  call.half = static_cast<int32_t>(o[2]);
  call.dims = static_cast<int32_t>(x.size(1));
  call.args.x = in<float>(x);
  call.args.points = x.size(0);
  call.args.bounded = static_cast<int32_t>(o[3]);
  call.args.level_mask = static_cast<uint32_t>(o[4]);
  call.args.level_count = static_cast<int32_t>(levels.size(0));
  const int64_t* row = in<int64_t>(levels);
  for (int32_t l = 0; l < call.args.level_count; ++l, row += 6) {
    GridLevel& level = call.args.levels[l];
    const uint32_t scale = static_cast<uint32_t>(row[0]), shift = static_cast<uint32_t>(row[1]);
    std::memcpy(&level.scale, &scale, sizeof scale);
    std::memcpy(&level.shift, &shift, sizeof shift);
    level.stride = static_cast<uint32_t>(row[2]);
    level.rows = static_cast<uint32_t>(row[3]);
    level.offset = row[4];
    level.hashed = static_cast<int32_t>(row[5]);
  }
  return call;
}

void run(const GridCall& call, GridPass pass, const Tensor& x) {
  if (call.args.points == 0) return;
#if defined(FIELDBOOK_CUDA)
  grid_cuda(call, pass, current_stream(x));
#else
  grid_cpu(call, pass);
#endif
}

void grid_forward_op(Tensor x, Tensor table, Tensor levels, Tensor options, Tensor result) {
  GridCall call = make_call(x, levels, options);
  call.table = table.data_ptr();
  call.out = out<float>(result);
  run(call, GridPass::forward, x);
}

void grid_backward_table_op(Tensor x, Tensor grad, Tensor levels, Tensor options, Tensor result) {
  GridCall call = make_call(x, levels, options);
  call.grad = in<float>(grad);
  call.out = out<float>(result);
  run(call, GridPass::backward_table, x);
}

void grid_backward_x_op(Tensor x, Tensor table, Tensor grad, Tensor levels, Tensor options, Tensor result) {
  GridCall call = make_call(x, levels, options);
  call.table = table.data_ptr();
  call.grad = in<float>(grad);
  call.out = out<float>(result);
  run(call, GridPass::backward_x, x);
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def("grid_forward(Tensor x, Tensor table, Tensor levels, Tensor options, Tensor(a!) result) -> ()");
  m.def("grid_backward_table(Tensor x, Tensor grad, Tensor levels, Tensor options, Tensor(a!) result) -> ()");
  m.def("grid_backward_x(Tensor x, Tensor table, Tensor grad, Tensor levels, Tensor options, Tensor(a!) result) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("grid_forward", TORCH_BOX(&fieldbook::grid_forward_op));
  m.impl("grid_backward_table", TORCH_BOX(&fieldbook::grid_backward_table_op));
  m.impl("grid_backward_x", TORCH_BOX(&fieldbook::grid_backward_x_op));
}
