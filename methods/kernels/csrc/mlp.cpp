// Binding of mlp, and its launch on the CPU. A GPU has cuBLAS for this; the CUDA library holds no mlp.
#include "bind.h"

#if !defined(FIELDBOOK_CUDA)
#include "network.h"
#include "ops/mlp.h"

namespace fieldbook {
namespace {

// The network's input: rows of x, then rows of `shared` at the sample's index.
struct Input {
  const float *x, *shared;
  const int64_t* index;
  int64_t samples;
  int own, common;

  void load(int64_t first, float* rows) const {
    const int n = samples_in(first, samples, PANEL);
    load_panel(x + first * own, own, n, rows);
    if (common > 0)
      load_rows([&](int s) { return shared + index[first + s] * common; }, common, n, rows + own * PANEL);
  }
};

Input make_input(const Tensor& x, const Tensor& shared, const Tensor& index) {
  const int common = shared.numel() == 0 ? 0 : static_cast<int>(shared.size(1));
  return {in<float>(x), in<float>(shared), in<int64_t>(index), x.size(0), static_cast<int>(x.size(1)), common};
}

// A panel's memory: all layers' activations, the input's first, then two gradients of the widest.
struct Places {
  explicit Places(const Network& net) {
    int64_t rows = net.layers[0].in, widest = rows;
    at.push_back(0);
    for (const Layer& layer : net.layers) {
      at.push_back(rows * PANEL);
      rows += layer.out;
      widest = std::max<int64_t>(widest, layer.out);
    }
    forward_size = rows * PANEL;
    one = forward_size, two = one + widest * PANEL;
    size = two + widest * PANEL;
  }
  std::vector<int64_t> at;
  int64_t one, two, forward_size, size;
};

void forward(const Network& net, const Places& places, float* panel) {
  for (size_t l = 0; l < net.layers.size(); ++l) {
    const Layer& layer = net.layers[l];
    float* next = panel + places.at[l + 1];
    layer_rows(layer.forward, layer.out, nullptr, panel + places.at[l], layer.inputs, next, layer.out);
    if (l + 1 < net.layers.size()) relu_rows(next, layer.out);
  }
}

// The gradient in `one` of each panel is replaced layer by layer; returns where that of the first `own` inputs is.
int64_t backward(const Network& net, const Places& places, int own, float* block, int panels, vec16* sums) {
  int64_t here = places.one, there = places.two;
  for (size_t l = net.layers.size(); l-- > 0;) {
    const Layer& layer = net.layers[l];
    const Factors factors{block + here, block + places.at[l]};
    add_outer(&factors, 1, layer.out, layer.columns, panels, places.size, sums + layer.sums);
    for (int p = 0; p < panels; ++p) {
      float* panel = block + p * places.size;
      const int wanted = l > 0 ? layer.in : padded(own);
      layer_rows(layer.backward, layer.in, nullptr, panel + here, layer.outputs, panel + there, wanted);
      if (l > 0) mask_relu(panel + places.at[l], panel + there, layer.in);
    }
    std::swap(here, there);
  }
  return here;
}

void mlp_forward_op(Tensor x, Tensor shared, Tensor index, Tensor widths, Tensor weights, Tensor result) {
  const Network net(in<int64_t>(widths), widths.numel(), in<float>(weights), false);
  const Places places(net);
  const Input input = make_input(x, shared, index);
  const int outputs = net.layers.back().outputs;
  float* target = out<float>(result);
  torch::stable::parallel_for(0, (input.samples + PANEL - 1) / PANEL, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer buffer(places.forward_size);
    for (int64_t first = begin * PANEL; first < std::min(end * PANEL, input.samples); first += PANEL) {
      input.load(first, buffer.data);
      forward(net, places, buffer.data);
      store_panel(buffer.data + places.at.back(), outputs, samples_in(first, input.samples, PANEL),
                  target + first * outputs);
    }
  });
}

// Hidden activations are computed again, which is cheaper than storing and loading them.
void mlp_backward_op(Tensor x, Tensor shared, Tensor index, Tensor widths, Tensor weights, Tensor grad, Tensor grad_x,
                     Tensor grad_weights) {
  const Network net(in<int64_t>(widths), widths.numel(), in<float>(weights), false);
  const Places places(net);
  const Input input = make_input(x, shared, index);
  const int outputs = net.layers.back().outputs;
  const Input gradient{in<float>(grad), nullptr, nullptr, input.samples, outputs, 0};
  float* target = out<float>(grad_x);
  const auto sums = run_shares(input.samples, net.sums, [&](int64_t begin, int64_t end, vec16* own) {
    AlignedBuffer buffer(places.size * (BLOCK / PANEL));
    for (int64_t block = begin; block < end; block += BLOCK) {
      const int panels = (samples_in(block, end, BLOCK) + PANEL - 1) / PANEL;
      for (int p = 0; p < panels; ++p) {
        float* panel = buffer.data + p * places.size;
        input.load(block + p * PANEL, panel);
        forward(net, places, panel);
        gradient.load(block + p * PANEL, panel + places.one);
        std::fill(panel + places.one + outputs * PANEL, panel + places.one + padded(outputs) * PANEL, 0.0f);
      }
      const int64_t rows = backward(net, places, input.own, buffer.data, panels, own);
      for (int p = 0; p < panels; ++p) {
        const int64_t first = block + p * PANEL;
        store_panel(buffer.data + p * places.size + rows, input.own, samples_in(first, end, PANEL),
                    target + first * input.own);
      }
    }
  });
  net.collect(sums, out<float>(grad_weights));
}

}  // namespace
}  // namespace fieldbook

FB_LIBRARY(m) {
  m.def("mlp_forward(Tensor x, Tensor shared, Tensor index, Tensor widths, Tensor weights, Tensor(a!) result) -> ()");
  m.def(
      "mlp_backward(Tensor x, Tensor shared, Tensor index, Tensor widths, Tensor weights, Tensor grad, "
      "Tensor(a!) grad_x, Tensor(b!) grad_weights) -> ()");
}

FB_LIBRARY_IMPL(m) {
  m.impl("mlp_forward", TORCH_BOX(&fieldbook::mlp_forward_op));
  m.impl("mlp_backward", TORCH_BOX(&fieldbook::mlp_backward_op));
}
#endif
