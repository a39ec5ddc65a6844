// What a GPU can do at most with the memory accesses of a hash grid: gathers from and additions to random rows of a
// table. The addresses are computed, not read, so that nothing else competes for the caches.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int THREADS = 256;
constexpr int PER_THREAD = 64;  // accesses of one thread

// Evenly spread over [0, rows): a hash of the access's number ("lowbias32"), scaled without a division.
__device__ __forceinline__ uint32_t random_row(uint32_t access, uint32_t rows) {
  uint32_t v = access;
  v = (v ^ v >> 16) * 0x7feb352du;
  v = (v ^ v >> 15) * 0x846ca68bu;
  return __umulhi(v ^ v >> 16, rows);
}

template <class Access>
__global__ void each_access(const Access access, uint32_t rows) {
  const uint32_t first = blockIdx.x * THREADS * PER_THREAD + threadIdx.x;
  Access mine = access;
#pragma unroll 8
  for (int k = 0; k < PER_THREAD; ++k) mine(random_row(first + k * THREADS, rows));
  mine.finish();
}

// Reads 8 of a sector's 32 bytes, as two features of a grid's row are; the caches move the whole sector.
struct Gather {
  const float4* table;  // two to a sector, all ones
  uint32_t* wrong;      // threads that read something else
  float sum;
  __device__ __forceinline__ void operator()(uint32_t sector) {
    const float2 v = *reinterpret_cast<const float2*>(table + 2 * static_cast<int64_t>(sector));
    sum += v.x + v.y;
  }
  // Never true; without it the compiler would leave the reads out.
  __device__ __forceinline__ void finish() {
    if (sum != 2.0f * PER_THREAD) atomicAdd(wrong, 1u);
  }
};

// The reductions ask for no old value and are written in PTX, so that no compiler chooses another instruction.
struct AddOneFloat {
  float* table;
  __device__ __forceinline__ void operator()(uint32_t row) {
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(__cvta_generic_to_global(table + row)), "f"(1.0f) : "memory");
  }
  __device__ __forceinline__ void finish() {}
};

// One transaction from sm_90 on, two before.
struct AddTwoFloats {
  float2* table;
  __device__ __forceinline__ void operator()(uint32_t row) {
    const auto at = __cvta_generic_to_global(table + row);
#if __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v2.f32 [%0], {%1, %1};" ::"l"(at), "f"(1.0f) : "memory");
#else
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(at), "f"(1.0f) : "memory");
    asm volatile("red.global.add.f32 [%0+4], %1;" ::"l"(at), "f"(1.0f) : "memory");
#endif
  }
  __device__ __forceinline__ void finish() {}
};

struct AddTwoHalves {
  __half2* table;
  __device__ __forceinline__ void operator()(uint32_t row) {
    const uint32_t ones = 0x3c003c00u;  // two float16 of 1
    asm volatile("red.global.add.noftz.f16x2 [%0], %1;" ::"l"(__cvta_generic_to_global(table + row)), "r"(ones)
                 : "memory");
  }
  __device__ __forceinline__ void finish() {}
};

__global__ void empty() {}

template <class Access>
int launch(const Access& access, uint32_t rows, int64_t accesses, void* stream) {
  const auto blocks = static_cast<unsigned>(accesses / (THREADS * PER_THREAD));
  each_access<<<blocks, THREADS, 0, static_cast<cudaStream_t>(stream)>>>(access, rows);
  return cudaGetLastError();
}

}  // namespace

// All return CUDA's error code. `accesses` is a multiple of `granule()` and below 2^32.
extern "C" {

int64_t granule() { return THREADS * PER_THREAD; }

// table: [rows] sectors of 32 bytes, all ones as float32; wrong: one uint32.
int gather(void* table, uint32_t rows, int64_t accesses, void* wrong, void* stream) {
  return launch(Gather{static_cast<const float4*>(table), static_cast<uint32_t*>(wrong), 0.0f}, rows, accesses, stream);
}

// table: [rows] float32.
int add_one_float(void* table, uint32_t rows, int64_t accesses, void* stream) {
  return launch(AddOneFloat{static_cast<float*>(table)}, rows, accesses, stream);
}

// table: [rows, 2] float32.
int add_two_floats(void* table, uint32_t rows, int64_t accesses, void* stream) {
  return launch(AddTwoFloats{static_cast<float2*>(table)}, rows, accesses, stream);
}

// table: [rows, 2] float16.
int add_two_halves(void* table, uint32_t rows, int64_t accesses, void* stream) {
  return launch(AddTwoHalves{static_cast<__half2*>(table)}, rows, accesses, stream);
}

// As many empty kernels, one after the other.
int launch_empty(int64_t number, void* stream) {
  for (int64_t k = 0; k < number; ++k) empty<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>();
  return cudaGetLastError();
}

}  // extern "C"
