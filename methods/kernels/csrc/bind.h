// What every binding file needs of LibTorch's stable ABI. The same file is compiled twice: into the CPU library, and
// with FIELDBOOK_CUDA into the CUDA library; each has an op namespace of its own, because two libraries that define one
// namespace abort the process.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(FIELDBOOK_CUDA)
#define FB_LIBRARY(m) STABLE_TORCH_LIBRARY_FRAGMENT(fieldbook_cuda, m)
#define FB_LIBRARY_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(fieldbook_cuda, CompositeExplicitAutograd, m)
#else
#define FB_LIBRARY(m) STABLE_TORCH_LIBRARY_FRAGMENT(fieldbook_cpu, m)
#define FB_LIBRARY_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(fieldbook_cpu, CompositeExplicitAutograd, m)
#endif

namespace fieldbook {

using torch::stable::Tensor;

// Shapes, types, devices and contiguity are checked in Python before a call gets here.
template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}

template <class T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

#if defined(FIELDBOOK_CUDA)
inline void* current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return stream;
}
#endif

}  // namespace fieldbook
