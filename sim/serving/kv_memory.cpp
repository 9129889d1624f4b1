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

KvMemory::KvMemory(const ReplicaGroup& group, bool prefix_cache)
    : block_tokens_(group.block_tokens),
      prefix_cache_(prefix_cache),
      resident_(group.resident),
      pool_(static_cast<std::size_t>(group.blocks), static_cast<std::uint32_t>(group.block_tokens)) {}

bool KvMemory::can_hold(std::int64_t prompt, std::int64_t output) const {
  const std::int64_t longest = prompt + output - 1;
  if (!resident_) return divided_up(longest, block_tokens_) <= blocks();
  // An evicting cache may hold most while the prompt is computed; later it falls only where a span ends.
  if (resident_->blocks(prompt, prompt, block_tokens_) > blocks()) return false;
  for (std::int64_t context = prompt + 1; context <= longest;) {
    const std::int64_t last = std::clamp(resident_->reads(prompt, context).until, context, longest);
    if (resident_->blocks(prompt, last, block_tokens_) > blocks()) return false;
    context = last + 1;
  }
  return true;
}

std::int64_t KvMemory::blocks_at(const Sequence& sequence, std::int64_t context) const {
  if (!resident_) return divided_up(context, block_tokens_);
  return resident_->blocks(sequence.prompt, context, block_tokens_);
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

bool KvMemory::admit(Sequence& sequence, std::int64_t cached, std::int64_t context, std::int64_t reserved) {
  const auto hits = static_cast<std::size_t>(cached / block_tokens_);
  std::span<const BlockId> prefix;
  if (hits > 0) {
    prefix = pool_.find_prefix(sequence.hashes, static_cast<std::uint64_t>(sequence.target));
    prefix = prefix.first(hits);
  }
  const auto beyond = [&](std::int64_t tokens) {
    return static_cast<std::size_t>(
        std::max<std::int64_t>(0, blocks_at(sequence, tokens) - static_cast<std::int64_t>(hits)));
  };
  // An evicting cache may hold more at the end of the prompt than at the context asked for.
  const std::size_t taken = std::max(beyond(context), beyond(std::min(context, sequence.target)));
  if (!pool_.fits(prefix, std::max(taken, beyond(reserved)))) return false;
  pool_.acquire(prefix);
  sequence.blocks.assign(prefix.begin(), prefix.end());
  sequence.published = hits;
  allocate(sequence, static_cast<std::int64_t>(taken));
  publish(sequence, std::min(context, sequence.target));
  return true;
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
  for (; sequence.published < full; ++sequence.published, ++publications_) {
    pool_.publish(sequence.blocks[sequence.published], sequence.hashes[sequence.published]);
  }
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
  if (!pool_.allocate(static_cast<std::size_t>(blocks), sequence.blocks)) return false;
  peak_used_ = std::max(peak_used_, used_blocks());
  return true;
}

}  // namespace evictsim::sim
