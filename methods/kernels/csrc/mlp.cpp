// Binding of mlp, and its launch on the CPU. A GPU has cuBLAS for this; the CUDA library holds no mlp.
#include "bind.h"

#if !defined(FIELDBOOK_CUDA)
#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/mlp.h"

namespace fieldbook {
namespace {

struct Layer {
  int inputs, outputs;         // as the caller counts
  int64_t forward, backward;   // where its packed weights start
  int64_t flat;                // where its weights start in the flat tensor
};

struct AlignedBuffer {
  explicit AlignedBuffer(int64_t n) : store(n + LANES, 0.0f) {
    const auto at = reinterpret_cast<uintptr_t>(store.data());
    data = store.data() + (64 - at % 64) % 64 / sizeof(float);
  }
  std::vector<float> store;
  float* data;
};

// Weights are handed over as one flat tensor of [outputs, inputs] matrices. They are packed twice, padded with zeros to
// whole tiles: [inputs, outputs] for the forward pass, [outputs, inputs] for the backward pass.
class Network {
 public:
  Network(const int64_t* widths, int64_t count, const float* flat) {
    int64_t size = 0, from = 0;
    for (int64_t l = 0; l + 1 < count; ++l) {
      Layer layer{static_cast<int>(widths[l]), static_cast<int>(widths[l + 1]), size, 0, from};
      size += static_cast<int64_t>(padded(layer.inputs)) * padded(layer.outputs);
      layer.backward = size;
      size += static_cast<int64_t>(padded(layer.inputs)) * padded(layer.outputs);
      from += static_cast<int64_t>(layer.inputs) * layer.outputs;
      layers.push_back(layer);
    }
    packed.assign(size, 0.0f);
    weights = from;
    for (const Layer& layer : layers)
      for (int o = 0; o < layer.outputs; ++o)
        for (int i = 0; i < layer.inputs; ++i) {
          const float w = flat[layer.flat + static_cast<int64_t>(o) * layer.inputs + i];
          packed[layer.forward + i * padded(layer.outputs) + o] = w;
          packed[layer.backward + o * padded(layer.inputs) + i] = w;
        }
  }

  int64_t rows() const {
    int64_t n = padded(layers[0].inputs);
    for (const Layer& layer : layers) n += padded(layer.outputs);
    return n;
  }

  // activations: all layers' rows, the input's first; returns the output's rows.
  float* forward(float* activations) const {
    for (size_t l = 0; l < layers.size(); ++l) {
      float* next = activations + static_cast<int64_t>(padded(layers[l].inputs)) * BLOCK;
      layer_rows(packed.data() + layers[l].forward, padded(layers[l].outputs), activations, layers[l].inputs, next,
                 padded(layers[l].outputs), l + 1 < layers.size());
      activations = next;
    }
    return activations;
  }

  // gradient: the output's rows, replaced layer by layer; `other` is a second buffer. Returns the input's rows.
  float* backward(float* output, float* gradient, float* other, vec16* weight_sums) const {
    float* activation = output;
    for (size_t l = layers.size(); l-- > 0;) {
      const Layer& layer = layers[l];
      activation -= static_cast<int64_t>(padded(layer.inputs)) * BLOCK;
      add_outer(gradient, padded(layer.outputs), activation, padded(layer.inputs),
                weight_sums + layer.backward, padded(layer.inputs));
      layer_rows(packed.data() + layer.backward, padded(layer.inputs), gradient, layer.outputs, other,
                 padded(layer.inputs), false);
      if (l > 0) mask_relu(activation, other, padded(layer.inputs));
      std::swap(gradient, other);
    }
    return gradient;
  }

  std::vector<Layer> layers;
  std::vector<float> packed;
  int64_t weights = 0;
};

// The network's input: rows of x, then rows of `shared` at the sample's index.
struct Input {
  const float *x, *shared;
  const int64_t* index;
  int64_t samples;
  int own, common;

  void load(int64_t first, float* rows) const {
    const int n = static_cast<int>(std::min<int64_t>(BLOCK, samples - first));
    for (int s = 0; s < n; ++s) {
      const float* row = x + (first + s) * own;
      for (int i = 0; i < own; ++i) rows[i * BLOCK + s] = row[i];
    }
    for (int s = 0; s < n && common > 0; ++s) {
      const float* row = shared + index[first + s] * common;
      for (int i = 0; i < common; ++i) rows[(own + i) * BLOCK + s] = row[i];
    }
    for (int i = 0; i < own + common; ++i) std::fill(rows + i * BLOCK + n, rows + (i + 1) * BLOCK, 0.0f);
  }
};

Input make_input(const Tensor& x, const Tensor& shared, const Tensor& index) {
  const int common = shared.numel() == 0 ? 0 : static_cast<int>(shared.size(1));
  return {in<float>(x), in<float>(shared), in<int64_t>(index), x.size(0), static_cast<int>(x.size(1)), common};
}

void store(const float* rows, int width, int64_t first, int64_t samples, float* out) {
  const int n = static_cast<int>(std::min<int64_t>(BLOCK, samples - first));
  for (int s = 0; s < n; ++s)
    for (int i = 0; i < width; ++i) out[(first + s) * width + i] = rows[i * BLOCK + s];
}

void mlp_forward_op(Tensor x, Tensor shared, Tensor index, Tensor widths, Tensor weights, Tensor result) {
  const Network net(in<int64_t>(widths), widths.numel(), in<float>(weights));
  const Input input = make_input(x, shared, index);
  float* target = out<float>(result);
  const int64_t blocks = (input.samples + BLOCK - 1) / BLOCK;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer buffer(net.rows() * BLOCK);
    for (int64_t b = begin; b < end; ++b) {
      input.load(b * BLOCK, buffer.data);
      store(net.forward(buffer.data), net.layers.back().outputs, b * BLOCK, input.samples, target);
    }
  });
}

// Hidden activations are computed again, which is cheaper than storing and loading them. Each thread sums the weights'
// gradient over its own run of blocks; the sums are added in the threads' order.
void mlp_backward_op(Tensor x, Tensor shared, Tensor index, Tensor widths, Tensor weights, Tensor grad, Tensor grad_x,
                     Tensor grad_weights) {
  const Network net(in<int64_t>(widths), widths.numel(), in<float>(weights));
  const Input input = make_input(x, shared, index);
  const int outputs = net.layers.back().outputs;
  Input gradient{in<float>(grad), nullptr, nullptr, input.samples, outputs, 0};
  float* target = out<float>(grad_x);
  const int64_t blocks = (input.samples + BLOCK - 1) / BLOCK;
  const int64_t hands = std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), blocks));
  const int64_t size = static_cast<int64_t>(net.packed.size());
  std::vector<AlignedBuffer> sums;
  for (int64_t hand = 0; hand < hands; ++hand) sums.emplace_back(size * LANES);
  torch::stable::parallel_for(0, hands, 1, [&](int64_t begin, int64_t end) {
    AlignedBuffer buffer(net.rows() * BLOCK), one(net.rows() * BLOCK), two(net.rows() * BLOCK);
    for (int64_t hand = begin; hand < end; ++hand) {
      for (int64_t b = blocks * hand / hands; b < blocks * (hand + 1) / hands; ++b) {
        input.load(b * BLOCK, buffer.data);
        float* output = net.forward(buffer.data);
        gradient.load(b * BLOCK, one.data);
        std::fill(one.data + outputs * BLOCK, one.data + padded(outputs) * BLOCK, 0.0f);
        const float* rows = net.backward(output, one.data, two.data, reinterpret_cast<vec16*>(sums[hand].data));
        store(rows, input.own, b * BLOCK, input.samples, target);
      }
    }
  });
  float* flat = out<float>(grad_weights);
  for (const Layer& layer : net.layers)
    for (int o = 0; o < layer.outputs; ++o)
      for (int i = 0; i < layer.inputs; ++i) {
        float total = 0.0f;
        for (const AlignedBuffer& sum : sums)
          total += sum_lanes(reinterpret_cast<const vec16*>(sum.data)[layer.backward + o * padded(layer.inputs) + i]);
        flat[layer.flat + static_cast<int64_t>(o) * layer.inputs + i] = total;
      }
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
