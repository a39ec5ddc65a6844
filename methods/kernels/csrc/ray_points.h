// The launches of ray_points.
#pragma once
#include "ops/ray_points.h"

#if defined(FIELDBOOK_CUDA) || defined(__CUDACC__)
namespace fieldbook {

void ray_points_cuda(const RayPoints& body, int64_t samples, void* stream);
void ray_points_backward_cuda(const RayPointsBackward& body, int64_t elements, void* stream);

}  // namespace fieldbook
#endif
