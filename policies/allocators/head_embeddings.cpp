#include <algorithm>
#include <stdexcept>

#include "policies/layer_networks.h"
#include "policies/learned_parameters.h"
#include "policies/registry.h"
#include "policies/scoring.h"
#include "policies/seats.h"

namespace evictsim::policies {
namespace {

/// Splits the budget of all layers by a softmax over what a network makes of each head's learned embedding.
class HeadEmbeddings : public Allocator {
 public:
  explicit HeadEmbeddings(const Parameters& parameters)
      : weights_(open_weights(parameters)), floor_(static_cast<double>(parameters.integer("floor"))) {}

  void allocate(const AllocationRequest&, std::span<Index>) const override {
    throw std::logic_error("head_embeddings splits over all layers at once");
  }

  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const override {
    std::vector<double> shares = logits(layers);
    softmax(shares);
    double total = 0;
    double entries = 0;
    for (const AllocationRequest& layer : layers) {
      total += static_cast<double>(layer.budget.entries) * layer.scores->heads();
      entries = std::max(entries, static_cast<double>(layer.budget.entries));
    }
    const double floor = std::min(floor_, entries);
    for (double& share : shares) share = floor + share * (total - static_cast<double>(shares.size()) * floor);
    const std::vector<Index> whole = round_by_remainder(shares, static_cast<Index>(total));
    auto next = whole.begin();
    for (std::vector<Index>& layer : counts) {
      std::copy_n(next, layer.size(), layer.begin());
      next += std::ssize(layer);
    }
  }

  [[nodiscard]] AllocationScope scope() const override { return AllocationScope::model_once; }
  [[nodiscard]] Needs needs() const override {
    return weights_ ? Needs{} : missing_weights("lkv", "head embeddings and token scorers");
  }

 private:
  /// One per head, layer by layer.
  [[nodiscard]] std::vector<double> logits(std::span<const AllocationRequest> layers) const {
    std::vector<double> logits;
    for (const AllocationRequest& layer : layers) {
      const LayerTensorsSource source(*weights_, layer.layer);
      const Index heads = layer.scores->heads();
      const traces::Tensor embedding = source.read("embedding", {heads, -1}, "[H_kv, width]");
      const auto width = static_cast<Index>(embedding.shape[1]);
      const Linear first(source, "budget.0", width, -1, Linear::Bias::required);
      const TwoLayers network{first, Activation::gelu,
                              Linear(source, "budget.2", first.outputs(), 1, Linear::Bias::required)};
      const models::MatrixDouble out = network(models::view(embedding.data.data(), heads, width).cast<double>());
      logits.insert(logits.end(), out.data(), out.data() + heads);
    }
    return logits;
  }

  std::shared_ptr<const traces::Weights> weights_;
  double floor_;
};

const Registration registration(
    {.name = "head_embeddings",
     .sentence = "Splits the model's budget over heads by learned head embeddings.",
     .citation = "LKV-like (reconstructed), after LKV, arXiv 2605.06676; docs/policies/lkv.md",
     .parameters = {weights_parameter(), lkv_floor_parameter()},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<HeadEmbeddings>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
