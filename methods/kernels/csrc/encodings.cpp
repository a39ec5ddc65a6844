// Binding of the encodings, and their launch on the CPU.
#include "encodings.h"

#include <vector>

#include "bind.h"
#include "groups.h"

namespace fieldbook {

#if !defined(FIELDBOOK_CUDA)
namespace {

// A point's waves are one loop, which vectorises; where a wave belongs comes from tables.
void frequency_cpu(const FrequencyForward& body) {
  const FrequencyShape& shape = body.shape;
  const int32_t waves = shape.waves();
  std::vector<int32_t> dims(waves), sine_at(waves);
  std::vector<float> octaves(waves);
  for (int32_t j = 0; j < waves; ++j) {
    dims[j] = j % shape.dims;
    octaves[j] = static_cast<float>(1u << j / shape.dims);
    sine_at[j] = static_cast<int32_t>(shape.sine_at(j / shape.dims, j % shape.dims));
  }
  torch::stable::parallel_for(0, shape.points, 256, [&](int64_t begin, int64_t end) {
    const int32_t *d = dims.data(), *at = sine_at.data();
    const float* octave = octaves.data();
    for (int64_t point = begin; point < end; ++point) {
      const float* x = body.x + point * shape.dims;
      float* row = body.out + point * shape.width();
      for (int32_t i = 0; shape.input && i < shape.dims; ++i) row[i] = x[i];
#pragma omp simd
      for (int32_t j = 0; j < waves; ++j) body.write(row, x[d[j]], octave[j], at[j]);
    }
  });
}

}  // namespace
#endif

namespace {

void run_harmonics(const HarmonicsCall& call, [[maybe_unused]] const Tensor& directions) {
#if defined(FIELDBOOK_CUDA)
  harmonics_cuda(call, current_stream(directions));
#else
  dispatch_harmonics(call, [&](const auto& body) { run_groups(body, call.groups()); });
#endif
}

void harmonics_forward_op(Tensor directions, int64_t degree, Tensor result) {
  run_harmonics({in<float>(directions), nullptr, out<float>(result), directions.size(0), static_cast<int32_t>(degree)},
                directions);
}

void harmonics_backward_op(Tensor directions, int64_t degree, Tensor grad, Tensor result) {
  run_harmonics(
      {in<float>(directions), in<float>(grad), out<float>(result), directions.size(0), static_cast<int32_t>(degree)},
      directions);
}

FrequencyShape shape_of(const Tensor& x, int64_t octaves, bool input, bool sines_first, double scale) {
  const double quarters = scale / 1.57079632679489661923;
  const float high = static_cast<float>(quarters);
  return {x.size(0),
          static_cast<int32_t>(x.size(1)),
          static_cast<int32_t>(octaves),
          input,
          sines_first,
          {high, static_cast<float>(quarters - high)}};
}

void frequency_forward_op(Tensor x, int64_t octaves, bool input, bool sines_first, double scale, Tensor result) {
  const FrequencyForward body{shape_of(x, octaves, input, sines_first, scale), in<float>(x), out<float>(result)};
#if defined(FIELDBOOK_CUDA)
  frequency_cuda(body, current_stream(x));
#else
  frequency_cpu(body);
#endif
}

void frequency_backward_op(Tensor values, Tensor grad, int64_t octaves, bool input, bool sines_first, double scale,
                           Tensor result) {
  const FrequencyBackward body{shape_of(result, octaves, input, sines_first, scale), static_cast<float>(scale),
                               in<float>(values), in<float>(grad), out<float>(result)};
#if defined(FIELDBOOK_CUDA)
  frequency_cuda(body, current_stream(values));
#else
  run_each(body, result.numel(), 1024);
#endif
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def("harmonics_forward(Tensor directions, int degree, Tensor(a!) result) -> ()");
  m.def("harmonics_backward(Tensor directions, int degree, Tensor grad, Tensor(a!) result) -> ()");
  m.def(
      "frequency_forward(Tensor x, int octaves, bool input, bool sines_first, float scale, Tensor(a!) result) -> ()");
  m.def(
      "frequency_backward(Tensor values, Tensor grad, int octaves, bool input, bool sines_first, float scale, "
      "Tensor(a!) result) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("harmonics_forward", TORCH_BOX(&fieldbook::harmonics_forward_op));
  m.impl("harmonics_backward", TORCH_BOX(&fieldbook::harmonics_backward_op));
  m.impl("frequency_forward", TORCH_BOX(&fieldbook::frequency_forward_op));
  m.impl("frequency_backward", TORCH_BOX(&fieldbook::frequency_backward_op));
}
