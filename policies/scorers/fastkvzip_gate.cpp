#include <cmath>

#include "policies/layer_networks.h"
#include "policies/learned_parameters.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

constexpr double norm_epsilon = 1e-6;

/// The gate of one layer: normed low-dimensional queries and keys of the attention's input, compared with learned
/// sinks.
class Gate {
 public:
  struct Variant {};

  Gate(const LayerTensorsSource& source, const models::Geometry& shape, const Variant&)
      : heads_(shape.num_kv_heads),
        group_(shape.group_size()),
        key_(source, "k_proj", shape.hidden_size, -1, Linear::Bias::none),
        width_(key_.outputs() / heads_),
        query_(source, "q_proj", shape.hidden_size, heads_ * group_ * width_, Linear::Bias::required),
        query_norm_(row(source.read("q_norm.weight", {width_}, "[width]"))),
        key_norm_(row(source.read("k_norm.weight", {width_}, "[width]"))),
        base_(source.read("k_base", {heads_, 1, -1, width_}, "[H_kv, 1, sinks, width]")),
        bias_(source.read("b", {heads_, 1, group_}, "[H_kv, 1, G]")) {}

  /// z [n, hidden_size] -> mean over the group of 1 / (1 + sum over sinks of exp(base - logit)): [n, H_kv].
  [[nodiscard]] models::MatrixDouble operator()(const models::MatrixDouble& inputs) const {
    const models::MatrixDouble queries = query_(inputs);
    const models::MatrixDouble keys = key_(inputs);
    const double scale = 1 / std::sqrt(static_cast<double>(width_));
    const auto sinks = static_cast<Index>(base_.shape[2]);
    models::MatrixDouble scores(inputs.rows(), heads_);
    for (Index head = 0; head < heads_; ++head) {
      const models::MatrixDouble base =
          models::view(base_.data.data() + head * sinks * width_, sinks, width_).cast<double>();
      for (Index r = 0; r < inputs.rows(); ++r) {
        const Eigen::RowVectorXd key = normed(keys.row(r).segment(head * width_, width_), key_norm_);
        double sum = 0;
        for (Index member = 0; member < group_; ++member) {
          const Index place = head * group_ + member;
          const Eigen::RowVectorXd query = normed(queries.row(r).segment(place * width_, width_), query_norm_);
          const double logit = key.dot(query) * scale + bias_.data[static_cast<std::size_t>(place)];
          double sinks_share = 0;
          for (Index sink = 0; sink < sinks; ++sink) sinks_share += std::exp(base.row(sink).dot(query) * scale - logit);
          sum += 1 / (1 + sinks_share);
        }
        scores(r, head) = sum / static_cast<double>(group_);
      }
    }
    return scores;
  }

 private:
  static Eigen::RowVectorXd row(const traces::Tensor& tensor) {
    return models::view(tensor.data.data(), 1, std::ssize(tensor.data)).cast<double>();
  }
  static Eigen::RowVectorXd normed(const Eigen::RowVectorXd& values, const Eigen::RowVectorXd& weight) {
    const double mean_square = values.squaredNorm() / static_cast<double>(values.size());
    return values.cwiseProduct(weight) / std::sqrt(mean_square + norm_epsilon);
  }

  Index heads_;
  Index group_;
  Linear key_;
  Index width_;
  Linear query_;
  Eigen::RowVectorXd query_norm_, key_norm_;
  traces::Tensor base_;
  traces::Tensor bias_;
};

class FastKvZipGate : public Scorer {
 public:
  explicit FastKvZipGate(const Parameters& parameters)
      : weights_(open_weights(parameters)),
        sinks_(parameters.integer("sinks")),
        long_window_(parameters.integer("window")),
        window_ratio_(parameters.real("window_ratio")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    if (!gate_) gate_ = shared_network<Gate>(*weights_, cache, "fastkvzip", Gate::Variant{});
    predicted_.update(cache, [&](RowRange rows) { return (*gate_)(inputs_of(cache, rows)); });
    predicted_.write(cache, scores);
    const Index window = window_of(cache.seen());
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const Index first_of_window = count_before(entries, cache.seen() - window);
      const Index first_behind_sinks = count_before(entries, sinks_);
      for (Index place = 0; place < std::ssize(entries); ++place) {
        if (place < first_behind_sinks || place >= first_of_window) scores.raise(head, place, highest_score);
      }
    }
  }

  [[nodiscard]] Needs needs() const override {
    Needs needs = weights_ ? Needs{} : missing_weights("fastkvzip", "the gates of the model");
    needs.layer_input = true;
    return needs;
  }

 private:
  static constexpr float highest_score = 1.0F;
  static constexpr Index long_context = 32000;

  [[nodiscard]] Index window_of(Index seen) const {
    return seen < long_context ? static_cast<Index>(static_cast<double>(seen) * window_ratio_) : long_window_;
  }

  std::shared_ptr<const traces::Weights> weights_;
  Index sinks_;
  Index long_window_;
  double window_ratio_;
  std::shared_ptr<const Gate> gate_;
  PerRow predicted_;
};

const Registration registration(
    {.name = "fastkvzip_gate",
     .sentence = "Scores an entry by a gate on the attention's input; first and last tokens score 1.",
     .citation = "Fast KVzip, arXiv 2601.17668; kvpress 0.5.5 FastKVzipPress",
     .parameters = fastkvzip_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<FastKvZipGate>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
