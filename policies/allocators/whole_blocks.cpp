#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// The last entries of one head's cache, in blocks: what it costs to free the next one.
struct Step {
  bool spares_protected;  ///< false: only by cutting protected entries
  float metric;           ///< score of the best entry that goes
  std::size_t layer;
  int head;
  Index step;   ///< 0, 1, ... within the head
  Index freed;  ///< entries
};

bool goes_first(const Step& a, const Step& b) {
  if (a.spares_protected != b.spares_protected) return a.spares_protected;
  // Among blocks that hold protected entries, the heads lose theirs in turn.
  if (!a.spares_protected) return std::tie(a.step, a.layer, a.head) < std::tie(b.step, b.layer, b.head);
  if (a.metric != b.metric) return a.metric < b.metric;
  return std::tie(a.layer, a.head, a.step) < std::tie(b.layer, b.head, b.step);
}

class WholeBlocks : public Allocator {
 public:
  explicit WholeBlocks(const Parameters& parameters) : block_(parameters.integer("block")) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    std::vector<std::vector<Index>> all = {{counts.begin(), counts.end()}};
    allocate_model({&request, 1}, all);
    std::copy(all.front().begin(), all.front().end(), counts.begin());
  }

  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const override {
    std::vector<Step> steps;
    Index surplus = 0;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const LayerScores& scores = *layers[layer].scores;
      for (int head = 0; head < scores.heads(); ++head) {
        const Index cached = std::ssize(scores.of(head));
        counts[layer][static_cast<std::size_t>(head)] = cached;
        surplus += cached - layers[layer].budget.entries;
        add_steps(scores, head, layer, std::min<Index>(block_, layers[layer].budget.entries), steps);
      }
    }
    std::sort(steps.begin(), steps.end(), goes_first);
    for (const Step& step : steps) {
      if (surplus <= 0) return;
      counts[step.layer][static_cast<std::size_t>(step.head)] -= step.freed;
      surplus -= step.freed;
    }
  }

  [[nodiscard]] AllocationScope scope() const override { return AllocationScope::model_each_cut; }

 private:
  /// The head's weakest entries: first as many as its last, partly filled block holds, then a block at a time, down to
  /// `least`.
  void add_steps(const LayerScores& scores, int head, std::size_t layer, Index least, std::vector<Step>& steps) const {
    const std::vector<std::int32_t> ranking = rank_entries(scores, head);
    Index left = std::ssize(ranking);
    for (Index step = 0; left > least; ++step) {
      const Index freed = std::min(left % block_ == 0 ? block_ : left % block_, left - least);
      left -= freed;
      const std::int32_t best = ranking[static_cast<std::size_t>(left)];
      steps.push_back({.spares_protected = !scores.is_protected(head, best),
                       .metric = scores.of(head)[static_cast<std::size_t>(best)],
                       .layer = layer,
                       .head = head,
                       .step = step,
                       .freed = freed});
    }
  }

  Index block_;
};

const Registration registration(
    {.name = "whole_blocks",
     .sentence = "Lets all heads of all layers compete, freeing whole blocks of each head's cache.",
     .citation = "KV-Compress, arXiv 2410.00161; IsaacRe/vllm-kvcompress",
     .parameters = {integer_parameter("block", "16", 1, 65536, "entries per block of a head's cache")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<WholeBlocks>(parameters); }),
     .default_policy = "snapkv()"});

}  // namespace
}  // namespace evictsim::policies
