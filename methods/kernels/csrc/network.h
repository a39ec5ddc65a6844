// The layers of a small network on the CPU: weights as the panels' loops read them, sums of their gradients.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "bind.h"
#include "ops/panel.h"

namespace fieldbook {

constexpr int BLOCK = 4 * PANEL;  // samples whose products are added to the sums of the gradients at once

struct AlignedBuffer {
  explicit AlignedBuffer(int64_t n) : store(n + LANES, 0.0f) {
    const auto at = reinterpret_cast<uintptr_t>(store.data());
    data = store.data() + (64 - at % 64) % 64 / sizeof(float);
  }
  std::vector<float> store;
  float* data;
};

struct Layer {
  int inputs, outputs;      // as the caller counts
  int in, out;              // padded to whole tiles
  int columns;              // of the sums: the inputs, padded as add_outer wants them
  const float* forward;     // [in, out]
  const float* backward;    // [out, in]
  const float* bias;        // [out], or null
  int64_t flat, flat_bias;  // where its numbers start in the flat tensor
  int64_t sums, sums_bias;  // where its sums start
};

// Weights are handed over as one flat tensor: per layer a [outputs, inputs] matrix and, where there are biases, its
// [outputs] numbers. They are packed twice, padded with zeros to whole tiles.
class Network {
 public:
  Network(const int64_t* widths, int64_t count, const float* flat, bool biases) {
    int64_t size = 0, from = 0;
    for (int64_t l = 0; l + 1 < count; ++l) {
      Layer layer{static_cast<int>(widths[l]), static_cast<int>(widths[l + 1])};
      layer.in = padded(layer.inputs), layer.out = padded(layer.outputs), layer.columns = (layer.inputs + 1) / 2 * 2;
      const int64_t matrix = static_cast<int64_t>(layer.in) * layer.out;
      layer.sums = sums, layer.sums_bias = sums + static_cast<int64_t>(layer.columns) * layer.out;
      layer.flat = from, layer.flat_bias = from + static_cast<int64_t>(layer.inputs) * layer.outputs;
      sums = layer.sums_bias + (biases ? layer.out : 0);
      from = layer.flat_bias + (biases ? layer.outputs : 0);
      size += 2 * matrix + layer.out;
      layers.push_back(layer);
    }
    packed.assign(size, 0.0f);
    float* to = packed.data();
    for (Layer& layer : layers) to = pack(layer, flat, biases, to);
  }

  std::vector<Layer> layers;
  int64_t sums = 0;  // vectors that the gradients' sums take

  // Adds up the sums, in their order and then lane by lane, into a flat tensor.
  void collect(const std::vector<AlignedBuffer>& parts, float* flat) const {
    for (const Layer& layer : layers) {
      for (int o = 0; o < layer.outputs; ++o)
        for (int i = 0; i < layer.inputs; ++i)
          flat[layer.flat + static_cast<int64_t>(o) * layer.inputs + i] =
              total(parts, layer.sums + static_cast<int64_t>(o) * layer.columns + i);
      for (int o = 0; o < layer.outputs && layer.bias != nullptr; ++o)
        flat[layer.flat_bias + o] = total(parts, layer.sums_bias + o);
    }
  }

 private:
  static float total(const std::vector<AlignedBuffer>& parts, int64_t at) {
    float sum = 0.0f;
    for (const AlignedBuffer& part : parts) sum += sum_lanes(reinterpret_cast<const vec16*>(part.data)[at]);
    return sum;
  }

  static float* pack(Layer& layer, const float* flat, bool biases, float* to) {
    float* forward = to;
    float* backward = forward + static_cast<int64_t>(layer.in) * layer.out;
    float* bias = backward + static_cast<int64_t>(layer.in) * layer.out;
    for (int o = 0; o < layer.outputs; ++o) {
      for (int i = 0; i < layer.inputs; ++i) {
        const float w = flat[layer.flat + static_cast<int64_t>(o) * layer.inputs + i];
        forward[i * layer.out + o] = backward[o * layer.in + i] = w;
      }
      if (biases) bias[o] = flat[layer.flat_bias + o];
    }
    layer.forward = forward, layer.backward = backward, layer.bias = biases ? bias : nullptr;
    return bias + layer.out;
  }

  std::vector<float> packed;
};

// Of a panel or block that starts at `first`.
inline int samples_in(int64_t first, int64_t samples, int most) {
  return static_cast<int>(std::min<int64_t>(most, samples - first));
}

// Calls `body(begin, end, sums)` for each thread's run of samples, which starts with a block, with sums of its own: a
// result depends on how many threads there are, and not on which is faster.
template <class Body>
std::vector<AlignedBuffer> run_shares(int64_t samples, int64_t sums, const Body& body) {
  const int64_t blocks = (samples + BLOCK - 1) / BLOCK;
  const int64_t hands = std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), blocks));
  std::vector<AlignedBuffer> parts;
  for (int64_t hand = 0; hand < hands; ++hand) parts.emplace_back(sums * LANES);
  torch::stable::parallel_for(0, hands, 1, [&](int64_t from, int64_t to) {
    for (int64_t hand = from; hand < to; ++hand)
      body(blocks * hand / hands * BLOCK, std::min(samples, blocks * (hand + 1) / hands * BLOCK),
           reinterpret_cast<vec16*>(parts[hand].data));
  });
  return parts;
}

}  // namespace fieldbook
