#include <algorithm>

#include "policies/press.h"
#include "policies/registry.h"
#include "policies/retrieval.h"

namespace evictsim::policies {
namespace {

/// Key channels that queries hardly look at are dropped from the prompt's entries.
class Think : public ChangedKeys {
 public:
  explicit Think(const Parameters& parameters)
      : ratio_(parameters.real("ratio")), window_(parameters.integer("window")) {}

  void begin(const PlacementView& layer) override {
    const models::Geometry& geometry = layer.hot().geometry();
    pruned_ = static_cast<Index>(static_cast<double>(geometry.head_dim) * ratio_);
    for (int head = 0; head < layer.hot().heads(); ++head) {
      ChangedRows& keys = changed_keys(layer, head);
      std::vector<double> scores = channel_scores(layer, head);
      for (double& score : scores) score = -score;
      for (const Index channel : best_places(scores, pruned_)) {
        for (const std::int32_t row : layer.hot().entries(head)) keys.row(row)[static_cast<std::size_t>(channel)] = 0;
      }
    }
  }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    TierBytes bytes = hot_bytes(layer);
    // One bit per channel says which keys hold.
    const Index mask = pruned_ > 0 ? (layer.hot().geometry().head_dim + 7) / 8 : 0;
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const Index dropped = std::ssize(layer.hot().entries(head)) * pruned_;
      bytes[Tier::hbm] += static_cast<double>(mask - dropped * layer.component_bytes());
    }
    return bytes;
  }

  [[nodiscard]] Needs needs() const override { return {.window_queries = window_}; }

 private:
  /// mean over the group of mean over the window of q_c^2, times mean over the entries of k_c^2.
  [[nodiscard]] std::vector<double> channel_scores(const PlacementView& layer, int head) const {
    const QueryHeads queries = layer.hot().query_heads(head);
    Eigen::ArrayXd of_queries = Eigen::ArrayXd::Zero(layer.hot().geometry().head_dim);
    for (int i = queries.first; i < queries.first + queries.count; ++i) {
      const models::MatrixView all = layer.hot().queries(i);
      const Index rows = std::min(window_, all.rows());
      of_queries += all.bottomRows(rows).cast<double>().array().square().colwise().mean().transpose() / queries.count;
    }
    Eigen::ArrayXd of_keys = Eigen::ArrayXd::Zero(of_queries.size());
    const models::MatrixView keys = layer.keys(kv_head_of(layer, head));
    const auto entries = layer.hot().entries(head);
    for (const std::int32_t row : entries) {
      of_keys += keys.row(row).cast<double>().array().square().transpose() / static_cast<double>(entries.size());
    }
    const Eigen::ArrayXd scores = of_queries * of_keys;
    return {scores.begin(), scores.end()};
  }

  double ratio_;
  Index window_;
  Index pruned_ = 0;
};

const Registration registration(
    {.name = "think",
     .sentence = "Drops the key channels of the prompt that the last queries and the keys themselves weigh least.",
     .citation = "ThinK, arXiv 2407.21018; kvpress 0.5.5 ThinKPress",
     .parameters = {real_parameter("ratio", "0.5", 0, 1, "share of the key channels dropped"),
                    integer_parameter("window", "32", 1, 65536, "last prompt tokens whose queries count")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<Think>(parameters); }),
     .is_policy = true,
     .default_policy = "full()"});

const PressRegistration press({.name = "ThinKPress",
                               .part = "think",
                               .arguments = {{"key_channel_compression_ratio", PressValue::number, "0.0", "ratio"},
                                             {"window_size", PressValue::integer, "32", "window"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "think",
                                         .arguments = {"ratio=" + given["key_channel_compression_ratio"],
                                                       "window=" + given["window_size"]},
                                         .scores = false};
                               }});

}  // namespace
}  // namespace evictsim::policies
