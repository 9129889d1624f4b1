#include <vector>

#include "policies/registry.h"
#include "policies/retrieval.h"

namespace evictsim::policies {
namespace {

/// The entries that stay close ranks: they are attended as if they stood at consecutive positions, the last at the
/// position of the newest token. A cache that renumbers its entries from 0 and decodes on from there has the same
/// distances between queries and keys.
class Rerotate : public ChangedKeys {
 public:
  void begin(const PlacementView& layer) override { close_ranks(layer); }
  void cut(const PlacementView& layer) override { close_ranks(layer); }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override { return hot_bytes(layer); }

 private:
  void close_ranks(const PlacementView& layer) {
    const models::Rope& rope = layer.hot().rope();
    const auto positions = layer.hot().positions();
    for (int head = 0; head < layer.hot().heads(); ++head) {
      ChangedRows& keys = changed_keys(layer, head);
      const models::MatrixView recorded = layer.keys(kv_head_of(layer, head));
      const auto entries = layer.hot().entries(head);
      std::vector<double> key(static_cast<std::size_t>(recorded.cols()));
      for (std::size_t rank = 0; rank < entries.size(); ++rank) {
        const auto numbers = recorded.row(entries[rank]);
        for (std::size_t c = 0; c < key.size(); ++c) key[c] = numbers[static_cast<Index>(c)];
        rope.invert(std::span<double>(key), positions[static_cast<std::size_t>(entries[rank])]);
        const double distance = static_cast<double>(entries.size() - 1 - rank);
        rope.apply(std::span<double>(key), static_cast<double>(positions.back()) - distance);
        const std::span<float> changed = keys.row(entries[rank]);
        for (std::size_t c = 0; c < key.size(); ++c) changed[c] = static_cast<float>(key[c]);
      }
    }
  }
};

const Registration registration(
    {.name = "rerotate",
     .sentence = "Turns the keys that stay to consecutive positions, the last that of the newest token.",
     .citation = "FINCH, TACL 2024 (10.1162/tacl_a_00716); kvpress 0.5.5 KeyRerotationPress",
     .parameters = {},
     .make = MakePlacement([](const Parameters&) { return std::make_unique<Rerotate>(); }),
     .is_policy = true,
     .default_policy = "snapkv()"});

}  // namespace
}  // namespace evictsim::policies
