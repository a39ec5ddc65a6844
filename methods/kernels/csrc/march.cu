// ray_aabb and march on a GPU: one warp per ray, a counting and a writing pass that march alike.
#include "march.h"

#include "groups.h"

namespace fieldbook {
namespace {

template <bool MORTON>
struct CountRay {
  MarchArgs args;
  MarchOut out;

  __device__ void operator()(int64_t i) const {
    const MarchRay ray = march_ray_of(args, i);
    int64_t count = 0;
    with_steps(args.spec, ray, [&](const auto& steps) {
      const auto sink = [&](auto, uint32_t mask) { count += bits_set(mask); };
      const auto p = march_ray<MORTON>(args, ray, steps, sink);
      if (out.resume && is_first_lane()) out.resume[i] = resume_at(steps, p, ray);
    });
    if (is_first_lane()) out.counts[i] = count;
  }
};

template <bool MORTON>
struct WriteRay {
  MarchArgs args;
  MarchOut out;

  __device__ void operator()(int64_t i) const {
    int64_t at = out.offsets[i];
    if (at == out.offsets[i + 1]) return;
    const int64_t index = args.alive ? args.alive[i] : i;
    const MarchRay ray = march_ray_of(args, i);
    with_steps(args.spec, ray, [&](const auto& steps) {
      const auto sink = [&](auto position, uint32_t mask) {
        if (mask >> this_lane() & 1u) {
          const int64_t mine = at + bits_set(mask & ((1u << this_lane()) - 1u));
          position = steps.advance(position, this_lane());
          out.t_start[mine] = steps.t(position);
          out.t_end[mine] = steps.t(steps.advance(position, 1));
          out.ray_index[mine] = index;
        }
        at += bits_set(mask);
      };
      march_ray<MORTON>(args, ray, steps, sink);
    });
  }
};

}  // namespace

void ray_box_cuda(const RayBox& body, int64_t rays, void* stream) { launch_each(body, rays, stream); }
void march_bits_cuda(const MarchBits& body, int64_t words, void* stream) { launch_each(body, words, stream); }
void march_blocks_cuda(const MarchBlocks& body, int64_t blocks, void* stream) { launch_each(body, blocks, stream); }

void march_count_cuda(const MarchArgs& args, const MarchOut& out, void* stream) {
  if (args.spec.morton) launch_groups(CountRay<true>{args, out}, args.rays, stream);
  else launch_groups(CountRay<false>{args, out}, args.rays, stream);
}

void march_write_cuda(const MarchArgs& args, const MarchOut& out, void* stream) {
  if (args.spec.morton) launch_groups(WriteRay<true>{args, out}, args.rays, stream);
  else launch_groups(WriteRay<false>{args, out}, args.rays, stream);
}

}  // namespace fieldbook
