// Binding of composite, composite_alpha and composite_alive_, and their launch on the CPU.
#include "composite.h"

#include <optional>

#include "bind.h"
#include "groups.h"

namespace fieldbook {
namespace {

const float* in_or_null(const std::optional<Tensor>& t) { return t ? in<float>(*t) : nullptr; }
float* out_or_null(const std::optional<Tensor>& t) { return t ? out<float>(*t) : nullptr; }

CompositeSamples samples_of(const Tensor& value, const Tensor& rgb, const Tensor& t_start, const Tensor& t_end,
                            const Tensor& offsets, const std::optional<Tensor>& extra, double early_stop) {
  return {in<float>(value),     in<float>(rgb),          in<float>(t_start), in<float>(t_end),
          in_or_null(extra),    in<int64_t>(offsets),    value.size(0),      static_cast<int32_t>(rgb.size(1)),
          static_cast<float>(early_stop)};
}

void composite_forward_op(Tensor value, Tensor rgb, Tensor t_start, Tensor t_end, Tensor offsets,
                          std::optional<Tensor> extra, bool alpha, double early_stop, Tensor rgb_out, Tensor opacity,
                          Tensor depth, Tensor weights, std::optional<Tensor> extra_out) {
  const CompositeSamples s = samples_of(value, rgb, t_start, t_end, offsets, extra, early_stop);
  const CompositeOut o{out<float>(rgb_out), out<float>(opacity), out<float>(depth), out<float>(weights),
                       out_or_null(extra_out)};
  const int64_t rays = opacity.size(0);
#if defined(FIELDBOOK_CUDA)
  composite_forward_cuda(s, alpha, o, rays, current_stream(value));
#else
  composite_forward(s, alpha, o, [&](const auto& body) { run_groups(body, rays); });
#endif
}

void composite_backward_op(Tensor value, Tensor rgb, Tensor t_start, Tensor t_end, Tensor offsets, bool alpha,
                           double early_stop, std::optional<Tensor> grad_rgb, std::optional<Tensor> grad_opacity,
                           std::optional<Tensor> grad_depth, std::optional<Tensor> grad_weights,
                           std::optional<Tensor> grad_extra, Tensor to_value, std::optional<Tensor> to_rgb,
                           std::optional<Tensor> to_extra) {
  const CompositeSamples s = samples_of(value, rgb, t_start, t_end, offsets, std::nullopt, early_stop);
  const CompositeGrads g{in_or_null(grad_rgb),     in_or_null(grad_opacity), in_or_null(grad_depth),
                         in_or_null(grad_weights), in_or_null(grad_extra),   out<float>(to_value),
                         out_or_null(to_rgb),      out_or_null(to_extra)};
  const int64_t rays = offsets.size(0) - 1;
#if defined(FIELDBOOK_CUDA)
  composite_backward_cuda(s, alpha, g, rays, current_stream(value));
#else
  composite_backward(s, alpha, g, [&](const auto& body) { run_groups(body, rays); });
#endif
}

void composite_alive_op(Tensor density, Tensor rgb, Tensor t_start, Tensor t_end, Tensor offsets, Tensor alive,
                        int64_t steps, double early_stop, Tensor rgb_sum, Tensor opacity, Tensor depth, Tensor keep) {
  const CompositeSamples s = samples_of(density, rgb, t_start, t_end, offsets, std::nullopt, early_stop);
  const CompositeState state{in<int64_t>(alive), opacity.size(0),   steps, out<float>(rgb_sum), out<float>(opacity),
                             out<float>(depth),  out<uint8_t>(keep)};
  const int64_t rays = alive.size(0);
#if defined(FIELDBOOK_CUDA)
  composite_alive_cuda(s, state, rays, current_stream(density));
#else
  composite_alive(s, state, [&](const auto& body) { run_groups(body, rays); });
#endif
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def(
      "composite_forward(Tensor value, Tensor rgb, Tensor t_start, Tensor t_end, Tensor offsets, Tensor? extra, "
      "bool alpha, float early_stop, Tensor(a!) rgb_out, Tensor(b!) opacity, Tensor(c!) depth, Tensor(d!) weights, "
      "Tensor(e!)? extra_out) -> ()");
  m.def(
      "composite_backward(Tensor value, Tensor rgb, Tensor t_start, Tensor t_end, Tensor offsets, bool alpha, "
      "float early_stop, Tensor? grad_rgb, Tensor? grad_opacity, Tensor? grad_depth, Tensor? grad_weights, "
      "Tensor? grad_extra, Tensor(a!) to_value, Tensor(b!)? to_rgb, Tensor(c!)? to_extra) -> ()");
  m.def(
      "composite_alive(Tensor density, Tensor rgb, Tensor t_start, Tensor t_end, Tensor offsets, Tensor alive, "
      "int steps, float early_stop, Tensor(a!) rgb_sum, Tensor(b!) opacity, Tensor(c!) depth, Tensor(d!) keep) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("composite_forward", TORCH_BOX(&fieldbook::composite_forward_op));
  m.impl("composite_backward", TORCH_BOX(&fieldbook::composite_backward_op));
  m.impl("composite_alive", TORCH_BOX(&fieldbook::composite_alive_op));
}
