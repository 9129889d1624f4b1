// Are KV blocks shared, freed and evicted as a paged engine does it, and is none ever lost?
#include <algorithm>
#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <random>

#include "sim/memory/block_pool.h"
#include "traces/error.h"

using namespace evictsim;
using sim::BlockHash;
using sim::BlockId;
using sim::BlockPool;
using Blocks = std::vector<BlockId>;

namespace {

Blocks found(BlockPool& pool, const std::vector<BlockHash>& hashes, std::uint64_t tokens) {
  const auto prefix = pool.find_prefix(hashes, tokens);
  return {prefix.begin(), prefix.end()};
}

/// A prompt as an engine admits it: what is cached, then new blocks, of which the full ones are published.
Blocks admit(BlockPool& pool, const std::vector<BlockHash>& hashes, std::uint64_t tokens) {
  Blocks sequence = found(pool, hashes, tokens);
  const std::size_t cached = sequence.size();
  REQUIRE(pool.fits(sequence, pool.blocks_for(tokens) - cached));
  pool.acquire(sequence);
  REQUIRE(pool.allocate(pool.blocks_for(tokens) - cached, sequence));
  for (std::size_t i = cached; i < tokens / pool.tokens_per_block(); ++i) pool.publish(sequence[i], hashes[i]);
  return sequence;
}

/// The same rules over a plain queue and a map.
struct SlowPool {
  explicit SlowPool(BlockId blocks) {
    for (BlockId block = 0; block < blocks; ++block) queue.push_back(block);
  }
  std::deque<BlockId> queue;
  std::map<BlockId, int> references;
  std::map<BlockHash, std::vector<BlockId>> cached;  ///< in the order of publication

  Blocks find(const std::vector<BlockHash>& hashes, std::size_t most) {
    Blocks blocks;
    for (std::size_t i = 0; i < std::min(most, hashes.size()) && !cached[hashes[i]].empty(); ++i) {
      blocks.push_back(cached[hashes[i]].front());
    }
    return blocks;
  }
  void acquire(const Blocks& blocks) {
    for (const BlockId block : blocks) {
      if (references[block]++ == 0) queue.erase(std::find(queue.begin(), queue.end(), block));
    }
  }
  BlockId allocate() {
    const BlockId block = queue.front();
    queue.pop_front();
    for (auto& [hash, blocks] : cached) blocks.erase(std::remove(blocks.begin(), blocks.end(), block), blocks.end());
    references[block] = 1;
    return block;
  }
  void release(const Blocks& blocks) {
    for (std::size_t i = blocks.size(); i-- > 0;) {
      if (--references[blocks[i]] == 0) queue.push_back(blocks[i]);
    }
  }
};

}  // namespace

TEST_CASE("a prefix is shared, and the last token is always computed") {
  BlockPool pool(10, 4);
  const std::vector<BlockHash> hashes = {11, 12, 13};
  const Blocks first = admit(pool, hashes, 12);
  CHECK(first == Blocks{0, 1, 2});
  // All twelve tokens are cached, but the last must be computed.
  CHECK(found(pool, hashes, 12) == Blocks{0, 1});
  CHECK(found(pool, hashes, 13) == Blocks{0, 1, 2});
  CHECK(found(pool, {11, 99, 13}, 13) == Blocks{0});
  CHECK(found(pool, hashes, 0).empty());
  const Blocks second = admit(pool, hashes, 12);
  CHECK(second == Blocks{0, 1, 3});
  CHECK(pool.references(0) == 2);
  CHECK(pool.used_blocks() == 4);
  pool.release(first);
  CHECK(pool.used_blocks() == 3);
  CHECK(pool.references(0) == 1);
  pool.check();
}

TEST_CASE("a block in part is never shared") {
  BlockPool pool(10, 4);
  CHECK(pool.blocks_for(0) == 0);
  CHECK(pool.blocks_for(9) == 3);
  const Blocks first = admit(pool, {11, 12}, 9);
  CHECK_FALSE(pool.cached(first[2]));
  CHECK(found(pool, {11, 12}, 9) == Blocks{0, 1});
}

TEST_CASE("freed blocks stay findable until they are handed out, continuations first") {
  BlockPool pool(4, 1);
  const Blocks first = admit(pool, {1, 2, 3}, 3);
  pool.release(first);
  CHECK(pool.free_blocks() == 4);
  // Block 3 was free before; of the sequence the last goes next.
  Blocks other;
  REQUIRE(pool.allocate(2, other));
  CHECK(other == Blocks{3, 2});
  CHECK(pool.evictions() == 1);
  CHECK(found(pool, {1, 2, 3}, 9) == Blocks{0, 1});
  // A prefix that is found counts against what is free.
  CHECK(pool.fits(found(pool, {1, 2}, 9), 0));
  CHECK_FALSE(pool.fits(found(pool, {1, 2}, 9), 1));
  CHECK_FALSE(pool.allocate(3, other));
  CHECK(other.size() == 2);
  pool.check();
}

TEST_CASE("of equal blocks the one filled first is found, then the next") {
  BlockPool pool(3, 1);
  Blocks sequence;
  REQUIRE(pool.allocate(2, sequence));
  pool.publish(sequence[0], 7);
  pool.publish(sequence[1], 7);
  CHECK(found(pool, {7}, 9) == Blocks{0});
  pool.release(Blocks{0});
  Blocks other;
  REQUIRE(pool.allocate(2, other));
  CHECK(found(pool, {7}, 9) == Blocks{1});
  pool.check();
}

TEST_CASE("hashes chain") {
  const std::vector<std::uint32_t> a = {1, 2, 3};
  const std::vector<std::uint32_t> b = {1, 2, 4};
  CHECK(sim::chain_hash(0, a) == sim::chain_hash(0, a));
  CHECK(sim::chain_hash(0, a) != sim::chain_hash(0, b));
  CHECK(sim::chain_hash(sim::chain_hash(0, b), a) != sim::chain_hash(0, a));
}

TEST_CASE("random sequences agree with a plain queue, and blocks are conserved") {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    std::mt19937_64 generator(seed);
    const auto count = static_cast<BlockId>(5 + generator() % 40);
    BlockPool pool(count, 2);
    SlowPool slow(count);
    std::vector<Blocks> running;
    for (int step = 0; step < 2000; ++step) {
      if (generator() % 2 == 0 && !running.empty()) {
        const std::size_t which = generator() % running.size();
        pool.release(running[which]);
        slow.release(running[which]);
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(which));
      } else {
        // Few different prompts, so that prefixes are met again.
        const std::uint64_t tokens = 1 + generator() % 16;
        std::vector<BlockHash> hashes;
        BlockHash hash = 0;
        for (std::uint64_t i = 0; i < tokens / 2; ++i) {
          hashes.push_back(hash = sim::chain_hash(hash, std::vector{static_cast<std::uint32_t>(generator() % 2)}));
        }
        Blocks sequence = found(pool, hashes, tokens);
        REQUIRE(sequence == slow.find(hashes, (tokens - 1) / 2));
        const std::size_t cached = sequence.size();
        const std::size_t wanted = pool.blocks_for(tokens) - cached;
        const auto free_in_prefix =
            std::count_if(sequence.begin(), sequence.end(), [&](BlockId block) { return slow.references[block] == 0; });
        const bool fits = slow.queue.size() >= wanted + static_cast<std::size_t>(free_in_prefix);
        REQUIRE(pool.fits(sequence, wanted) == fits);
        if (!fits) continue;
        pool.acquire(sequence);
        slow.acquire(sequence);
        REQUIRE(pool.allocate(wanted, sequence));
        for (std::size_t i = cached; i < sequence.size(); ++i) REQUIRE(sequence[i] == slow.allocate());
        for (std::size_t i = cached; i < hashes.size(); ++i) {
          pool.publish(sequence[i], hashes[i]);
          slow.cached[hashes[i]].push_back(sequence[i]);
        }
        running.push_back(sequence);
      }
      pool.check();
      REQUIRE(pool.free_blocks() == slow.queue.size());
    }
  }
}

TEST_CASE("misuse is refused") {
  CHECK_THROWS_AS(BlockPool(0, 16), Error);
  CHECK_THROWS_AS(BlockPool(4, 0), Error);
  BlockPool pool(2, 1);
  CHECK_THROWS_AS(pool.release(Blocks{0}), std::logic_error);
  CHECK_THROWS_AS(pool.publish(0, 1), std::logic_error);
  Blocks sequence;
  REQUIRE(pool.allocate(1, sequence));
  pool.publish(sequence[0], 1);
  CHECK_THROWS_AS(pool.publish(sequence[0], 2), std::logic_error);
}
