#include <algorithm>
#include <cmath>
#include <map>

#include "policies/merge_on_evict.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

double cosine(std::span<const float> a, std::span<const float> b) {
  double product = 0, first = 0, second = 0;
  for (std::size_t c = 0; c < a.size(); ++c) {
    product += static_cast<double>(a[c]) * static_cast<double>(b[c]);
    first += static_cast<double>(a[c]) * static_cast<double>(a[c]);
    second += static_cast<double>(b[c]) * static_cast<double>(b[c]);
  }
  const double norms = std::sqrt(first * second);
  return norms > 0 ? product / norms : 0;
}

double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t c = 0; c < a.size(); ++c) {
    const double difference = static_cast<double>(a[c]) - static_cast<double>(b[c]);
    sum += difference * difference;
  }
  return std::sqrt(sum);
}

/// Evicted entries join the kept entry next to them whose key is alike; keys and values of such a set become one, mixed
/// by a Gaussian kernel around the kept key.
class KvMerge : public MergeOnEvict {
 public:
  explicit KvMerge(const Parameters& parameters) : threshold_(parameters.real("similarity_threshold")) {}

 protected:
  void merge(const PlacementView& layer, int head, std::span<const std::int32_t> evicted, Rows& rows) override {
    const auto kept = layer.hot().entries(head);
    std::map<std::int32_t, std::vector<std::int32_t>> sets;  // by kept row
    for (const std::int32_t row : evicted) {
      const auto next = std::lower_bound(kept.begin(), kept.end(), row);
      std::int32_t target = -1;
      double best = threshold_;
      const auto consider = [&](std::int32_t candidate) {
        const double similarity = cosine(std::as_const(rows.keys).row(candidate), std::as_const(rows.keys).row(row));
        if (similarity < best || (similarity == best && target >= 0)) return;
        best = similarity;
        target = candidate;
      };
      if (next != kept.begin()) consider(*(next - 1));
      if (next != kept.end()) consider(*next);
      if (target >= 0) sets[target].push_back(row);
    }
    for (const auto& [pivot, members] : sets) mix(pivot, members, rows);
  }

 private:
  static void mix(std::int32_t pivot, const std::vector<std::int32_t>& members, Rows& rows) {
    const auto key = std::as_const(rows.keys).row(pivot);
    std::vector<double> distances;
    double sigma = 0;
    for (const std::int32_t row : members) {
      distances.push_back(distance(key, std::as_const(rows.keys).row(row)));
      sigma += distances.back() / (std::sqrt(2.0) * static_cast<double>(members.size()));
    }
    double sum = 1;  // the pivot's own weight
    std::vector<double> weights;
    for (const double away : distances) {
      weights.push_back(sigma > 0 ? std::exp(-away * away / (2 * sigma * sigma)) : 1.0);
      sum += weights.back();
    }
    for (ChangedRows* changed : {&rows.keys, &rows.values}) {
      const std::span<float> target = changed->row(pivot);
      for (std::size_t c = 0; c < target.size(); ++c) {
        double mixed = static_cast<double>(target[c]) / sum;
        for (std::size_t i = 0; i < members.size(); ++i) {
          mixed += weights[i] / sum * static_cast<double>(changed->row(members[i])[c]);
        }
        target[c] = static_cast<float>(mixed);
      }
    }
  }

  double threshold_;
};

const Registration registration(
    {.name = "kvmerge",
     .sentence = "KVMerge-like: mixes keys and values of evicted entries into a kept neighbour with a similar key.",
     .citation = "after KVMerge, arXiv 2407.08454; sets and kernel width are our inference",
     .parameters = {real_parameter("similarity_threshold", "0.75", -1, 1, "least cosine of keys that merges")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<KvMerge>(parameters); }),
     .is_policy = true,
     .default_policy = "snapkv()"});

}  // namespace
}  // namespace evictsim::policies
