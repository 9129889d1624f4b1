#pragma once
/// \file
/// KV memory below the replicas of a serving simulation: host, disk and remote tiers, the links to them, and what moves
/// over them. Semantics: docs/serving.md, "Tiers". One replica has tiers and links of its own.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "sim/memory/tiered_store.h"

namespace evictsim::sim {

/// What a request does whose prefix lies in a tier.
enum class LoadRule : std::uint8_t {
  earlier,    ///< what is done first, as load_or_recompute() foresees it
  load,       ///< loads all that is found
  recompute,  ///< computes it again
};

inline constexpr std::size_t most_kv_tiers = 3;

struct KvTiers {
  /// Fastest first, 1 to 3, of one replica. The first one also takes swapped requests, for which chunks give way.
  std::vector<TierOptions> tiers;
  /// What becomes of the replica's own cached blocks: `back`: they go to the first tier when they are handed out anew;
  /// `through`: as soon as they are filled; `none`: tiers are for swapped requests only.
  WriteDown write_down = WriteDown::back;
  LoadRule rule = LoadRule::earlier;
  /// 1: a request waits for its load, then computes. More: it computes at once, and its first step ends when
  /// overlapped() says, with so many layers.
  int overlapped_layers = 1;
};

/// Of one tier, after the end.
struct KvTierTotals {
  std::int64_t loaded_tokens = 0;  ///< of prompts when first looked up, found here and loaded
  std::int64_t peak_bytes = 0;     ///< held at once, swapped requests among them
  std::int64_t up_bytes = 0;       ///< arrived over its link: loads, and requests that come back
  std::int64_t down_bytes = 0;     ///< stores, and requests that go
  Time up_busy = 0, down_busy = 0;
  bool operator==(const KvTierTotals&) const = default;
};

/// Who hears of cached blocks of a replica's memory.
class BlockListener {
 public:
  BlockListener() = default;
  BlockListener(const BlockListener&) = delete;
  BlockListener& operator=(const BlockListener&) = delete;
  virtual ~BlockListener() = default;
  /// Blocks from `first` on of a prompt were filled; `hashes` are those of all blocks up to the last one of them.
  virtual void published(std::span<const std::uint64_t> hashes, std::size_t first) = 0;
  /// These are in the memory no more.
  virtual void forgotten(std::span<const std::uint64_t> hashes) = 0;
};

/// Throws Error(invalid_argument, unsupported) for tiers that cannot be.
void check_tiers(const KvTiers& options);

/// The tiers of one replica.
class ReplicaTiers final : public BlockListener {
 public:
  /// `block_bytes` of the replica's blocks. `for_swaps`: nothing else goes down.
  ReplicaTiers(const KvTiers& options, std::int64_t block_bytes, int block_tokens, bool for_swaps);

  /// Whether prefixes are kept in tiers.
  [[nodiscard]] bool keeps_prefixes() const { return write_down_ != WriteDown::none; }
  [[nodiscard]] int overlapped_layers() const { return options_.overlapped_layers; }
  /// What follows happens then; not before an earlier time.
  void at(Time now) { now_ = now; }
  /// Treats what happens until then.
  void settle() { store_.settle(now_); }

  void published(std::span<const std::uint64_t> hashes, std::size_t first) override;
  void forgotten(std::span<const std::uint64_t> hashes) override;

  /// Blocks from `first` on, up to `last`, that are in tiers.
  [[nodiscard]] std::size_t found(std::span<const std::uint64_t> hashes, std::size_t first, std::size_t last);
  /// Up to which block they should be loaded; `first`: nothing. `compute_from` as load_or_recompute() asks for it.
  std::size_t choose(std::span<const std::uint64_t> hashes, std::size_t first, std::size_t last,
                     const std::function<Time(std::size_t block)>& compute_from);
  /// Loads what choose() said last. `counts`: as hits of the workload.
  void load(std::span<const std::uint64_t> hashes, std::size_t first, std::size_t until, std::uint64_t tag,
            bool counts);
  /// Room in a tier for other bytes than cached blocks, which give way; false if there is none.
  bool set_aside(std::int64_t bytes, std::size_t tier) { return store_.set_aside(now_, number(tier), bytes); }
  void give_back(std::int64_t bytes, std::size_t tier) { store_.give_back(now_, number(tier), bytes); }
  /// Moves other bytes over a tier's link; nobody hears of the end without a tag.
  void write(std::int64_t bytes, std::size_t tier, std::uint64_t tag = no_tag);
  void read(std::int64_t bytes, std::size_t tier, std::uint64_t tag);

  /// The next load, or other copy with a tag, that has been completed by the time of at().
  std::optional<StoreEvent> pop();
  [[nodiscard]] Time next_time() const { return store_.next_time(); }

  [[nodiscard]] std::size_t tiers() const { return store_.tiers(); }
  [[nodiscard]] std::int64_t capacity_bytes(std::size_t tier) const { return options_.tiers[tier].capacity_bytes; }
  [[nodiscard]] std::int64_t used_bytes(std::size_t tier) const { return store_.used_bytes(number(tier)); }
  /// At the time of at().
  [[nodiscard]] std::vector<KvTierTotals> totals();
  /// Throws std::logic_error when chunks or bytes are not conserved.
  void check() const { store_.check(); }

 private:
  static constexpr std::uint64_t no_tag = ~std::uint64_t{0};
  static std::uint32_t number(std::size_t tier) { return static_cast<std::uint32_t>(tier); }
  void find(std::span<const std::uint64_t> hashes, std::size_t first, std::size_t last);

  const KvTiers& options_;
  WriteDown write_down_;
  TieredStore store_;
  Time now_ = 0;
  std::vector<PrefixSegment> segments_;  ///< found last
  std::vector<std::uint64_t> order_;     ///< of what goes down
  std::array<std::int64_t, most_kv_tiers> loaded_blocks_ = {};
  std::int64_t block_tokens_;
};

}  // namespace evictsim::sim
