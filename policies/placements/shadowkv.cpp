#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

#include "policies/registry.h"
#include "policies/retrieval.h"

namespace evictsim::policies {
namespace {

/// Keys before RoPE lie in HBM as a product of two thin matrices, values on the host. Chunks are chosen by the mean of
/// their keys; chunks whose keys lie far from their mean, and the newest, stay in HBM as they are.
class ShadowKv : public Placement {
 public:
  explicit ShadowKv(const Parameters& parameters)
      : chunk_(parameters.integer("chunk")),
        rank_(parameters.integer("rank")),
        outliers_(parameters.integer("outliers")),
        local_(parameters.integer("local")) {}

  void begin(const PlacementView& layer) override {
    const models::Geometry& geometry = layer.hot().geometry();
    fit(layer.budget().entries);
    rank_ = std::min(rank_, key_width(geometry));
    find_axes(layer);
    const auto heads = static_cast<std::size_t>(geometry.num_kv_heads);
    keys_.resize(heads);
    landmarks_.resize(heads);
    is_outlier_.resize(heads);
    previous_.resize(static_cast<std::size_t>(layer.hot().heads()));
    for (int head = 0; head < geometry.num_kv_heads; ++head) find_outliers(layer, head);
    move_out(layer);
  }

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    const Index before = moved_;
    move_out(layer);
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const auto kv_head = static_cast<std::size_t>(kv_head_of(layer, head));
      const std::vector<Index> chosen = choose(layer, head);
      std::vector<Index>& previous = previous_[static_cast<std::size_t>(head)];
      std::vector<std::int32_t> rows;
      Index recalled = 0;
      for (const std::int32_t row : layer.hot().entries(head)) {
        const Index chunk = row / chunk_;
        const bool stays = row >= moved_ || is_outlier_[kv_head][static_cast<std::size_t>(chunk)] != 0;
        if (!stays && !std::binary_search(chosen.begin(), chosen.end(), chunk)) continue;
        rows.push_back(row);
        recalled += !stays && !std::binary_search(previous.begin(), previous.end(), chunk);
      }
      previous = chosen;
      attend_rows(layer, head, rows, attended);
      attended.traffic.recalled[Tier::host] += value_bytes(layer, recalled);
      attended.traffic.written[Tier::host] += value_bytes(layer, moved_ - before);
      attended.traffic.scanned[Tier::hbm] += landmark_bytes(layer, kv_head);
      count_hits_and_misses(layer, head, recalled, attended);
    }
  }

  [[nodiscard]] models::MatrixView attended_keys(const PlacementView& layer, int head) const override {
    return keys_[static_cast<std::size_t>(kv_head_of(layer, head))].view();
  }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    const models::Geometry& geometry = layer.hot().geometry();
    TierBytes bytes;
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const auto kv_head = static_cast<std::size_t>(kv_head_of(layer, head));
      Index on_host = 0;
      for (const std::int32_t row : layer.hot().entries(head)) {
        on_host += row < moved_ && is_outlier_[kv_head][static_cast<std::size_t>(row / chunk_)] == 0;
      }
      bytes[Tier::hbm] += exact_bytes(layer, std::ssize(layer.hot().entries(head)) - on_host);
      bytes[Tier::host] += value_bytes(layer, on_host);
      bytes[Tier::hbm] += landmark_bytes(layer, kv_head);
    }
    bytes[Tier::hbm] += static_cast<double>((moved_ + key_width(geometry)) * rank_ * layer.component_bytes());
    return bytes;
  }

 private:
  /// Where the budget holds less than everything asked for: chunks small enough that eight fit, a quarter of them for
  /// the newest, a quarter for outliers, the rest by choice. One more is set aside for the chunk being filled.
  void fit(Index budget) {
    chunk_ = std::min(chunk_, std::max<Index>(1, budget / 8));
    const Index chunks = budget / chunk_;
    local_ = std::max<Index>(1, std::min(local_, chunks / 4));
    outliers_ = std::min(outliers_, chunks / 4);
    topk_ = std::max<Index>(0, chunks - local_ - outliers_ - (chunk_ > 1 ? 1 : 0));
  }

  [[nodiscard]] static double value_bytes(const PlacementView& layer, Index entries) {
    return exact_bytes(layer, entries) / 2;
  }
  [[nodiscard]] double landmark_bytes(const PlacementView& layer, std::size_t kv_head) const {
    const auto marks = is_outlier_[kv_head].begin();
    const Index chunks = std::count(marks, marks + std::ssize(landmarks_[kv_head]), 0);
    return static_cast<double>(chunks * layer.hot().geometry().head_dim * layer.component_bytes());
  }

  /// Components of the keys of all KV heads of a row.
  static Index key_width(const models::Geometry& geometry) { return Index{geometry.num_kv_heads} * geometry.head_dim; }

  /// The keys of all KV heads of a row before RoPE, one after the other.
  static Eigen::VectorXd key_before_rope(const PlacementView& layer, Index row) {
    const models::Geometry& geometry = layer.hot().geometry();
    Eigen::VectorXd all(key_width(geometry));
    for (int head = 0; head < geometry.num_kv_heads; ++head) {
      auto key = all.segment(Index{geometry.head_dim} * head, geometry.head_dim);
      key = layer.keys(head).row(row).cast<double>().transpose();
      layer.hot().rope().invert(std::span(key.data(), static_cast<std::size_t>(key.size())),
                                layer.hot().positions()[static_cast<std::size_t>(row)]);
    }
    return all;
  }

  /// The leading right singular vectors of the prompt's keys: U S V^T cut at the rank is X V V^T, which also serves
  /// rows that come later.
  void find_axes(const PlacementView& layer) {
    const Index width = key_width(layer.hot().geometry());
    if (rank_ == width) return;
    Eigen::MatrixXd prompt(layer.hot().prompt_length(), width);
    for (Index row = 0; row < prompt.rows(); ++row) prompt.row(row) = key_before_rope(layer, row).transpose();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(prompt.transpose() * prompt);
    axes_ = solver.eigenvectors().rightCols(rank_);
  }

  /// Chunks of the prompt outside the local ones in which some key has the lowest cosine to the chunk's mean.
  void find_outliers(const PlacementView& layer, int kv_head) {
    const Index chunks = local_begin(layer.hot().prompt_length()) / chunk_;
    std::vector<double> distance;
    for (Index chunk = 0; chunk < chunks; ++chunk) {
      const Eigen::VectorXd mean = mean_key(layer, kv_head, chunk);
      double lowest = 1;
      for (Index row = chunk * chunk_; row < (chunk + 1) * chunk_; ++row) {
        const Eigen::VectorXd key = layer.keys(kv_head).row(row).cast<double>().transpose();
        const double norms = key.norm() * mean.norm();
        lowest = std::min(lowest, norms > 0 ? key.dot(mean) / norms : 0.0);
      }
      distance.push_back(-lowest);
    }
    auto& marks = is_outlier_[static_cast<std::size_t>(kv_head)];
    marks.assign(distance.size(), 0);
    for (const Index chunk : best_places(distance, outliers_)) marks[static_cast<std::size_t>(chunk)] = 1;
  }

  [[nodiscard]] Eigen::VectorXd mean_key(const PlacementView& layer, int kv_head, Index chunk) const {
    return layer.keys(kv_head).middleRows(chunk * chunk_, chunk_).cast<double>().colwise().mean().transpose();
  }

  [[nodiscard]] Index local_begin(Index seen) const { return std::max<Index>(0, seen / chunk_ - local_) * chunk_; }

  /// Takes in new rows and moves chunks that are no longer local out of HBM.
  void move_out(const PlacementView& layer) {
    const models::Geometry& geometry = layer.hot().geometry();
    for (int head = 0; head < geometry.num_kv_heads; ++head) {
      keys_[static_cast<std::size_t>(head)].follow(layer.keys(head));
    }
    for (const Index end = local_begin(layer.hot().seen()); moved_ < end; moved_ += chunk_) {
      for (int head = 0; head < geometry.num_kv_heads; ++head) {
        const auto place = static_cast<std::size_t>(head);
        landmarks_[place].push_back(mean_key(layer, head, moved_ / chunk_));
        is_outlier_[place].resize(std::max(is_outlier_[place].size(), landmarks_[place].size()), 0);
      }
      for (Index row = moved_; row < moved_ + chunk_ && axes_.size() > 0; ++row) project(layer, row);
    }
  }

  void project(const PlacementView& layer, Index row) {
    const models::Geometry& geometry = layer.hot().geometry();
    const Eigen::VectorXd near = axes_ * (axes_.transpose() * key_before_rope(layer, row));
    for (int head = 0; head < geometry.num_kv_heads; ++head) {
      const auto place = static_cast<std::size_t>(head);
      if (is_outlier_[place][static_cast<std::size_t>(row / chunk_)] != 0) continue;
      const double* const first = near.data() + Index{geometry.head_dim} * head;
      std::vector<double> key(first, first + geometry.head_dim);
      layer.hot().rope().apply(std::span(key), layer.hot().positions()[static_cast<std::size_t>(row)]);
      std::transform(key.begin(), key.end(), keys_[place].row(row).begin(),
                     [](double component) { return static_cast<float>(component); });
    }
  }

  /// Chunks with the largest softmax(q . landmark) of any query head of the group.
  [[nodiscard]] std::vector<Index> choose(const PlacementView& layer, int head) const {
    const auto kv_head = static_cast<std::size_t>(kv_head_of(layer, head));
    std::vector<Index> candidates;
    for (std::size_t chunk = 0; chunk < landmarks_[kv_head].size(); ++chunk) {
      if (is_outlier_[kv_head][chunk] == 0) candidates.push_back(static_cast<Index>(chunk));
    }
    if (candidates.empty()) return {};
    const QueryHeads queries = layer.hot().query_heads(head);
    std::vector<std::vector<double>> shares;
    for (int i = 0; i < queries.count; ++i) {
      const auto query = layer.query(queries.first + i);
      const Eigen::VectorXd vector = Eigen::Map<const Eigen::VectorXf>(query.data(), std::ssize(query)).cast<double>();
      Eigen::VectorXd logits(std::ssize(candidates));
      for (std::size_t c = 0; c < candidates.size(); ++c) {
        logits[static_cast<Index>(c)] = layer.hot().geometry().attention_scale *
                                        vector.dot(landmarks_[kv_head][static_cast<std::size_t>(candidates[c])]);
      }
      const Eigen::VectorXd weights = (logits.array() - logits.maxCoeff()).exp();
      const double sum = weights.sum();
      std::vector<double> share;
      for (const double weight : weights) share.push_back(weight / sum);
      shares.push_back(std::move(share));
    }
    std::vector<Index> chosen = best_places(agree(GroupChoice::max, shares), topk_);
    for (Index& place : chosen) place = candidates[static_cast<std::size_t>(place)];
    return chosen;
  }

  Index chunk_;
  Index rank_;
  Index outliers_;
  Index local_;
  Index topk_ = 0;
  Index moved_ = 0;  ///< rows before the local chunks
  Eigen::MatrixXd axes_;
  std::vector<ChangedRows> keys_;                        ///< by KV head, as attended
  std::vector<std::vector<Eigen::VectorXd>> landmarks_;  ///< [KV head][chunk]
  std::vector<std::vector<std::uint8_t>> is_outlier_;    ///< [KV head][chunk]
  std::vector<std::vector<Index>> previous_;             ///< [cache head] chunks whose values lie in the buffer
};

const Registration registration(
    {.name = "shadowkv",
     .sentence = "Keeps low-rank keys in HBM and values on the host; fetches the values of chunks chosen by landmarks.",
     .citation = "ShadowKV, arXiv 2410.21465; bytedance/ShadowKV",
     .parameters = {integer_parameter("chunk", "8", 1, 65536, "entries of a chunk"),
                    integer_parameter("rank", "160", 1, 1e6, "of the layer's keys before RoPE, all KV heads together"),
                    integer_parameter("outliers", "48", 0, 1e9, "chunks of the prompt that stay as they are"),
                    integer_parameter("local", "4", 1, 1e9, "newest chunks, always attended")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<ShadowKv>(parameters); }),
     .is_policy = true,
     .default_policy = "full()"});

}  // namespace
}  // namespace evictsim::policies
