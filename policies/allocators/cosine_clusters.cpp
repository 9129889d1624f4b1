#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "policies/registry.h"
#include "policies/shared_parameters.h"

namespace evictsim::policies {
namespace {

/// Sum of squared distances to their mean of values [first, last), from sums of the values and of their squares.
double spread(const std::vector<double>& sums, const std::vector<double>& squares, std::size_t first,
              std::size_t last) {
  const double sum = sums[last] - sums[first];
  return squares[last] - squares[first] - sum * sum / static_cast<double>(last - first);
}

/// Places of the values in the highest of the three clusters of least spread (k-means, exact in one dimension; two
/// clusters where only two values differ). Empty for fewer than three values and where none differ.
std::vector<std::size_t> highest_cluster(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<std::size_t> borders;  // places in `order` where a cluster may begin
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (values[order[i - 1]] < values[order[i]]) borders.push_back(i);
  }
  if (values.size() < 3 || borders.empty()) return {};
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  std::vector<double> sums = {0.0};
  std::vector<double> squares = {0.0};
  for (const std::size_t place : order) {
    const double centred = values[place] - mean;
    sums.push_back(sums.back() + centred);
    squares.push_back(squares.back() + centred * centred);
  }
  std::size_t begin = borders.back();
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t low = 0; low < borders.size(); ++low) {
    for (std::size_t high = low + 1; high < borders.size(); ++high) {
      const double total = spread(sums, squares, 0, borders[low]) + spread(sums, squares, borders[low], borders[high]) +
                           spread(sums, squares, borders[high], order.size());
      if (total < least) {
        least = total;
        begin = borders[high];
      }
    }
  }
  return {order.begin() + static_cast<std::ptrdiff_t>(begin), order.end()};
}

/// Layers whose attention changes the residual stream least keep a reduced share; the others share what that frees.
class CosineClusters : public Allocator {
 public:
  CosineClusters(const Parameters& parameters, std::shared_ptr<const Allocator> inner)
      : reduced_(parameters.real("p")), inner_(std::move(inner)) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    AllocationRequest own = request;
    own.measured = request.measured.subspan(1);
    inner_->allocate(own, counts);
  }

  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const override {
    std::vector<double> similarities;
    for (const AllocationRequest& request : layers) similarities.push_back(request.measured.front());
    const std::vector<std::size_t> least_important = highest_cluster(similarities);
    std::vector<bool> is_reduced(layers.size(), false);
    for (const std::size_t layer : least_important) is_reduced[layer] = true;
    std::vector<AllocationRequest> squeezed(layers.begin(), layers.end());
    for (std::size_t i = 0; i < squeezed.size(); ++i) {
      // In shares of the prompt and in this order, as the authors' lines: truncation depends on it.
      const auto prompt = static_cast<double>(squeezed[i].prompt_length);
      const double share = squeezed[i].budget.exact_entries / prompt;
      const double low = reduced_ * share;
      const auto all = static_cast<double>(layers.size());
      const auto few = static_cast<double>(least_important.size());
      const double high = (all * share - few * low) / (all - few);
      squeezed[i].measured = layers[i].measured.subspan(1);
      CutBudget& budget = squeezed[i].budget;
      budget.exact_entries = (is_reduced[i] ? low : high) * prompt;
      budget.entries = std::max<std::int64_t>(1, static_cast<std::int64_t>(budget.exact_entries));
    }
    inner_->allocate_model(squeezed, counts);
  }

  [[nodiscard]] AllocationScope scope() const override { return AllocationScope::model_once; }

  /// The mean cosine between the layer's residual stream before and after attention, and what the inner one measures.
  [[nodiscard]] std::vector<double> measure(const CacheView& prompt) const override {
    const std::span<const float> cosines = prompt.channel(traces::Channel::cos_attention, prompt.layer())
                                               .first(static_cast<std::size_t>(prompt.prompt_length()));
    const double sum = std::accumulate(cosines.begin(), cosines.end(), 0.0);
    std::vector<double> measured = inner_->measure(prompt);
    measured.insert(measured.begin(), sum / static_cast<double>(cosines.size()));
    return measured;
  }
  [[nodiscard]] Needs needs() const override {
    return Needs{.channels = {traces::Channel::cos_attention}}.with(inner_->needs());
  }

 private:
  double reduced_;
  std::shared_ptr<const Allocator> inner_;
};

const Registration registration(
    {.name = "cosine_clusters",
     .sentence = "Reduces the budget of the layers whose attention changes the residual stream least, for the others.",
     .citation = "SqueezeAttention, arXiv 2404.04793; hetailang/SqueezeAttention",
     .parameters = squeeze_parameters(),
     .make = MakeOuterAllocator([](const Parameters& parameters, std::shared_ptr<const Allocator> inner) {
       return std::make_unique<CosineClusters>(parameters, std::move(inner));
     })});

}  // namespace
}  // namespace evictsim::policies
