// The launches of the occupancy grid's upkeep.
#pragma once
#include "ops/occupancy.h"

#if defined(FIELDBOOK_CUDA) || defined(__CUDACC__)
namespace fieldbook {

void occupancy_cuda(const OccupancyUpdate& body, int64_t n, void* stream);
void occupancy_cuda(const PackBits& body, int64_t n, void* stream);
void occupancy_cuda(const MortonEncode& body, int64_t n, void* stream);
void occupancy_cuda(const MortonDecode& body, int64_t n, void* stream);
void occupancy_cuda(const MarkUnseen& body, int64_t n, void* stream);

}  // namespace fieldbook
#endif
