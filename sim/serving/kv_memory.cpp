#include "sim/serving/kv_memory.h"

#include <algorithm>
#include <array>

namespace evictsim::sim {
namespace {

/// Names one token's place in a block that is known as a whole.
BlockHash hash_inside(BlockHash block, std::uint32_t last_token) {
  const std::array<std::uint32_t, 1> place = {last_token};
  return chain_hash(block, place);
}

std::int64_t divided_up(std::int64_t value, std::int64_t divisor) { return (value + divisor - 1) / divisor; }

}  // namespace

void prefix_hashes(const traces::WorkloadRequest& request, int block_tokens, std::vector<BlockHash>& hashes) {
  hashes.clear();
  const std::int64_t named = request.prefix_block_tokens;
  const auto names = static_cast<std::int64_t>(request.prefix_blocks.size());
  if (names == 0) return;
  const std::int64_t tokens = std::min(names * named, request.prompt_tokens + request.output_tokens);
  for (std::int64_t end = block_tokens; end <= tokens; end += block_tokens) {
    const std::int64_t last = end - 1;
    hashes.push_back(hash_inside(request.prefix_blocks[static_cast<std::size_t>(last / named)],
                                 static_cast<std::uint32_t>(last % named)));
  }
}

KvMemory::KvMemory(const ReplicaGroup& group, bool prefix_cache, BlockListener* listener)
    : block_tokens_(group.block_tokens),
      prefix_cache_(prefix_cache),
      resident_(group.resident),
      pool_(static_cast<std::size_t>(group.blocks), static_cast<std::uint32_t>(group.block_tokens)),
      listener_(listener) {}

bool KvMemory::can_hold(const Sequence& sequence, std::int64_t output) const {
  const std::int64_t longest = sequence.prompt + output - 1;
  const ResidentCache* const resident = cache_of(sequence);
  if (resident == nullptr) return divided_up(longest, block_tokens_) <= blocks();
  // An evicting cache may hold most while the prompt is computed; later it falls only where a span ends.
  const auto fits = [&](std::int64_t context) { return blocks_at(sequence, context) <= blocks(); };
  if (!fits(sequence.prompt)) return false;
  for (std::int64_t context = sequence.prompt + 1; context <= longest;) {
    const std::int64_t last = std::clamp(resident->reads(sequence.prompt, context).until, context, longest);
    if (!fits(last)) return false;
    context = last + 1;
  }
  return true;
}

std::int64_t KvMemory::blocks_at(const Sequence& sequence, std::int64_t context) const {
  const ResidentCache* const resident = cache_of(sequence);
  if (resident == nullptr) return divided_up(context, block_tokens_);
  return resident->blocks(sequence.prompt, context, block_tokens_);
}

std::int64_t KvMemory::fullest_context(const Sequence& sequence, std::int64_t context) const {
  if (!resident_ || context <= sequence.prompt) return context;
  return blocks_at(sequence, sequence.prompt) > blocks_at(sequence, context) ? sequence.prompt : context;
}

std::int64_t KvMemory::cached_tokens(const Sequence& sequence) {
  if (!prefix_cache_ || sequence.hashes.empty()) return 0;
  const auto found = pool_.find_prefix(sequence.hashes, static_cast<std::uint64_t>(sequence.target));
  return static_cast<std::int64_t>(found.size()) * block_tokens_;
}

std::span<const BlockId> KvMemory::prefix_of(const Sequence& sequence, std::size_t blocks) {
  if (blocks == 0) return {};
  return pool_.find_prefix(sequence.hashes, static_cast<std::uint64_t>(sequence.target)).first(blocks);
}

/// Blocks for the first `context` tokens beside those of the prefix.
std::size_t KvMemory::blocks_beyond(const Sequence& sequence, std::size_t prefix, std::int64_t context) const {
  // An evicting cache may hold more at the end of the prompt than at the context asked for.
  const std::int64_t blocks =
      std::max(blocks_at(sequence, context), blocks_at(sequence, std::min(context, sequence.target)));
  return static_cast<std::size_t>(std::max<std::int64_t>(0, blocks - static_cast<std::int64_t>(prefix)));
}

bool KvMemory::fits(const Sequence& sequence, std::int64_t cached, std::int64_t context, std::int64_t reserved) {
  const auto hits = static_cast<std::size_t>(cached / block_tokens_);
  const auto at_reserved = static_cast<std::size_t>(
      std::max<std::int64_t>(0, blocks_at(sequence, reserved) - static_cast<std::int64_t>(hits)));
  return pool_.fits(prefix_of(sequence, hits), std::max(blocks_beyond(sequence, hits, context), at_reserved));
}

/// For a sequence that fits.
void KvMemory::take(Sequence& sequence, std::int64_t cached, std::int64_t context) {
  const auto hits = static_cast<std::size_t>(cached / block_tokens_);
  const auto prefix = prefix_of(sequence, hits);
  pool_.acquire(prefix);
  sequence.blocks.assign(prefix.begin(), prefix.end());
  sequence.published = hits;
  allocate(sequence, static_cast<std::int64_t>(blocks_beyond(sequence, hits, context)));
}

bool KvMemory::grow(Sequence& sequence, std::int64_t context) {
  const auto held = static_cast<std::int64_t>(sequence.blocks.size());
  const std::int64_t wanted = blocks_at(sequence, context);
  if (wanted > held) {
    if (!allocate(sequence, wanted - held)) return false;
  } else if (wanted < held && resident_ && context > sequence.prompt) {
    if (!shrink(sequence, wanted)) return false;
  }
  publish(sequence, context);
  return true;
}

void KvMemory::release(Sequence& sequence, bool resumes) {
  if (resumes && prefix_cache_ && !resident_) {
    // Only the sequence itself can find blocks of tokens that nobody else is known to have, so they get names when it
    // has to look for them.
    const std::int64_t full = sequence.computed / block_tokens_;
    for (auto block = static_cast<std::int64_t>(sequence.hashes.size()); block < full; ++block) {
      sequence.hashes.push_back(
          hash_inside(~static_cast<BlockHash>(sequence.request), static_cast<std::uint32_t>(block)));
    }
    publish(sequence, sequence.computed);
  }
  pool_.release(sequence.blocks);
  sequence.blocks.clear();
  sequence.published = 0;
}

void KvMemory::publish(Sequence& sequence, std::int64_t context) {
  if (sequence.published >= sequence.hashes.size() || !prefix_cache_) return;
  // Where less than everything is held, blocks do not stand for the tokens of their place.
  if (resident_ && (context > sequence.prompt || blocks_at(sequence, context) < divided_up(context, block_tokens_))) {
    return;
  }
  const std::size_t full =
      std::min({static_cast<std::size_t>(context / block_tokens_), sequence.hashes.size(), sequence.blocks.size()});
  const std::size_t first = sequence.published;
  for (; sequence.published < full; ++sequence.published, ++publications_) {
    pool_.publish(sequence.blocks[sequence.published], sequence.hashes[sequence.published]);
  }
  if (listener_ != nullptr && full > first) listener_->published(std::span(sequence.hashes).first(full), first);
}

bool KvMemory::shrink(Sequence& sequence, std::int64_t blocks) {
  const auto wanted = static_cast<std::size_t>(blocks);
  if (sequence.published == 0) {
    pool_.release(std::span(sequence.blocks).subspan(wanted));
    sequence.blocks.resize(wanted);
    return true;
  }
  // What is left is gathered in blocks of its own: those that others find stay what they are, in use or cached.
  const auto alone = static_cast<std::size_t>(std::count_if(
      sequence.blocks.begin(), sequence.blocks.end(), [&](BlockId block) { return pool_.references(block) == 1; }));
  if (alone + pool_.free_blocks() < wanted) return false;
  pool_.release(sequence.blocks);
  sequence.blocks.clear();
  sequence.published = 0;
  return allocate(sequence, blocks);
}

bool KvMemory::allocate(Sequence& sequence, std::int64_t blocks) {
  const auto count = static_cast<std::size_t>(blocks);
  if (listener_ == nullptr) {
    if (!pool_.allocate(count, sequence.blocks)) return false;
  } else {
    forgotten_.clear();
    if (!pool_.allocate(count, sequence.blocks, &forgotten_)) return false;
    if (!forgotten_.empty()) listener_->forgotten(forgotten_);
  }
  peak_used_ = std::max(peak_used_, used_blocks());
  return true;
}

}  // namespace evictsim::sim
