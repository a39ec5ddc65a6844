// Binding of adam_step, and its launch on the CPU.
#include "ops/adam.h"

#include "bind.h"
#include "launch.h"

namespace fieldbook {

#if defined(FIELDBOOK_CUDA)
void adam_cuda(const AdamStep& body, int64_t n, void* stream);
#else
namespace {

constexpr int64_t BLOCK = 16;

// Most blocks have no gradient at all: one look at the gradient then is all that they cost.
void adam_cpu(const AdamStep& body, int64_t n) {
  torch::stable::parallel_for(0, (n + BLOCK - 1) / BLOCK, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * BLOCK, last = first + BLOCK < n ? first + BLOCK : n;
      bool any = false;
      for (int64_t i = first; i < last; ++i) any |= body.grad[i] != 0.0f;
      if (!any) continue;
#pragma omp simd
      for (int64_t i = first; i < last; ++i) body(i);
    }
  });
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
