// The launches of march: prepare the grid, count, write.
#pragma once
#include "ops/march.h"

namespace fieldbook {

// What the passes write. `resume` may be null.
struct MarchOut {
  int64_t* counts;         // [A], by the count pass
  float* resume;           // [A], by the count pass: t where the next march goes on
  const int64_t* offsets;  // [A + 1], read by the write pass
  float *t_start, *t_end;  // [M]
  int64_t* ray_index;      // [M]
};

#if defined(FIELDBOOK_CUDA) || defined(__CUDACC__)
void ray_box_cuda(const RayBox& body, int64_t rays, void* stream);
void march_bits_cuda(const MarchBits& body, int64_t words, void* stream);
void march_blocks_cuda(const MarchBlocks& body, int64_t blocks, void* stream);
void march_count_cuda(const MarchArgs& args, const MarchOut& out, void* stream);
void march_write_cuda(const MarchArgs& args, const MarchOut& out, void* stream);
#endif

}  // namespace fieldbook
