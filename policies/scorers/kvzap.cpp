#include "policies/layer_networks.h"
#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// The surrogate of one layer: linear, or linear, GELU, linear.
class Surrogate {
 public:
  Surrogate(const LayerTensorsSource& source, const models::Geometry& shape, bool linear) {
    const std::string first = linear ? "" : "0";
    layers_.emplace_back(source, first, shape.hidden_size, linear ? shape.num_kv_heads : -1, Linear::Bias::required);
    if (!linear) {
      layers_.emplace_back(source, "2", layers_.front().outputs(), shape.num_kv_heads, Linear::Bias::required);
    }
  }
  /// z [n, hidden_size] -> predicted log score [n, H_kv].
  [[nodiscard]] models::MatrixDouble operator()(const models::MatrixDouble& inputs) const {
    models::MatrixDouble out = layers_.front()(inputs);
    if (layers_.size() == 1) return out;
    activate(Activation::gelu, out);
    return layers_.back()(out);
  }

 private:
  std::vector<Linear> layers_;
};

class KvZap : public Scorer {
 public:
  explicit KvZap(const Parameters& parameters) : weights_(open_weights(parameters)), kind_(parameters.choice("kind")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    if (!surrogate_) surrogate_ = shared_network<Surrogate>(*weights_, cache, "kvzap " + kind_, kind_ == "linear");
    predicted_.update(cache, [&](RowRange rows) { return (*surrogate_)(inputs_of(cache, rows)); });
    predicted_.write(cache, scores);
  }

  [[nodiscard]] Needs needs() const override {
    Needs needs = weights_ ? Needs{} : missing_weights("kvzap", "the surrogate of the model");
    needs.layer_input = true;
    return needs;
  }

 private:
  std::shared_ptr<const traces::Weights> weights_;
  std::string kind_;
  std::shared_ptr<const Surrogate> surrogate_;
  PerRow predicted_;
};

const Registration registration(
    {.name = "kvzap",
     .sentence =
         "Keeps the entries for which a small network on the attention's input predicts the highest KVzip score.",
     .citation = "KVzap, arXiv 2601.07891; kvpress 0.5.5 KVzapPress",
     .parameters = {weights_parameter(), choice_parameter("kind", {"mlp", "linear"}, "two layers with GELU, or one")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<KvZap>(parameters); }),
     .is_policy = true});

// kvpress downloads the surrogate of the running model; here the policy says what it lacks.
const PressRegistration press({.name = "KVzapPress",
                               .part = "kvzap",
                               .arguments = {compression_ratio_argument,
                                             {"model_type", PressValue::text, "mlp", "kind"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "kvzap", .arguments = {"kind=" + given["model_type"]}};
                               }});

}  // namespace
}  // namespace evictsim::policies
