#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "policies/chosen_set.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

/// Numbers from 0 to below 1 between blanks.
std::vector<double> read_shares(const std::string& text) {
  std::vector<double> shares;
  const char* next = text.data();
  const char* const end = text.data() + text.size();
  while (next != end) {
    if (*next == ' ') {
      ++next;
      continue;
    }
    double share = 0;
    const auto [last, failure] = std::from_chars(next, end, share);
    if (failure != std::errc() || (last != end && *last != ' ') || !(share >= 0 && share < 1)) {
      throw Error(ErrorCode::invalid_argument, "must be shares from 0 to below 1 with blanks between them",
                  {.parameter = "layer_shares: removed", .value = text});
    }
    shares.push_back(share);
    next = last;
  }
  return shares;
}

class LayerShares : public Allocator {
 public:
  explicit LayerShares(const Parameters& parameters) : removed_(read_shares(parameters.words("removed"))) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    if (static_cast<std::size_t>(request.layer) >= removed_.size()) {
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("names {} layers, the model has {}", removed_.size(), request.num_layers),
                  {.parameter = "layer_shares: removed"});
    }
    const double share = 1.0 - removed_[static_cast<std::size_t>(request.layer)];
    std::fill(counts.begin(), counts.end(), static_cast<Index>(budget_of(share, request.budget.cached).entries));
  }
  [[nodiscard]] bool ignores_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override {
    if (!removed_.empty()) return {};
    return {.parameters = {"removed: the share that each layer of the model loses"}};
  }

 private:
  std::vector<double> removed_;  ///< by layer of the model
};

const Registration registration(
    {.name = "layer_shares",
     .sentence = "Gives every layer a share of its own, whatever the budget.",
     .citation = "kvpress 0.5.5 PerLayerCompressionPress",
     .parameters = {text_parameter("removed", "share that each layer of the model loses, with blanks between them")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<LayerShares>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
