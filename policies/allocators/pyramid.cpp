#include <algorithm>
#include <cmath>

#include "policies/registry.h"

namespace evictsim::policies {
namespace {

std::int64_t floor_divide(std::int64_t a, std::int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0); }

class Pyramid : public Allocator {
 public:
  explicit Pyramid(const Parameters& parameters)
      : original_(parameters.choice("variant") == "original"),
        beta_(parameters.integer("beta")),
        window_(parameters.integer("window")) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    const std::int64_t count = original_ ? original_count(request) : library_count(request);
    std::fill(counts.begin(), counts.end(), static_cast<Index>(std::max<std::int64_t>(1, count)));
  }

 private:
  /// KVCache-Factory and, for heads that share a layer's budget, Ada-KV: whole numbers, the window beside the pyramid.
  [[nodiscard]] std::int64_t original_count(const AllocationRequest& request) const {
    const std::int64_t entries = request.budget.entries;
    const std::int64_t prefix = request.budget.cached - window_;
    const std::int64_t base = entries - window_;
    if (base <= 0 || request.budget.cached < entries) return entries;
    // Ada-KV has no flat branch.
    if (!request.heads_share && request.budget.cached < 2 * base) return entries;
    std::int64_t lowest = base / beta_;
    std::int64_t highest = 2 * base - lowest;
    if (highest >= prefix) {
      highest = prefix;
      lowest = 2 * base - highest;
    }
    const std::int64_t step = floor_divide(highest - lowest, std::max(1, request.num_layers - 1));
    return highest - request.layer * step + window_;
  }

  /// kvpress: real numbers, rounded half to even at the end, the window inside the count.
  [[nodiscard]] std::int64_t library_count(const AllocationRequest& request) const {
    const auto cached = static_cast<double>(request.budget.cached);
    const auto window = static_cast<double>(window_);
    // The detour over window + entries is the library's; it moves the last bits.
    const double capacity = window + request.budget.exact_entries;
    double lowest = (capacity - window) / static_cast<double>(beta_);
    double highest = (capacity - window) * 2 - lowest;
    if (highest >= cached - window) {
      highest = cached - window;
      lowest = (capacity - window) * 2 - highest;
    }
    const bool flat = !(cached >= highest && highest >= lowest && lowest >= window) || request.num_layers < 2;
    if (flat) return std::llrint(request.budget.exact_entries);
    const double step = (highest - lowest) / (request.num_layers - 1);
    return std::llrint(highest - request.layer * step);
  }

  bool original_;
  std::int64_t beta_;
  std::int64_t window_;
};

const Registration registration(
    {.name = "pyramid",
     .sentence = "Gives deeper layers fewer entries, linearly, with the same total.",
     .citation = "PyramidKV, arXiv 2406.02069; kvpress 0.5.5 (library), KVCache-Factory (original)",
     .parameters = {choice_parameter("variant", {"library", "original"},
                                     "library: real numbers, window inside the count, flat where the pyramid does not "
                                     "fit; original: whole numbers, window added to every layer"),
                    integer_parameter("beta", "20", 1, 1e9, "steepness: the last layer gets about entries / beta"),
                    integer_parameter("window", "64", 0, 1e9, "recent entries that the scorer keeps")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<Pyramid>(parameters); }),
     .default_policy = "snapkv()"});

}  // namespace
}  // namespace evictsim::policies
