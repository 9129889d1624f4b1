#pragma once
/// \file
/// KV blocks outside a device's own memory: tiers such as host, disk and remote (or further device memory), fastest
/// first, each with a capacity, a chunk size and a replacement policy, and a link (sim/memory/link.h) to the tier
/// above, that of the first tier to the device. The device's blocks are its owner's, for example a BlockPool.
///
/// Blocks are named by the chained hashes of their prompts (sim/memory/block_pool.h). A tier holds chunks of
/// `chunk_blocks` blocks, aligned in the prompt and whole; a chunk is named by its last block, whose hash stands for
/// all before it. A load may read a part of a chunk.
///
/// - store(): the device writes blocks down to the first tier. What a tier does with them next is its WriteDown.
/// - load(): blocks climb tier by tier, as a whole per tier they come from (store and forward), all tiers side by side.
///   Inclusive stores leave a copy where blocks were and in each tier that they pass; exclusive ones move them.
///   There is no back-invalidation: a tier may evict what the tier above it holds.
/// - Room is reserved when a movement begins; chunks are found when they have arrived. Evicted chunks leave at once:
///   while they are written down, or are still being read, they are in flight (in a staging buffer, see
///   LinkTotals::in_flight()), not in a tier. A chunk that is evicted before it has arrived is lost.
///
/// Bytes are conserved: every chunk that came into a tier is there, was evicted or was moved, and what a link has in
/// flight belongs to movements; that is checked after every event where assertions are on (NDEBUG undefined).
///
/// Use in a simulation, one queue event per store (`event` is a FollowedEvent, `payload` the owner's):
///
///     // a request arrives; the device's own pool holds its first `cached` blocks:
///     const auto found = store.find(hashes, cached);
///     const auto compute_from = [&](std::size_t block) { return prefill_time(request, block); };
///     const LoadChoice choice = load_or_recompute(store, found, cached, layers, compute_from);
///     if (choice.segments > 0) store.load(now, {hashes}, cached, found[choice.segments - 1].last, request);
///     // a block was filled (write-through from the device), or is about to be handed out anew (write-back):
///     store.store(now, {hashes}, first_new_block, request);
///     // preemption by swap: room on the host, then the bytes; back in: transfer up, then give_back() when it arrived
///     if (store.set_aside(now, 0, bytes)) store.transfer(now, 0, Direction::down, bytes, request);
///     follow(queue, event, store.next_time(), payload);  // after any of these
///     // when the event happens, then follow() again:
///     while (const auto done = store.pop(queue.now())) resume(done->kind, done->tag);

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sim/memory/block_numbers.h"
#include "sim/memory/link.h"
#include "sim/memory/replacement_kind.h"

namespace evictsim::sim {

/// What becomes of a chunk in a tier with regard to the tier below it.
enum class WriteDown : std::uint8_t {
  none,     ///< evicted chunks are dropped
  back,     ///< evicted chunks are written down, unless they are there
  through,  ///< chunks are written down as soon as they have come from above; evicted ones are dropped
};

struct TierOptions {
  std::string name;  ///< for errors
  std::int64_t capacity_bytes = 0;
  std::int64_t chunk_blocks = 1;
  Replacement replacement = parse_replacement("lru");
  LinkOptions link;              ///< to the tier above, of the first tier: to the device
  std::int64_t piece_bytes = 0;  ///< that the link moves at once; 0: a chunk
  WriteDown write_down = WriteDown::none;
};

struct TieredStoreOptions {
  std::int64_t block_bytes = 0;
  bool exclusive = false;
  std::vector<TierOptions> tiers;  ///< fastest first, 1 to 8
};

/// Full blocks of a prompt from its first on.
struct PromptBlocks {
  std::span<const std::uint64_t> hashes;
  std::span<const double> costs = {};  ///< of computing each anew, for policies that weigh costs; empty: 1 each
  /// When each is referenced next, in any rising count; for policies that see the future.
  std::span<const std::uint64_t> next_references = {};
};

/// Blocks [first, last) of a prompt that are read from one tier.
struct PrefixSegment {
  std::uint32_t tier = 0;
  std::size_t first = 0, last = 0;
  friend bool operator==(const PrefixSegment&, const PrefixSegment&) = default;
};

/// A load, a store into the first tier, or a transfer has been completed.
struct StoreEvent {
  enum class Kind : std::uint8_t { load, store, transfer };
  Time time = 0;
  Kind kind = Kind::load;
  std::uint64_t tag = 0;
};

/// Chunks of one tier: came in = evicted + moved + held.
struct TierTotals {
  std::int64_t came_in = 0;  ///< reserved, whether or not they have arrived yet
  std::int64_t evicted = 0;  ///< of them before they arrived: `lost`
  std::int64_t lost = 0;
  std::int64_t moved = 0;         ///< taken away because an exclusive store holds them elsewhere
  std::int64_t written_down = 0;  ///< sent to the tier below because they were evicted
  std::int64_t refused = 0;       ///< not admitted
  std::int64_t held = 0;          ///< now, with those that are on their way here
  std::int64_t most_held = 0;
  std::int64_t most_bytes = 0;     ///< at once: chunks and what was set aside
  std::int64_t loaded_blocks = 0;  ///< read for loads that began here
};

class TieredStore {
 public:
  /// Throws Error(invalid_argument) for sizes out of range, a write-down below which chunks do not fit, an exclusive
  /// store that writes through, and what Link throws.
  explicit TieredStore(const TieredStoreOptions& options);

  /// The longest beginning of the prompt that is in tiers, from block `from` on, each block from the fastest tier that
  /// has it. Counts as no reference. Valid until the next call.
  [[nodiscard]] std::span<const PrefixSegment> find(std::span<const std::uint64_t> hashes, std::size_t from);
  /// How long a load of these segments would take with links shared as they are now, one hop after another: exact for
  /// one segment, not too little for more.
  [[nodiscard]] Time load_time(std::span<const PrefixSegment> segments) const;

  /// Brings what find() finds of the blocks [from, until) to the device; how many blocks. The StoreEvent comes when all
  /// are there, none when there is nothing to bring. All calls treat what happens until `now` first. They throw
  /// Error(invalid_argument) for times before that of an earlier call and for costs or next references of another
  /// length, Error(unsupported) when a policy sees the future and next references are missing.
  std::size_t load(Time now, const PromptBlocks& blocks, std::size_t from, std::size_t until, std::uint64_t tag);
  /// Writes the chunks that hold blocks from `from` on and are not there into the first tier; how many chunks. The
  /// StoreEvent comes when they are there (until then the device's blocks are read), none when there are no such
  /// chunks.
  std::size_t store(Time now, const PromptBlocks& blocks, std::size_t from, std::uint64_t tag);
  /// Moves other bytes over a tier's link, in pieces of that tier.
  void transfer(Time now, std::uint32_t tier, Direction direction, std::int64_t bytes, std::uint64_t tag);
  /// Takes `bytes` of a tier's capacity for other use, evicting chunks if need be; false if it does not have them.
  bool set_aside(Time now, std::uint32_t tier, std::int64_t bytes);
  void give_back(Time now, std::uint32_t tier, std::int64_t bytes);

  /// Treats what happens until `now`, as all calls that are given a time do.
  void settle(Time now);
  /// When pop() has something to do next; end_of_time: never.
  [[nodiscard]] Time next_time() const;
  /// The next completion up to `now`.
  std::optional<StoreEvent> pop(Time now);

  [[nodiscard]] std::size_t tiers() const { return tiers_.size(); }
  [[nodiscard]] const TierTotals& totals(std::uint32_t tier) const { return tiers_[tier].totals; }
  [[nodiscard]] const Link& link(std::uint32_t tier) const { return tiers_[tier].link; }
  /// Bytes in a tier: its chunks and what was set aside.
  [[nodiscard]] std::int64_t used_bytes(std::uint32_t tier) const;

  /// Throws std::logic_error when chunks or bytes are not conserved. Linear; for tests.
  void check() const;

 private:
  static constexpr std::uint32_t absent = 0, resident = 0xffffffffU;

  struct Tier {
    Tier(const TierOptions& given, std::int64_t block_bytes);
    TierOptions options;
    std::int64_t chunk_bytes;
    Link link;
    std::unique_ptr<ReplacementPolicy> policy;
    std::vector<std::uint32_t> places;  ///< of each block number: absent, resident, or 1 + the movement it comes with
    std::vector<Object> demoted;        ///< evicted, to be written down
    std::uint64_t used = 0;             ///< chunks, as the policy's user counts them
    std::int64_t aside = 0;             ///< bytes
    std::array<std::int64_t, 2> moving = {};  ///< bytes of movements on the link, by direction
    TierTotals totals;
  };
  /// Blocks on their way over the link of one tier, then over that of the next.
  struct Movement {
    enum class Kind : std::uint8_t { free, load, store, demotion, transfer };
    Kind kind = Kind::free;
    std::uint32_t tier = 0;    ///< whose link
    std::uint32_t source = 0;  ///< load: tier it began at
    std::uint32_t load = 0;    ///< load: which of `loads_`
    std::uint64_t tag = 0;
    std::size_t from = 0;         ///< store: prompt block that chunks must reach beyond
    std::size_t first = 0;        ///< prompt block that is numbers[0]
    std::vector<Object> numbers;  ///< of consecutive blocks; demotion: of chunks
    std::vector<Object> chunks;   ///< that have room reserved where it goes
  };
  struct Load {
    std::uint64_t tag = 0;
    std::uint32_t parts = 0;  ///< on their way
  };

  void require_tier(std::uint32_t tier) const;
  void arrive(Time now, std::uint32_t tier, std::uint32_t movement);
  void climb(Time now, std::uint32_t movement);
  void finish_part(Time now, std::uint32_t movement);
  std::size_t descend(Time now, std::uint32_t movement);
  void collect(std::uint32_t tier, std::uint32_t movement);
  template <typename Use>
  static void for_chunks(const Movement& movement, std::int64_t chunk_blocks, const Use& use);
  void send(Time now, std::uint32_t tier, Direction direction, std::int64_t bytes, std::uint32_t movement);
  [[nodiscard]] bool held_above(std::uint32_t tier, Object chunk) const;
  void reserve(std::uint32_t tier, Object chunk, std::uint32_t movement);
  void note_evicted(std::uint32_t tier, Object chunk);
  void remove(std::uint32_t tier, Object chunk);
  void write_down(Time now, std::uint32_t tier);
  void number(const PromptBlocks& blocks, std::size_t first, std::size_t last, std::vector<Object>& numbers);
  void refer(const PrefixSegment& segment, const PromptBlocks& blocks, std::vector<Object>& numbers);
  void require_lengths(const PromptBlocks& blocks) const;
  void note_use(std::uint32_t tier);
  [[nodiscard]] static std::uint64_t room(const Tier& tier);
  [[nodiscard]] Item item_of(Object chunk) const;
  [[nodiscard]] static std::int64_t pieces(const Tier& tier, std::int64_t bytes);
  std::uint32_t take_movement(Movement::Kind kind);
  void release(std::uint32_t movement);
  void check_totals() const;

  std::int64_t block_bytes_;
  bool exclusive_;
  bool sees_future_ = false;
  std::size_t largest_chunk_ = 1;
  std::vector<Tier> tiers_;
  BlockNumbers numbers_;
  std::vector<double> costs_;                   ///< by block number
  std::vector<std::uint64_t> next_references_;  ///< by block number
  std::vector<Movement> movements_;
  std::vector<std::uint32_t> free_movements_;
  std::vector<Load> loads_;
  std::vector<std::uint32_t> free_loads_;
  std::vector<StoreEvent> done_;  ///< from `taken_` on
  std::size_t taken_ = 0;
  std::vector<PrefixSegment> found_;
  std::vector<std::uint32_t> parts_;  ///< movements of the load that begins
  Time now_ = 0;
};

}  // namespace evictsim::sim
