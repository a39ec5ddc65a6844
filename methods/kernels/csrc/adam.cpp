// Binding of adam_step, and its launch on the CPU.
#include "ops/adam.h"

#include "bind.h"
#include "launch.h"

namespace fieldbook {

#if defined(FIELDBOOK_CUDA)
void adam_cuda(const AdamStep& body, int64_t n, void* stream);
#else
namespace {

constexpr int64_t GROUP = 32;  // registers of numbers

// Written with registers: left to itself, the compiler goes number by number, ten times as slowly.
void adam_lanes(const AdamStep& body, int64_t at, int count) {
  const Lanes g = load(body.grad + at, count);
  const Lanes p0 = load(body.param + at, count), m0 = load(body.mean + at, count), v0 = load(body.square + at, count);
  Lanes p = p0, m = m0, v = v0;
  body.move(g, p, m, v);
  const auto on = g != 0.0f;
  store(body.param + at, on ? p : p0, count);
  store(body.mean + at, on ? m : m0, count);
  store(body.square + at, on ? v : v0, count);
  store(body.grad + at, Lanes{}, count);
}

bool has_gradient(const float* grad) {
  int any = 0;
  for (int k = 0; k < LANES; ++k) any |= grad[k] != 0.0f;
  return any != 0;
}

// Most of the gradient is zero: one look at it then is all that it costs. The rest lies too far apart for the CPU to
// foresee, neither the branch nor the addresses: hence a list, and a prefetch.
void adam_group(const AdamStep& body, int64_t begin, int64_t end) {
  int64_t touched[GROUP];
  int count = 0;
  for (int64_t at = begin; at < end; at += LANES) {
    touched[count] = at;
    count += has_gradient(body.grad + at);
  }
  for (int t = 0; t < count; ++t) {
    __builtin_prefetch(body.mean + touched[t], 1);
    __builtin_prefetch(body.square + touched[t], 1);
    __builtin_prefetch(body.param + touched[t], 1);
  }
  for (int t = 0; t < count; ++t) adam_lanes(body, touched[t], LANES);
}

void adam_cpu(const AdamStep& body, int64_t n) {
  constexpr int64_t SIZE = GROUP * LANES;
  const int64_t whole = n - n % LANES;
  torch::stable::parallel_for(0, (whole + SIZE - 1) / SIZE, 32, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t last = (g + 1) * SIZE;
      adam_group(body, g * SIZE, last < whole ? last : whole);
    }
  });
  if (whole < n) adam_lanes(body, whole, static_cast<int>(n - whole));
}

}  // namespace
#endif

namespace {

void adam_step_op(Tensor param, Tensor grad, Tensor mean, Tensor square, Tensor numbers) {
  const double* s = in<double>(numbers);
  const AdamStep body{out<float>(param),
                      out<float>(grad),
                      out<float>(mean),
                      out<float>(square),
                      static_cast<float>(s[0]),
                      static_cast<float>(s[1]),
                      static_cast<float>(s[2]),
                      static_cast<float>(s[3]),
                      static_cast<float>(s[4]),
                      static_cast<float>(s[5]),
                      static_cast<float>(s[6])};
#if defined(FIELDBOOK_CUDA)
  adam_cuda(body, param.numel(), current_stream(param));
#else
  adam_cpu(body, param.numel());
#endif
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def("adam_step(Tensor(a!) param, Tensor(b!) grad, Tensor(c!) mean, Tensor(d!) square, Tensor numbers) -> ()");
}

FB_LIBRARY_IMPL(m) { m.impl("adam_step", TORCH_BOX(&fieldbook::adam_step_op)); }
