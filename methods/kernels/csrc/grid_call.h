// How the bindings of the grid encoding read a call's tensors.
#pragma once
#include <cstring>

#include "bind.h"
#include "grid.h"

namespace fieldbook {

// `levels` [L, 6] int64 on the CPU: scale and shift (float bits), stride, rows, offset, hashed. `options`: features,
// smooth, half, bounded, level mask.
inline GridCall make_call(const Tensor& x, const Tensor& levels, const Tensor& options) {
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

}  // namespace fieldbook
