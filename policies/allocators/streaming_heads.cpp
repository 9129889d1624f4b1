#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "policies/registry.h"
#include "policies/rotation.h"
#include "policies/scoring.h"
#include "policies/shared_parameters.h"
#include "traces/error.h"
#include "traces/weights.h"

namespace evictsim::policies {
namespace {

/// More than any head has: it keeps what it holds, also of what is decoded.
constexpr Index everything = std::numeric_limits<Index>::max();

/// Positions at which kvpress repeats the mean query and key of a text.
constexpr Index repeated_positions = 500;

enum class Pattern { error, repeated, given };

Pattern pattern_of(const Parameters& parameters) {
  const std::string& name = parameters.choice("pattern");
  if (name == "error") return Pattern::error;
  return name == "repeated" ? Pattern::repeated : Pattern::given;
}

/// Some heads keep everything, the others ("streaming") first and newest entries only. Which, is decided over all
/// layers, by how much a head needs what lies between: given, or measured on the prompt.
class StreamingHeads : public Allocator {
 public:
  explicit StreamingHeads(const Parameters& parameters)
      : sparsity_(parameters.real("sparsity")),
        sinks_(parameters.integer("sinks")),
        recent_(parameters.integer("recent")),
        queries_(parameters.integer("queries")),
        pattern_(pattern_of(parameters)) {
    if (pattern_ == Pattern::given && !parameters.words("alphas").empty()) {
      alphas_ = traces::Weights::open(parameters.words("alphas"));
    }
  }

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    std::vector<std::vector<Index>> all = {{counts.begin(), counts.end()}};
    allocate_model({&request, 1}, all);
    std::copy(all.front().begin(), all.front().end(), counts.begin());
  }

  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const override {
    struct Head {
      double need;
      std::size_t layer, head;
    };
    std::vector<Head> heads;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      for (std::size_t head = 0; head < counts[layer].size(); ++head) {
        heads.push_back({layers[layer].measured[head], layer, head});
        counts[layer][head] = everything;
      }
    }
    std::stable_sort(heads.begin(), heads.end(), [](const Head& a, const Head& b) { return a.need < b.need; });
    const auto streaming = static_cast<std::size_t>(std::nearbyint(static_cast<double>(heads.size()) * sparsity_));
    for (std::size_t i = 0; i < streaming; ++i) {
      counts[heads[i].layer][heads[i].head] = sinks_ + recent_;
    }
  }

  [[nodiscard]] AllocationScope scope() const override { return AllocationScope::model_once; }
  [[nodiscard]] bool ignores_budget() const override { return true; }

  [[nodiscard]] std::vector<double> measure(const CacheView& prompt) const override {
    std::vector<double> needs;
    if (pattern_ == Pattern::given) {
      const auto heads = static_cast<std::size_t>(prompt.heads());
      const traces::Tensor alphas = alphas_->read(prompt.layer(), "alphas", {heads}, "[H_kv]");
      needs.assign(alphas.data.begin(), alphas.data.end());
      return needs;
    }
    for (int head = 0; head < prompt.heads(); ++head) {
      needs.push_back(pattern_ == Pattern::error ? streaming_error(prompt, head) : repeated_attention(prompt, head));
    }
    return needs;
  }

  [[nodiscard]] Needs needs() const override {
    if (pattern_ == Pattern::error) return {.window_queries = queries_, .output_weights = true};
    if (pattern_ == Pattern::repeated) return {.all_queries = true};
    if (alphas_) return {};
    return {.parameters = {"alphas: an HDF5 file with alphas [H_kv] of every layer"}};
  }

 private:
  /// Mean over the prompt's last queries of |o_streaming - o_full| / |o_full|, both behind W_O.
  [[nodiscard]] double streaming_error(const CacheView& prompt, int head) const {
    const Index window = std::min(queries_, prompt.seen());
    const QueryHeads group = prompt.query_heads(head);
    const auto entries = prompt.entries(head);
    const models::MatrixDouble values = prompt.values(head).cast<double>();
    const Index hidden_size = prompt.geometry().hidden_size;
    models::MatrixDouble full = models::MatrixDouble::Zero(window, hidden_size);
    models::MatrixDouble difference = models::MatrixDouble::Zero(window, hidden_size);
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      const models::MatrixDouble attention = prompt.window_attention(query_head, window).cast<double>();
      models::MatrixDouble streaming = attention;
      for (Index query = 0; query < window; ++query) {
        const Index row = prompt.seen() - window + query;
        const Index first = count_before(entries, sinks_);
        const Index last = std::max(first, count_before(entries, row + 1 - recent_));
        streaming.col(query).segment(first, last - first).setZero();
        const double kept = streaming.col(query).sum();
        if (kept > 0) streaming.col(query) /= kept;
      }
      const models::MatrixDouble projection = prompt.output_weights(query_head).cast<double>().transpose();
      full += attention.transpose() * values * projection;
      difference += (streaming - attention).transpose() * values * projection;
    }
    double total = 0;
    for (Index query = 0; query < window; ++query) {
      const double size = full.row(query).norm();
      if (size > 0) total += difference.row(query).norm() / size;
    }
    return total / static_cast<double>(window);
  }

  /// kvpress' on-the-fly score, of this prompt in place of 50 texts: the prompt's mean query and key before RoPE stand
  /// at 500 positions; the area under the cumulated attention of the last, the group's mean.
  [[nodiscard]] static double repeated_attention(const CacheView& prompt, int head) {
    const models::Geometry& geometry = prompt.geometry();
    const models::MatrixView keys = prompt.keys(head);
    models::MatrixDouble unrotated = keys.cast<double>();
    InverseRotation(prompt, prompt.entries(head)).apply(prompt.rope(), unrotated);
    const models::MatrixDouble mean_key = unrotated.colwise().mean();
    const InverseRotation query_rotation(prompt, prompt.query_rows());
    const QueryHeads group = prompt.query_heads(head);
    double area = 0;
    for (int query_head = group.first; query_head < group.first + group.count; ++query_head) {
      models::MatrixDouble query = unrotated_queries(prompt, query_head, query_rotation).colwise().mean();
      prompt.rope().apply(std::span<double>(query.data(), static_cast<std::size_t>(query.size())),
                          static_cast<double>(repeated_positions - 1));
      std::vector<double> weights;
      for (Index position = 0; position < repeated_positions; ++position) {
        models::MatrixDouble key = mean_key;
        prompt.rope().apply(std::span<double>(key.data(), static_cast<std::size_t>(key.size())),
                            static_cast<double>(position));
        weights.push_back(geometry.attention_scale * query.row(0).dot(key.row(0)));
      }
      softmax(weights);
      for (Index position = 0; position < repeated_positions; ++position) {
        // Position i is in the cumulated sums from i to the last one.
        area += weights[static_cast<std::size_t>(position)] * static_cast<double>(repeated_positions - position) /
                static_cast<double>(repeated_positions);
      }
    }
    return area / group.count;
  }

  double sparsity_;
  Index sinks_;
  Index recent_;
  Index queries_;
  Pattern pattern_;
  std::shared_ptr<const traces::Weights> alphas_;
};

const Registration registration(
    {.name = "streaming_heads",
     .sentence = "Lets some heads keep everything and the others only first and newest entries, at any budget.",
     .citation = "DuoAttention, arXiv 2410.10819; kvpress 0.5.5 DuoAttentionPress (repeated)",
     .parameters = streaming_head_parameters(),
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<StreamingHeads>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
