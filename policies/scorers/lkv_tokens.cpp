#include "policies/layer_networks.h"
#include "policies/learned_parameters.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// The token scorer of one layer: two layers with GELU on [k after RoPE, v] of one head, the same for every head, or on
/// the attention's input.
class TokenScorer {
 public:
  TokenScorer(const LayerTensorsSource& source, const models::Geometry& shape, bool per_head)
      : first_(source, "token.0", per_head ? 2 * shape.head_dim : shape.hidden_size, -1, Linear::Bias::required),
        second_(source, "token.2", first_.outputs(), per_head ? 1 : shape.num_kv_heads, Linear::Bias::required) {}
  [[nodiscard]] models::MatrixDouble operator()(const models::MatrixDouble& inputs) const {
    return TwoLayers{first_, Activation::gelu, second_}(inputs);
  }

 private:
  Linear first_;
  Linear second_;
};

class LkvTokens : public Scorer {
 public:
  explicit LkvTokens(const Parameters& parameters)
      : weights_(open_weights(parameters)), per_head_(parameters.choice("input") == "kv") {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    if (!scorer_) scorer_ = shared_network<TokenScorer>(*weights_, cache, per_head_ ? "lkv kv" : "lkv z", per_head_);
    values_.update(
        cache, [&](RowRange rows) { return per_head_ ? of_heads(cache, rows) : (*scorer_)(inputs_of(cache, rows)); });
    values_.write(cache, scores);
  }

  [[nodiscard]] Needs needs() const override {
    Needs needs = weights_ ? Needs{} : missing_weights("lkv", "head embeddings and token scorers");
    needs.layer_input = !per_head_;
    return needs;
  }

 private:
  [[nodiscard]] models::MatrixDouble of_heads(const CacheView& cache, RowRange rows) const {
    const models::MatrixDouble all = keys_and_values(cache, rows);
    const Index width = 2 * cache.geometry().head_dim;
    models::MatrixDouble values(rows.count, cache.heads());
    for (int head = 0; head < cache.heads(); ++head) {
      values.col(head) = (*scorer_)(all.middleCols(head * width, width));
    }
    return values;
  }

  std::shared_ptr<const traces::Weights> weights_;
  bool per_head_;
  std::shared_ptr<const TokenScorer> scorer_;
  PerRow values_;
};

const Registration registration(
    {.name = "lkv_tokens",
     .sentence = "Scores an entry by a small network on key and value, or on the attention's input.",
     .citation = "LKV-like (reconstructed), after LKV, arXiv 2605.06676; docs/policies/lkv.md",
     .parameters = lkv_token_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<LkvTokens>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
