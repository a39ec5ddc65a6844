// adam_step on a GPU.
#include "launch.h"
#include "ops/adam.h"

namespace fieldbook {

void adam_cuda(const AdamStep& body, int64_t n, void* stream) { launch_each(body, n, stream); }

}  // namespace fieldbook
