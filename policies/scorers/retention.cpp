#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <variant>

#include "policies/layer_networks.h"
#include "policies/learned_parameters.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

enum class GateKind { rg, rg2, rg3, rg10 };

bool reads_keys_and_values(GateKind kind) { return kind == GateKind::rg2 || kind == GateKind::rg3; }

struct GateVariant {
  GateKind kind;
  Activation activation;
};

/// log sigmoid(x), to the last digit on both sides: at x = 18 sigmoid(x) is 1 in single precision.
double log_sigmoid(double x) { return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x)); }

/// The retention gate of one layer: log beta per KV head of every token.
class RetentionGate {
 public:
  RetentionGate(const LayerTensorsSource& source, const models::Geometry& shape, const GateVariant& variant)
      : activation_(variant.activation), layers_(read(source, shape, variant)) {
    const traces::Tensor bias = source.read("bias", {shape.num_kv_heads}, "[H_kv]");
    bias_ = models::view(bias.data.data(), 1, shape.num_kv_heads).cast<double>();
  }

  /// [n, inputs] -> log beta [n, H_kv].
  [[nodiscard]] models::MatrixDouble operator()(const models::MatrixDouble& inputs) const {
    models::MatrixDouble out = std::visit([&](const auto& layers) { return this->apply(layers, inputs); }, layers_);
    out.rowwise() += bias_;
    return out.unaryExpr(&log_sigmoid);
  }

 private:
  struct Gated {
    Linear gate, up, down;
  };
  struct Deep {
    Linear first, second, last;
  };
  using Layers = std::variant<TwoLayers, Gated, Deep>;

  static Layers read(const LayerTensorsSource& source, const models::Geometry& shape, const GateVariant& variant) {
    using Bias = Linear::Bias;
    const Index heads = shape.num_kv_heads;
    const Index inputs = reads_keys_and_values(variant.kind) ? heads * 2 * shape.head_dim : shape.hidden_size;
    switch (variant.kind) {
      case GateKind::rg:
      case GateKind::rg2:
        break;
      case GateKind::rg3: {
        const Linear gate(source, "gate_proj", inputs, -1, Bias::none);
        return Gated{gate, Linear(source, "up_proj", inputs, gate.outputs(), Bias::none),
                     Linear(source, "down_proj", gate.outputs(), heads, Bias::none)};
      }
      case GateKind::rg10: {
        const Linear first(source, "linear1", inputs, -1, Bias::required);
        const Linear second(source, "linear2", first.outputs(), -1, Bias::required);
        return Deep{first, second, Linear(source, "linear3", second.outputs(), heads, Bias::none)};
      }
    }
    const Linear first(source, "linear1", inputs, -1, Bias::required);
    return TwoLayers{first, variant.activation, Linear(source, "linear2", first.outputs(), heads, Bias::none)};
  }

  [[nodiscard]] models::MatrixDouble activated(models::MatrixDouble values) const {
    activate(activation_, values);
    return values;
  }
  [[nodiscard]] static models::MatrixDouble apply(const TwoLayers& layers, const models::MatrixDouble& inputs) {
    return layers(inputs);
  }
  [[nodiscard]] models::MatrixDouble apply(const Gated& layers, const models::MatrixDouble& inputs) const {
    return layers.down(activated(layers.gate(inputs)).cwiseProduct(layers.up(inputs)));
  }
  [[nodiscard]] models::MatrixDouble apply(const Deep& layers, const models::MatrixDouble& inputs) const {
    return layers.last(activated(layers.second(activated(layers.first(inputs)))));
  }

  Activation activation_;
  Layers layers_;
  Eigen::RowVectorXd bias_;
};

/// log(1 - exp(x)) for x < 0.
double log1mexp(double x) { return x < -std::numbers::ln2 ? std::log1p(-std::exp(x)) : std::log(-std::expm1(x)); }

/// Ranks tokens by what is left of their retention, beta to the power of their age, or by its sum over the steps to
/// come.
class Retention : public Scorer {
 public:
  explicit Retention(const Parameters& parameters)
      : gate_name_(parameters.choice("gate")),
        weights_(open_weights(parameters)),
        lookahead_(static_cast<double>(parameters.integer("lookahead"))),
        // The authors' code has one step more for the sum than for the single step.
        age_of_newest_(static_cast<double>(parameters.optional_integer("age_offset").value_or(lookahead_ > 1 ? 3 : 2))),
        with_key_norm_(parameters.boolean("knorm_alpha")),
        window_(parameters.integer("window")) {
    if (gate_name_ == "rg") kind_ = GateKind::rg;
    if (gate_name_ == "rg2") kind_ = GateKind::rg2;
    if (gate_name_ == "rg3") kind_ = GateKind::rg3;
    if (weights_) activation_ = activation_of(*weights_, Activation::silu);
  }

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    if (!gate_) {
      gate_ = shared_network<RetentionGate>(*weights_, cache, gate_name_, GateVariant{kind_, activation_});
    }
    log_beta_.update(cache, [&](RowRange rows) {
      return (*gate_)(reads_keys_and_values(kind_) ? keys_and_values(cache, rows) : inputs_of(cache, rows));
    });
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const models::MatrixView keys = cache.keys(head);
      for (std::size_t place = 0; place < entries.size(); ++place) {
        double score = utility(log_beta_(entries[place], head), static_cast<double>(cache.seen() - 1 - entries[place]));
        if (with_key_norm_) {
          const double norm = keys.row(static_cast<Index>(place)).cast<double>().norm();
          score += std::log(std::max(norm, smallest_norm));
        }
        scores.of(head)[place] = static_cast<float>(std::max(score, lowest_score));
      }
      scores.protect(head, count_before(entries, cache.seen() - window_), std::ssize(entries));
    }
  }

  [[nodiscard]] Needs needs() const override {
    Needs needs = weights_ ? Needs{} : missing_weights("trimkv", "the retention gates of the model");
    needs.layer_input = !reads_keys_and_values(kind_);
    return needs;
  }

 private:
  static constexpr double smallest_norm = 1e-12;  // as the authors' code
  static constexpr double lowest_score = std::numeric_limits<float>::lowest();

  /// log of the sum of beta^s over `lookahead` steps s from the token's age on.
  [[nodiscard]] double utility(double log_beta, double age) const {
    const double first = (age + age_of_newest_) * log_beta;
    if (lookahead_ <= 1) return first;
    if (log_beta == 0) return std::log(lookahead_);  // beta is 1 as far as double can tell
    return first + log1mexp(lookahead_ * log_beta) - log1mexp(log_beta);
  }

  std::string gate_name_;
  std::shared_ptr<const traces::Weights> weights_;
  double lookahead_;
  double age_of_newest_;
  bool with_key_norm_;
  Index window_;
  GateKind kind_ = GateKind::rg10;
  Activation activation_ = Activation::silu;
  std::shared_ptr<const RetentionGate> gate_;
  PerRow log_beta_;
};

std::vector<ParameterSpec> all_parameters() {
  std::vector<ParameterSpec> all = retention_parameters("rg");
  all.push_back(integer_parameter("window", "0", 0, 1e9, "newest tokens that stay"));
  return all;
}

const Registration registration({.name = "retention",
                                 .sentence = "Scores a token by its learned retention, which decays with its age.",
                                 .citation = "TRIM-KV, arXiv 2512.03324; DBTrimKV, arXiv 2605.09649; ngocbh/trimkv",
                                 .parameters = all_parameters(),
                                 .make = MakeScorer([](const Parameters& parameters) {
                                   return std::make_unique<Retention>(parameters);
                                 })});

}  // namespace
}  // namespace evictsim::policies
