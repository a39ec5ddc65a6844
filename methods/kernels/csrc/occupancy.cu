// The occupancy grid's upkeep on a GPU: one thread per element.
#include "occupancy.h"

#include "launch.h"

namespace fieldbook {

void occupancy_cuda(const OccupancyUpdate& body, int64_t n, void* stream) { launch_each(body, n, stream); }
void occupancy_cuda(const PackBits& body, int64_t n, void* stream) { launch_each(body, n, stream); }
void occupancy_cuda(const MortonEncode& body, int64_t n, void* stream) { launch_each(body, n, stream); }
void occupancy_cuda(const MortonDecode& body, int64_t n, void* stream) { launch_each(body, n, stream); }
void occupancy_cuda(const MarkUnseen& body, int64_t n, void* stream) { launch_each(body, n, stream); }

}  // namespace fieldbook
