// Encodings on a GPU: a thread per direction, per sine and cosine, or per dimension.
#include "encodings.h"
#include "groups.h"

namespace fieldbook {

void harmonics_cuda(const HarmonicsCall& call, void* stream) {
  dispatch_harmonics(call, [&](const auto& body) { launch_groups(body, call.groups(), stream); });
}

void frequency_cuda(const FrequencyForward& body, void* stream) {
  launch_each(body, body.shape.points * body.shape.waves(), stream);
}

void frequency_cuda(const FrequencyBackward& body, void* stream) {
  launch_each(body, body.shape.points * body.shape.dims, stream);
}

}  // namespace fieldbook
