// Binding of ray_aabb and march, and their launches on the CPU.
#include "march.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "bind.h"
#include "launch.h"

namespace fieldbook {
namespace {

// `spec` float64 on the CPU, in the order that March.packed writes.
MarchSpec make_spec(const Tensor& spec) {
  const double* v = in<double>(spec);
  MarchSpec s{};
  for (int d = 0; d < 3; ++d) s.centre[d] = static_cast<float>(v[d]);
  s.inverse_half = static_cast<float>(1.0 / v[3]);
  s.step_min = static_cast<float>(v[4]);
  s.step_max = static_cast<float>(v[5]);
  s.cone = static_cast<float>(v[6]);
  s.shift = static_cast<float>(v[7]);
  s.cascades = static_cast<int32_t>(v[8]);
  s.resolution = static_cast<int32_t>(v[9]);
  s.max_samples = static_cast<int32_t>(v[10]);
  s.morton = static_cast<int32_t>(v[11]);
  s.block_shift = static_cast<int32_t>(v[12]);
  s.bound = static_cast<float>(int64_t{1} << (s.cascades - 1));
  s.half_resolution = 0.5f * static_cast<float>(s.resolution);
  s.cell = 2.0f / static_cast<float>(s.resolution);
  s.step_to_cells = s.half_resolution * s.inverse_half;
  return s;
}

template <class T>
const T* in_or_null(const Tensor& t) {
  return t.numel() ? in<T>(t) : nullptr;
}

MarchArgs make_args(const Tensor& origins, const Tensor& directions, const Tensor& near_t, const Tensor& far_t,
                    const Tensor& noise, const Tensor& alive, bool all, const Tensor& bits, const Tensor& blocks,
                    const Tensor& spec) {
  MarchArgs a{};
  a.origins = in<float>(origins);
  a.directions = in<float>(directions);
  a.near_t = in<float>(near_t);
  a.far_t = in<float>(far_t);
  a.noise = in_or_null<float>(noise);
  a.alive = all ? nullptr : in<int64_t>(alive);
  a.bits = static_cast<const uint32_t*>(bits.data_ptr());
  a.blocks = in<uint8_t>(blocks);
  a.total = origins.size(0);
  a.rays = all ? a.total : alive.size(0);
  a.spec = make_spec(spec);
  return a;
}

#if !defined(FIELDBOOK_CUDA)

// What a ray's march finds: bit k of the mask is step k from the position on, an int32 or a float, here as its bits.
struct Group {
  int32_t position;
  uint32_t mask;
};

constexpr int64_t CHUNK = 64;

// Rays in chunks, dealt to the threads like cards: neighbouring rays cost alike.
template <class Body>
void deal_chunks(int64_t rays, const Body& body) {
  const int64_t chunks = (rays + CHUNK - 1) / CHUNK;
  const int64_t hands = static_cast<int64_t>(torch::stable::get_num_threads());
  torch::stable::parallel_for(0, hands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t hand = begin; hand < end; ++hand)
      for (int64_t c = hand; c < chunks; c += hands) body(c, c * CHUNK, std::min(c * CHUNK + CHUNK, rays));
  });
}

template <bool MORTON>
void count_ray(const MarchArgs& a, int64_t i, const MarchOut& out, std::vector<Group>& groups) {
  const MarchRay ray = march_ray_of(a, i);
  int64_t count = 0;
  with_steps(a.spec, ray, [&](const auto& steps) {
    const auto sink = [&](auto position, uint32_t mask) {
      Group group{0, mask};
      std::memcpy(&group.position, &position, sizeof group.position);
      groups.push_back(group);
      count += bits_set(mask);
    };
    const auto p = march_ray<MORTON>(a, ray, steps, sink);
    if (out.resume) out.resume[i] = resume_at(steps, p, ray);
  });
  out.counts[i] = count;
}

// One pass over the grid: what is found is kept as groups of steps, in ray order, for the write pass to spell out.
Tensor count_cpu(const MarchArgs& a, const MarchOut& out, int64_t* group_offsets, const Tensor& like) {
  std::vector<std::vector<Group>> found((a.rays + CHUNK - 1) / CHUNK);
  deal_chunks(a.rays, [&](int64_t c, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const size_t before = found[c].size();
      if (a.spec.morton) count_ray<true>(a, i, out, found[c]);
      else count_ray<false>(a, i, out, found[c]);
      group_offsets[i + 1] = static_cast<int64_t>(found[c].size() - before);
    }
  });
  group_offsets[0] = 0;
  for (int64_t i = 0; i < a.rays; ++i) group_offsets[i + 1] += group_offsets[i];
  Tensor groups = torch::stable::new_empty(like, {group_offsets[a.rays], 2}, torch::headeronly::ScalarType::Int);
  Group* all = reinterpret_cast<Group*>(groups.data_ptr());
  for (size_t c = 0; c < found.size(); ++c)
    if (!found[c].empty())
      std::memcpy(all + group_offsets[c * CHUNK], found[c].data(), found[c].size() * sizeof(Group));
  return groups;
}

// Writes a group's steps; returns how many.
int32_t spell_out(const EvenSteps& steps, const Group& group, float* t_start, float* t_end) {
  if (group.mask == 0xffffffffu) {
    for (int32_t k = 0; k < GROUP; ++k) {
      t_start[k] = steps.t(group.position + k);
      t_end[k] = steps.t(group.position + k + 1);
    }
    return GROUP;
  }
  int32_t n = 0;
  for (uint32_t mask = group.mask; mask; mask &= mask - 1, ++n) {
    const int32_t k = group.position + __builtin_ctz(mask);
    t_start[n] = steps.t(k);
    t_end[n] = steps.t(k + 1);
  }
  return n;
}

int32_t spell_out(const ConeSteps& steps, const Group& group, float* t_start, float* t_end) {
  float p;
  std::memcpy(&p, &group.position, sizeof p);
  int32_t n = 0;
  for (uint32_t mask = group.mask; mask; mask >>= 1) {
    const float next = steps.advance(p, 1);
    if (mask & 1) {
      t_start[n] = p;
      t_end[n++] = next;
    }
    p = next;
  }
  return n;
}

void write_cpu(const MarchArgs& a, const MarchOut& out, const Group* groups, const int64_t* group_offsets) {
  deal_chunks(a.rays, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t at = out.offsets[i];
      if (at == out.offsets[i + 1]) continue;
      std::fill(out.ray_index + at, out.ray_index + out.offsets[i + 1], a.alive ? a.alive[i] : i);
      with_steps(a.spec, march_ray_of(a, i), [&](const auto& steps) {
        for (int64_t g = group_offsets[i]; g < group_offsets[i + 1]; ++g)
          at += spell_out(steps, groups[g], out.t_start + at, out.t_end + at);
      });
    }
  });
}

#endif

void ray_aabb_op(Tensor origins, Tensor directions, Tensor box, double min_near, Tensor near_t, Tensor far_t) {
  const int64_t rays = origins.size(0);
  const double* v = in<double>(box);
  RayBox body{in<float>(origins), in<float>(directions), {}, {}, static_cast<float>(min_near), out<float>(near_t),
              out<float>(far_t)};
  for (int d = 0; d < 3; ++d) {
    body.low[d] = static_cast<float>(v[d]);
    body.high[d] = static_cast<float>(v[d + 3]);
  }
#if defined(FIELDBOOK_CUDA)
  ray_box_cuda(body, rays, current_stream(origins));
#else
  run_each(body, rays, 4096);
#endif
}

void march_bits_op(Tensor cells, Tensor bits) {
  const MarchBits body{in<uint8_t>(cells), static_cast<uint32_t*>(bits.data_ptr())};
#if defined(FIELDBOOK_CUDA)
  march_bits_cuda(body, bits.numel(), current_stream(bits));
#else
  run_each(body, bits.numel(), 8192);
#endif
}

void march_blocks_op(Tensor bits, Tensor spec, Tensor blocks) {
  const MarchSpec s = make_spec(spec);
  const MarchBlocks body{static_cast<const uint32_t*>(bits.data_ptr()), out<uint8_t>(blocks), s.resolution,
                         s.block_shift, s.morton};
#if defined(FIELDBOOK_CUDA)
  march_blocks_cuda(body, blocks.numel(), current_stream(blocks));
#else
  run_each(body, blocks.numel(), 512);
#endif
}

// `alive` and `resume` are empty when all rays are marched (`all`). Returns what the write pass needs besides.
Tensor march_count_op(Tensor origins, Tensor directions, Tensor near_t, Tensor far_t, Tensor noise, Tensor alive,
                      bool all, Tensor bits, Tensor blocks, Tensor spec, Tensor counts, Tensor resume,
                      Tensor group_offsets) {
  const MarchArgs a = make_args(origins, directions, near_t, far_t, noise, alive, all, bits, blocks, spec);
  MarchOut o{};
  o.counts = out<int64_t>(counts);
  o.resume = all ? nullptr : out<float>(resume);
#if defined(FIELDBOOK_CUDA)
  march_count_cuda(a, o, current_stream(origins));
  return torch::stable::new_empty(counts, {0, 2}, torch::headeronly::ScalarType::Int);
#else
  return count_cpu(a, o, out<int64_t>(group_offsets), counts);
#endif
}

void march_write_op(Tensor origins, Tensor directions, Tensor near_t, Tensor far_t, Tensor noise, Tensor alive,
                    bool all, Tensor bits, Tensor blocks, Tensor spec, Tensor groups, Tensor group_offsets,
                    Tensor offsets, Tensor t_start, Tensor t_end, Tensor ray_index) {
  const MarchArgs a = make_args(origins, directions, near_t, far_t, noise, alive, all, bits, blocks, spec);
  MarchOut o{};
  o.offsets = in<int64_t>(offsets);
  o.t_start = out<float>(t_start);
  o.t_end = out<float>(t_end);
  o.ray_index = out<int64_t>(ray_index);
#if defined(FIELDBOOK_CUDA)
  march_write_cuda(a, o, current_stream(origins));
#else
  write_cpu(a, o, static_cast<const Group*>(groups.data_ptr()), in<int64_t>(group_offsets));
#endif
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def(
      "ray_aabb(Tensor origins, Tensor directions, Tensor box, float min_near, Tensor(a!) near_t, Tensor(b!) far_t) "
      "-> ()");
  m.def("march_bits(Tensor cells, Tensor(a!) bits) -> ()");
  m.def("march_blocks(Tensor bits, Tensor spec, Tensor(a!) blocks) -> ()");
  m.def(
      "march_count(Tensor origins, Tensor directions, Tensor near_t, Tensor far_t, Tensor noise, Tensor alive, "
      "bool all, Tensor bits, Tensor blocks, Tensor spec, Tensor(a!) counts, Tensor(b!) resume, "
      "Tensor(c!) group_offsets) -> Tensor");
  m.def(
      "march_write(Tensor origins, Tensor directions, Tensor near_t, Tensor far_t, Tensor noise, Tensor alive, "
      "bool all, Tensor bits, Tensor blocks, Tensor spec, Tensor groups, Tensor group_offsets, Tensor offsets, "
      "Tensor(a!) t_start, Tensor(b!) t_end, Tensor(c!) ray_index) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("ray_aabb", TORCH_BOX(&fieldbook::ray_aabb_op));
  m.impl("march_bits", TORCH_BOX(&fieldbook::march_bits_op));
  m.impl("march_blocks", TORCH_BOX(&fieldbook::march_blocks_op));
  m.impl("march_count", TORCH_BOX(&fieldbook::march_count_op));
  m.impl("march_write", TORCH_BOX(&fieldbook::march_write_op));
}
