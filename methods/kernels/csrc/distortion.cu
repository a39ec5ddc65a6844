// The distortion loss on a GPU: a warp per ray.
#include "ops/distortion.h"
#include "groups.h"

namespace fieldbook {

void distortion_cuda(const DistortionForward& body, int64_t rays, void* stream) { launch_groups(body, rays, stream); }
void distortion_cuda(const DistortionBackward& body, int64_t rays, void* stream) { launch_groups(body, rays, stream); }

}  // namespace fieldbook
