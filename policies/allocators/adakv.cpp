#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// An entry that competes with those of other heads.
struct Competitor {
  bool is_protected;
  float score;
  int head;
  Index rank;  ///< place in its head's ranking
};

bool wins(const Competitor& a, const Competitor& b) {
  if (a.is_protected != b.is_protected) return a.is_protected;
  if (a.score != b.score) return a.score > b.score;
  return std::pair(a.head, a.rank) < std::pair(b.head, b.rank);
}

/// Adds to `counts[head]` how many of the best `seats` competitors belong to each head.
void seat(std::vector<Competitor>& competitors, Index seats, std::span<Index> counts) {
  seats = std::clamp<Index>(seats, 0, std::ssize(competitors));
  if (seats < std::ssize(competitors)) {
    std::nth_element(competitors.begin(), competitors.begin() + seats, competitors.end(), wins);
  }
  for (Index i = 0; i < seats; ++i) {
    ++counts[static_cast<std::size_t>(competitors[static_cast<std::size_t>(i)].head)];
  }
}

class AdaKv : public Allocator {
 public:
  AdaKv(const Parameters& parameters, std::shared_ptr<const Allocator> inner)
      : original_(parameters.choice("variant") == "original"),
        alpha_(parameters.real("alpha")),
        normalize_(parameters.boolean("normalize")),
        inner_(std::move(inner)) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    AllocationRequest shared = request;
    shared.heads_share = true;
    inner_->allocate(shared, counts);
    if (original_) {
      share_as_original(*request.scores, counts);
    } else {
      share_as_library(*request.scores, counts);
    }
  }

 private:
  /// kvpress: every head's best int(count * alpha) are safe, then the layer's best win the other seats.
  void share_as_library(const LayerScores& scores, std::span<Index> counts) const {
    const Index seats = std::accumulate(counts.begin(), counts.end(), Index{0});
    std::vector<Competitor> competitors;
    Index taken = 0;
    for (int head = 0; head < scores.heads(); ++head) {
      const std::vector<std::int32_t> ranking = rank_entries(scores, head);
      Index& count = counts[static_cast<std::size_t>(head)];
      auto safe = static_cast<Index>(static_cast<double>(count) * alpha_);
      if (alpha_ > 0) safe = std::max<Index>(safe, 1);
      count = std::min<Index>(safe, std::ssize(ranking));
      taken += count;
      for (Index rank = count; rank < std::ssize(ranking); ++rank) {
        competitors.push_back(competitor(scores, head, ranking, rank, 1.0F));
      }
    }
    seat(competitors, seats - taken, counts);
  }

  /// The authors' code: only the prefix competes, what is protected stays beside it; the result is mixed with the
  /// uniform count, and seats beyond a head's prefix are lost.
  void share_as_original(const LayerScores& scores, std::span<Index> counts) const {
    std::vector<Index> base(counts.begin(), counts.end());
    std::vector<Index> won(counts.size(), 0);
    std::vector<Competitor> competitors;
    Index seats = 0;
    bool all_fit = true;
    for (int head = 0; head < scores.heads(); ++head) {
      Index& own = base[static_cast<std::size_t>(head)];
      own -= scores.protected_count(head);
      if (own <= 0) return;  // the window alone fills the budget: nothing to share
      seats += own;
      const Index prefix = std::ssize(scores.of(head)) - scores.protected_count(head);
      all_fit = all_fit && own > prefix;
      const std::vector<std::int32_t> ranking = rank_entries(scores, head);
      const float weight = normalize_ ? top_share(scores, head, ranking, own) : 1.0F;
      for (Index rank = scores.protected_count(head); rank < std::ssize(ranking); ++rank) {
        competitors.push_back(competitor(scores, head, ranking, rank, weight));
      }
    }
    if (all_fit) return;
    seat(competitors, seats, won);
    for (int head = 0; head < scores.heads(); ++head) {
      const auto place = static_cast<std::size_t>(head);
      const Index prefix = std::ssize(scores.of(head)) - scores.protected_count(head);
      const auto floor = static_cast<Index>(static_cast<double>(base[place]) * alpha_);
      // Single precision and half to even, as torch.round there.
      const float mixed = static_cast<float>(won[place]) * static_cast<float>(1.0 - alpha_) + static_cast<float>(floor);
      counts[place] = std::min(static_cast<Index>(std::nearbyint(mixed)), prefix) + scores.protected_count(head);
    }
  }

  static Competitor competitor(const LayerScores& scores, int head, const std::vector<std::int32_t>& ranking,
                               Index rank, float weight) {
    const std::int32_t place = ranking[static_cast<std::size_t>(rank)];
    return {scores.is_protected(head, place), scores.of(head)[static_cast<std::size_t>(place)] * weight, head, rank};
  }

  /// Share of a head's score that its best `count` unprotected entries hold.
  static float top_share(const LayerScores& scores, int head, const std::vector<std::int32_t>& ranking, Index count) {
    double top = 0;
    double total = 0;
    const Index first = scores.protected_count(head);
    for (Index rank = first; rank < std::ssize(ranking); ++rank) {
      const double score = scores.of(head)[static_cast<std::size_t>(ranking[static_cast<std::size_t>(rank)])];
      if (rank < first + count) top += score;
      total += score;
    }
    return total != 0 ? static_cast<float>(top / total) : 1.0F;
  }

  bool original_;
  double alpha_;
  bool normalize_;
  std::shared_ptr<const Allocator> inner_;
};

const Registration registration(
    {.name = "adakv",
     .sentence = "Lets the heads of a layer compete for its budget, with a share safe for each head.",
     .citation = "Ada-KV, arXiv 2407.11550; kvpress 0.5.5 AdaKVPress (library), FFY0/AdaKV (original)",
     .parameters = {choice_parameter("variant", {"library", "original"},
                                     "library: each head's best alpha of the count are safe, the rest is one pool; "
                                     "original: pooled counts times 1 - alpha, plus alpha of the count, rounded"),
                    real_parameter("alpha", "0.2", 0, 1, "share of the count that is safe for each head"),
                    boolean_parameter("normalize", "false",
                                      "original only: weigh a head by the share of its score that its best hold")},
     .make = MakeOuterAllocator([](const Parameters& parameters, std::shared_ptr<const Allocator> inner) {
       return std::make_unique<AdaKv>(parameters, std::move(inner));
     }),
     .is_policy = true,
     .default_policy = "snapkv()"});

}  // namespace
}  // namespace evictsim::policies
