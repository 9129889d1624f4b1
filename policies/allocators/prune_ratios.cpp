#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "policies/registry.h"
#include "policies/seats.h"
#include "traces/error.h"
#include "traces/weights.h"

namespace evictsim::policies {
namespace {

constexpr Index ratio_rows = 99;

/// Counts per head from a table of the share that each head loses at 1 %, 2 %, ... 99 % removed.
class PruneRatios : public Allocator {
 public:
  explicit PruneRatios(const Parameters& parameters) {
    const std::string& location = parameters.words("table");
    if (location.empty()) return;
    const std::shared_ptr<const traces::Weights> weights = traces::Weights::open(location, "prune_ratios");
    if (const std::optional<traces::Tensor> published = weights->read_shared("prune_ratios")) {
      split(*published, location);
      return;
    }
    for (const int layer : weights->layers()) {
      const traces::Tensor table = weights->read(layer, "prune_ratios");
      if (table.shape.size() != 2 || table.shape[0] != ratio_rows) {
        throw Error(ErrorCode::wrong_shape, fmt::format("prune_ratios of layer {} must be [99, H_kv]", layer),
                    {.file = location});
      }
      tables_[layer] = table;
    }
  }

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    const auto cached = static_cast<double>(request.budget.cached);
    const double removed = 1.0 - request.budget.exact_entries / cached;
    if (removed <= 0) {
      std::fill(counts.begin(), counts.end(), static_cast<Index>(request.budget.cached));
      return;
    }
    const std::span<const float> ratios = row(request.layer, removed, counts.size());
    // Single precision and half to even, as torch there.
    float total = 0;
    std::vector<double> ideal;
    for (const float ratio : ratios) {
      const float entries = std::clamp(1.0F - ratio, 0.0F, 1.0F) * static_cast<float>(request.budget.cached);
      total += entries;
      ideal.push_back(entries);
    }
    const std::vector<Index> whole = round_by_remainder(ideal, static_cast<Index>(std::nearbyint(total)));
    std::copy(whole.begin(), whole.end(), counts.begin());
    for (Index& count : counts) count = std::max<Index>(1, count);
  }

  [[nodiscard]] Needs needs() const override {
    if (!tables_.empty()) return {};
    return {.parameters = {"table: an HDF5 file with the prune ratios of every layer and head"}};
  }

 private:
  /// [99, L, H_kv], as published, into one table per layer.
  void split(const traces::Tensor& published, const std::string& location) {
    if (published.shape.size() != 3 || published.shape[0] != ratio_rows) {
      throw Error(ErrorCode::wrong_shape, "prune_ratios beside the layers must be [99, layers, H_kv]",
                  {.file = location});
    }
    const std::size_t layers = published.shape[1];
    const std::size_t heads = published.shape[2];
    for (std::size_t layer = 0; layer < layers; ++layer) {
      traces::Tensor& table = tables_[static_cast<int>(layer)];
      table.shape = {ratio_rows, heads};
      for (std::size_t percent = 0; percent < ratio_rows; ++percent) {
        const auto first = published.data.begin() + static_cast<std::ptrdiff_t>((percent * layers + layer) * heads);
        table.data.insert(table.data.end(), first, first + static_cast<std::ptrdiff_t>(heads));
      }
    }
  }

  [[nodiscard]] std::span<const float> row(int layer, double removed, std::size_t heads) const {
    const auto found = tables_.find(layer);
    if (found == tables_.end() || found->second.shape[1] != heads) {
      throw Error(ErrorCode::wrong_shape, fmt::format("the table must hold layer {} with {} KV heads", layer, heads),
                  {.parameter = "table"});
    }
    const Index percent = std::clamp<Index>(static_cast<Index>(std::nearbyint(removed * 100.0)), 1, ratio_rows);
    return std::span(found->second.data).subspan(static_cast<std::size_t>(percent - 1) * heads, heads);
  }

  std::map<int, traces::Tensor> tables_;  ///< by layer, [99, H_kv]
};

const Registration registration(
    {.name = "prune_ratios",
     .sentence = "Gives every head what a table profiled offline says, for the share removed.",
     .citation = "LU-KV, arXiv 2602.08585; kvpress 0.5.5 LUKVPress",
     .parameters = {text_parameter(
         "table", "HDF5 file, or file:/group, with prune_ratios [99, layers, H_kv], or [99, H_kv] per layer")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<PruneRatios>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
