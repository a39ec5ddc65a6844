// ray_points on a GPU: one thread per sample, or per ray.
#include "ray_points.h"

#include "launch.h"

namespace fieldbook {

void ray_points_cuda(const RayPoints& body, int64_t samples, void* stream) { launch_each(body, samples, stream); }

void ray_points_backward_cuda(const RayPointsBackward& body, int64_t elements, void* stream) {
  launch_each(body, elements, stream, 64);
}

}  // namespace fieldbook
