// Binding of distance_net, and its launch on the CPU. As with mlp, a GPU has cuBLAS for this.
//
// Layer l takes a_l to h_l = W_l a_l + b_l and a_{l+1} = softplus(h_l) with the slope s_l; a_0 is the input z. The
// distance is the last layer's first output, and its gradient in z comes back through the layers: with p the last matrix'
// first row, q_l = p * s_l and then p = W_l^T q_l, down to l = 0.
#include "bind.h"

#if !defined(FIELDBOOK_CUDA)
#include <optional>

#include "network.h"
#include "ops/distance_net.h"

namespace fieldbook {
namespace {

// Where a panel keeps the rows of a hidden layer: a_{l+1}, s_l, q_l; backward also dL/dh_l, and dL/dp behind q_l.
struct Hidden {
  int64_t value, slope, product, to_h, to_p;
};

// A panel's memory. Backward, `along` holds dL/d(gradient in z); forward, that gradient itself.
struct Places {
  explicit Places(const Network& net) {
    int widest = net.layers[0].in;
    z = take(net.layers[0].in);
    along = take(net.layers[0].in);
    features = take(net.layers.back().out);
    for (size_t l = 0; l + 1 < net.layers.size(); ++l) {
      const int rows = net.layers[l].out;
      hidden.push_back({take(rows), take(rows), take(rows), take(rows), take(rows)});
      widest = std::max(widest, rows);
    }
    other = take(widest);
  }

  int64_t take(int rows) {
    const int64_t at = size;
    size += static_cast<int64_t>(rows) * PANEL;
    return at;
  }

  int64_t size = 0, z, along, features, other;
  std::vector<Hidden> hidden;
};

struct DistanceNet {
  DistanceNet(const Tensor& widths, const Tensor& flat, double beta)
      : net(in<int64_t>(widths), widths.numel(), in<float>(flat), true),
        at(net),
        last(net.layers.back()),
        outputs(last.outputs),
        sharp(beta) {}

  void make_values(float* panel) const {
    int64_t from = at.z;
    for (size_t l = 0; l < at.hidden.size(); ++l) {
      const Layer& layer = net.layers[l];
      const Hidden& here = at.hidden[l];
      layer_rows(layer.forward, layer.out, layer.bias, panel + from, layer.inputs, panel + here.value, layer.out);
      softplus_rows(panel + here.value, panel + here.slope, layer.out, sharp);
      from = here.value;
    }
  }

  void make_distance(float* panel) const {
    const float* from = panel + at.hidden.back().value;
    weigh_and_add(last.backward, last.bias[0], from, last.inputs, panel + at.features);
  }

  void make_features(float* panel) const {
    const float* from = panel + at.hidden.back().value;
    layer_rows(last.forward, last.out, last.bias, from, last.inputs, panel + at.features, last.out);
  }

  void make_products(float* panel) const {
    const Hidden& top = at.hidden.back();
    weigh_rows(last.backward, panel + top.slope, panel + top.product, last.in);
    for (size_t l = at.hidden.size() - 1; l > 0; --l) {
      const Layer& layer = net.layers[l];
      float* to = panel + at.hidden[l - 1].product;
      layer_rows(layer.backward, layer.in, nullptr, panel + at.hidden[l].product, layer.outputs, to, layer.in);
      multiply_rows(panel + at.hidden[l - 1].slope, to, layer.in);
    }
  }

  void make_gradient(float* panel) const {
    const Layer& first = net.layers[0];
    const float* from = panel + at.hidden[0].product;
    layer_rows(first.backward, first.in, nullptr, from, first.outputs, panel + at.along, first.in);
  }

  // Back through make_gradient and make_products.
  void from_gradient(float* panel) const {
    int64_t from = at.along;
    for (size_t l = 0; l < at.hidden.size(); ++l) {
      const Layer& layer = net.layers[l];
      const Hidden& here = at.hidden[l];
      float* to = panel + here.to_p;
      layer_rows(layer.forward, layer.out, nullptr, panel + from, layer.inputs, to, layer.out);
      product_rows(panel + here.slope, panel + here.product, to, panel + here.to_h, layer.out, sharp.beta);
      from = here.to_p;
    }
  }

  // Back through make_features and make_values, on top of the former if `second`; the gradient in z ends in `other`.
  void from_features(float* panel, bool second) const {
    float* other = panel + at.other;
    layer_rows(last.backward, last.in, nullptr, panel + at.features, last.outputs, other, last.in);
    for (size_t l = at.hidden.size(); l-- > 0;) {
      const Layer& layer = net.layers[l];
      float* to_h = panel + at.hidden[l].to_h;
      value_rows(panel + at.hidden[l].slope, other, to_h, layer.out, second);
      layer_rows(layer.backward, layer.in, nullptr, to_h, layer.outputs, other, layer.in);
    }
  }

  void add_to_sums(const float* block, int panels, bool second, vec16* sums) const {
    int64_t value = at.z, to_p = at.along;
    for (size_t l = 0; l < at.hidden.size(); ++l) {
      const Layer& layer = net.layers[l];
      const Hidden& here = at.hidden[l];
      const Factors factors[] = {{block + here.to_h, block + value}, {block + here.product, block + to_p}};
      add_outer(factors, second ? 2 : 1, layer.out, layer.columns, panels, at.size, sums + layer.sums);
      add_rows(block + here.to_h, layer.out, panels, at.size, sums + layer.sums_bias);
      value = here.value, to_p = here.to_p;
    }
    const Factors factors{block + at.features, block + value};
    add_outer(&factors, 1, last.out, last.columns, panels, at.size, sums + last.sums);
    if (second) add_rows(block + to_p, last.inputs, panels, at.size, sums + last.sums);
    add_rows(block + at.features, last.out, panels, at.size, sums + last.sums_bias);
  }

  const Network net;
  const Places at;
  const Layer& last;
  const int outputs;
  const Sharpness sharp;
};

// A matrix whose columns are in two tensors, either of which may be missing.
template <class T>
struct Pair {
  T *first, *second;
  int columns, more;

  explicit operator bool() const { return first != nullptr || second != nullptr; }

  void load(int64_t sample, int n, float* rows) const {
    load_or_clear(first, columns, sample, n, rows);
    load_or_clear(second, more, sample, n, rows + columns * PANEL);
  }

  void store(const float* rows, int64_t sample, int n) const {
    if (first != nullptr) store_panel(rows, columns, n, first + sample * columns);
    if (second != nullptr) store_panel(rows + columns * PANEL, more, n, second + sample * more);
  }

 private:
  static void load_or_clear(const float* from, int width, int64_t sample, int n, float* rows) {
    if (from != nullptr)
      load_panel(from + sample * width, width, n, rows);
    else
      std::fill(rows, rows + width * PANEL, 0.0f);
  }
};

const float* in_or_null(const std::optional<Tensor>& t) { return t ? in<float>(*t) : nullptr; }
float* out_or_null(const std::optional<Tensor>& t) { return t ? out<float>(*t) : nullptr; }

using Optional = std::optional<Tensor>;

void distance_net_forward_op(Tensor x, Tensor more, Tensor widths, Tensor weights, double beta, Tensor distance,
                             Optional features, Optional to_x, Optional to_more) {
  const DistanceNet net(widths, weights, beta);
  const int own = static_cast<int>(x.size(1)), rest = static_cast<int>(more.size(1));
  const Pair<const float> input{in<float>(x), in<float>(more), own, rest};
  const Pair<float> gradient{out_or_null(to_x), out_or_null(to_more), own, rest};
  float *to_distance = out<float>(distance), *to_features = out_or_null(features);
  const int64_t samples = x.size(0);
  torch::stable::parallel_for(0, (samples + PANEL - 1) / PANEL, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer buffer(net.at.size);
    float* panel = buffer.data;
    for (int64_t first = begin * PANEL; first < std::min(end * PANEL, samples); first += PANEL) {
      const int n = samples_in(first, samples, PANEL);
      input.load(first, n, panel + net.at.z);
      net.make_values(panel);
      if (to_features != nullptr) {
        net.make_features(panel);
        store_panel(panel + net.at.features, net.outputs, n, to_features + first * net.outputs);
      } else {
        net.make_distance(panel);
      }
      std::copy_n(panel + net.at.features, n, to_distance + first);
      if (!gradient) continue;
      net.make_products(panel);
      net.make_gradient(panel);
      gradient.store(panel + net.at.along, first, n);
    }
  });
}

void distance_net_backward_op(Tensor x, Tensor more, Tensor widths, Tensor weights, double beta, Optional by_distance,
                              Optional by_features, Optional by_to_x, Optional by_to_more, Optional grad_x,
                              Optional grad_more, Tensor grad_weights) {
  const DistanceNet net(widths, weights, beta);
  const int own = static_cast<int>(x.size(1)), rest = static_cast<int>(more.size(1));
  const Pair<const float> input{in<float>(x), in<float>(more), own, rest};
  const Pair<const float> features{in_or_null(by_features), nullptr, net.outputs, 0};
  const Pair<const float> along{in_or_null(by_to_x), in_or_null(by_to_more), own, rest};
  const Pair<float> result{out_or_null(grad_x), out_or_null(grad_more), own, rest};
  const float* distance = in_or_null(by_distance);
  const bool second = static_cast<bool>(along);
  const auto sums = run_shares(x.size(0), net.net.sums, [&](int64_t begin, int64_t end, vec16* shares) {
    AlignedBuffer buffer(net.at.size * (BLOCK / PANEL));
    for (int64_t block = begin; block < end; block += BLOCK) {
      int panels = 0;
      for (int64_t first = block; first < std::min(block + BLOCK, end); first += PANEL, ++panels) {
        const int n = samples_in(first, end, PANEL);
        float* panel = buffer.data + panels * net.at.size;
        input.load(first, n, panel + net.at.z);
        features.load(first, n, panel + net.at.features);
        for (int s = 0; s < n && distance != nullptr; ++s) panel[net.at.features + s] += distance[first + s];
        if (second) along.load(first, n, panel + net.at.along);
        net.make_values(panel);
        if (second) net.make_products(panel);
        if (second) net.from_gradient(panel);
        net.from_features(panel, second);
        result.store(panel + net.at.other, first, n);
      }
      net.add_to_sums(buffer.data, panels, second, shares);
    }
  });
  net.net.collect(sums, out<float>(grad_weights));
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def(
      "distance_net_forward(Tensor x, Tensor more, Tensor widths, Tensor weights, float beta, Tensor(a!) distance, "
      "Tensor(b!)? features, Tensor(c!)? to_x, Tensor(d!)? to_more) -> ()");
  m.def(
      "distance_net_backward(Tensor x, Tensor more, Tensor widths, Tensor weights, float beta, Tensor? by_distance, "
      "Tensor? by_features, Tensor? by_to_x, Tensor? by_to_more, Tensor(a!)? grad_x, Tensor(b!)? grad_more, "
      "Tensor(c!) grad_weights) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("distance_net_forward", TORCH_BOX(&fieldbook::distance_net_forward_op));
  m.impl("distance_net_backward", TORCH_BOX(&fieldbook::distance_net_backward_op));
}
#endif
