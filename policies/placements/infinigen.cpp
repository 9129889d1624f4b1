#include <Eigen/Eigenvalues>
#include <algorithm>
#include <numeric>

#include "policies/registry.h"
#include "policies/retrieval.h"

namespace evictsim::policies {
namespace {

/// Keys and values lie on the host. A few components of skewed queries and keys speculate which entries matter; those
/// are fetched.
class InfiniGen : public Placement {
 public:
  explicit InfiniGen(const Parameters& parameters)
      : partial_(parameters.real("partial")),
        alpha_(parameters.real("alpha")),
        skip_layers_(parameters.integer("skip_layers")),
        calibration_(parameters.integer("calibration")) {}

  void begin(const PlacementView& layer) override {
    if (is_dense(layer)) return;
    const int query_heads = layer.hot().geometry().num_query_heads;
    for (int head = 0; head < query_heads; ++head) axes_.push_back(skewed_axes(layer, head));
    partial_keys_.resize(axes_.size());
    follow(layer);
  }

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    if (is_dense(layer)) return count_hits(layer, attended);
    follow(layer);
    attended.traffic.written[Tier::host] += exact_bytes(layer, layer.hot().heads());
    std::vector<std::vector<double>> logits(axes_.size());
    double critical = 0;
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const QueryHeads queries = layer.hot().query_heads(head);
      const auto entries = layer.hot().entries(head);
      for (int i = queries.first; i < queries.first + queries.count; ++i) {
        auto& row = logits[static_cast<std::size_t>(i)];
        row = speculate(layer, i, entries.first(entries.size() - 1));
        if (row.empty()) continue;
        const double threshold = *std::max_element(row.begin(), row.end()) - alpha_;
        critical +=
            static_cast<double>(std::count_if(row.begin(), row.end(), [&](double logit) { return logit > threshold; }));
      }
    }
    // The same number for every head: the mean, truncated.
    const Index wanted =
        std::min<Index>(static_cast<Index>(critical / static_cast<double>(axes_.size())), layer.budget().entries - 1);
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const QueryHeads queries = layer.hot().query_heads(head);
      const auto entries = layer.hot().entries(head);
      for (int i = queries.first; i < queries.first + queries.count; ++i) {
        auto& rows = attended.rows[static_cast<std::size_t>(i)];
        rows.clear();
        for (const Index place : best_places(logits[static_cast<std::size_t>(i)], wanted)) {
          rows.push_back(entries[static_cast<std::size_t>(place)]);
        }
        rows.push_back(entries.back());
        attended.traffic.scanned[Tier::hbm] += partial_bytes(layer, i, std::ssize(entries) - 1);
      }
      const Index fetched = std::ssize(attended_rows(layer, head, attended)) - 1;
      attended.traffic.recalled[Tier::host] += exact_bytes(layer, fetched);
      count_hits_and_misses(layer, head, fetched, attended);
    }
  }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    const Tier tier = is_dense(layer) ? Tier::hbm : Tier::host;
    TierBytes bytes;
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const Index entries = std::ssize(layer.hot().entries(head));
      bytes[tier] += exact_bytes(layer, entries);
      if (is_dense(layer)) continue;
      const QueryHeads queries = layer.hot().query_heads(head);
      for (int i = queries.first; i < queries.first + queries.count; ++i) {
        bytes[Tier::hbm] += partial_bytes(layer, i, entries);
      }
    }
    return bytes;
  }

  [[nodiscard]] Needs needs() const override { return {.window_queries = calibration_}; }

 private:
  [[nodiscard]] bool is_dense(const PlacementView& layer) const { return layer.hot().layer() < skip_layers_; }

  [[nodiscard]] double partial_bytes(const PlacementView& layer, int query_head, Index entries) const {
    return static_cast<double>(axes_[static_cast<std::size_t>(query_head)].rows() * entries * layer.component_bytes());
  }

  /// Rows: the right singular vectors of the prompt's last queries along which queries and keys are largest in sum.
  [[nodiscard]] Eigen::MatrixXd skewed_axes(const PlacementView& layer, int query_head) const {
    const models::MatrixView recorded = layer.hot().queries(query_head);
    const Eigen::MatrixXd queries = recorded.bottomRows(std::min(calibration_, recorded.rows())).cast<double>();
    const models::MatrixView keys = layer.keys(layer.hot().geometry().kv_head_of(query_head));
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(queries.transpose() * queries);
    const Eigen::MatrixXd& axes = solver.eigenvectors();
    const Eigen::RowVectorXd sizes =
        (queries * axes).cwiseAbs().colwise().sum() + (keys.cast<double>() * axes).cwiseAbs().colwise().sum();
    const Index count = std::max<Index>(1, static_cast<Index>(partial_ * static_cast<double>(axes.cols())));
    const std::vector<Index> best = best_places({sizes.data(), static_cast<std::size_t>(sizes.size())}, count);
    Eigen::MatrixXd rows(std::ssize(best), axes.rows());
    for (std::size_t i = 0; i < best.size(); ++i) rows.row(static_cast<Index>(i)) = axes.col(best[i]).transpose();
    return rows;
  }

  /// Takes in the partial keys of new rows.
  void follow(const PlacementView& layer) {
    for (std::size_t head = 0; head < axes_.size(); ++head) {
      const models::MatrixView keys = layer.keys(layer.hot().geometry().kv_head_of(static_cast<int>(head)));
      auto& partial = partial_keys_[head];
      for (Index row = std::ssize(partial); row < keys.rows(); ++row) {
        partial.emplace_back(axes_[head] * keys.row(row).cast<double>().transpose());
      }
    }
  }

  [[nodiscard]] std::vector<double> speculate(const PlacementView& layer, int query_head,
                                              std::span<const std::int32_t> rows) const {
    const auto head = static_cast<std::size_t>(query_head);
    const auto query = layer.query(query_head);
    const Eigen::VectorXd partial =
        axes_[head] * Eigen::Map<const Eigen::VectorXf>(query.data(), std::ssize(query)).cast<double>();
    std::vector<double> logits;
    logits.reserve(rows.size());
    for (const std::int32_t row : rows) {
      logits.push_back(layer.hot().geometry().attention_scale *
                       partial.dot(partial_keys_[head][static_cast<std::size_t>(row)]));
    }
    return logits;
  }

  double partial_;
  double alpha_;
  std::int64_t skip_layers_;
  Index calibration_;
  std::vector<Eigen::MatrixXd> axes_;                       ///< [query head] [components, d]
  std::vector<std::vector<Eigen::VectorXd>> partial_keys_;  ///< [query head][row]
};

const Registration registration(
    {.name = "infinigen",
     .sentence = "Keeps the cache on the host and fetches the entries that a few components of q and k speculate on.",
     .citation = "InfiniGen, arXiv 2406.19707; snu-comparch/InfiniGen",
     .parameters = {real_parameter("partial", "0.3", 0.001, 1, "share of the components that speculate"),
                    real_parameter("alpha", "4", 0, 1e6, "entries within so much of the largest logit are critical"),
                    integer_parameter("skip_layers", "1", 0, 1e6, "first layers, which attend everything"),
                    integer_parameter("calibration", "512", 1, 1e9, "last prompt queries that the skew comes from")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<InfiniGen>(parameters); }),
     .is_policy = true,
     .default_policy = "full()"});

}  // namespace
}  // namespace evictsim::policies
