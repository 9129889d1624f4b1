// Is the checksum of shards the one that the format defines, however a file was written, and does it notice changes?
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "traces/block_checksum.h"
#include "traces/checksum.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::traces;

namespace {

using Bytes = std::vector<std::byte>;
using Field = std::array<unsigned char, 16>;

// AES-128 of zeros, and of the counter 0...01, both under the zero key: test cases 1 and 2 of the GCM specification.
constexpr Field hash_key = {0x66, 0xe9, 0x4b, 0xd4, 0xef, 0x8a, 0x2c, 0x3b,
                            0x88, 0x4c, 0xfa, 0x59, 0xca, 0x34, 0x2b, 0x2e};
constexpr Field mask = {0x58, 0xe2, 0xfc, 0xce, 0xfa, 0x7e, 0x30, 0x61, 0x36, 0x7f, 0x1d, 0x57, 0xa4, 0xe7, 0x45, 0x5a};

/// a * b in GF(2^128) as GCM orders its bits.
Field product(const Field& a, Field b) {
  Field sum{};
  for (std::size_t bit = 0; bit < 128; ++bit) {
    if ((a[bit / 8] >> (7 - bit % 8) & 1) != 0) {
      for (std::size_t i = 0; i < 16; ++i) sum[i] = static_cast<unsigned char>(sum[i] ^ b[i]);
    }
    const bool carry = (b[15] & 1) != 0;
    for (std::size_t i = 16; i-- > 0;) {
      b[i] = static_cast<unsigned char>(b[i] >> 1 | (i > 0 ? (b[i - 1] & 1) << 7 : 0));
    }
    if (carry) b[0] = static_cast<unsigned char>(b[0] ^ 0xe1);
  }
  return sum;
}

/// GMAC by its definition, bit by bit.
BlockTag reference_tag(std::span<const std::byte> bytes) {
  Field state{};
  const auto absorb = [&](const Field& block) {
    for (std::size_t i = 0; i < 16; ++i) state[i] = static_cast<unsigned char>(state[i] ^ block[i]);
    state = product(state, hash_key);
  };
  for (std::size_t first = 0; first < bytes.size(); first += 16) {
    Field block{};
    for (std::size_t i = 0; i < std::min<std::size_t>(16, bytes.size() - first); ++i) {
      block[i] = static_cast<unsigned char>(bytes[first + i]);
    }
    absorb(block);
  }
  Field lengths{};
  const std::uint64_t bits = bytes.size() * 8;
  for (std::size_t i = 0; i < 8; ++i) lengths[i] = static_cast<unsigned char>(bits >> (56 - 8 * i));
  absorb(lengths);
  for (std::size_t i = 0; i < 16; ++i) state[i] = static_cast<unsigned char>(state[i] ^ mask[i]);
  return state;
}

Bytes random_bytes(std::size_t count, std::uint_fast32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

void write_file(const std::string& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace

TEST_CASE("a block's tag is GMAC") {
  BlockTagger tagger;
  CHECK(tagger({}) == mask);
  for (const std::size_t size : std::initializer_list<std::size_t>{1, 15, 16, 17, 1000, 65536}) {
    const Bytes bytes = random_bytes(size, size);
    CHECK(tagger(bytes) == reference_tag(bytes));
  }
}

TEST_CASE("a file's checksum is SHA-256 over the tags of its blocks") {
  const auto size = GENERATE(as<std::size_t>(), 0, 1, 65535, 65536, 65537, 200000);
  const Bytes bytes = random_bytes(size, 7);
  write_file("blocks.bin", bytes);
  Bytes tags;
  for (std::size_t first = 0; first < size; first += checksum_block) {
    const BlockTag tag = reference_tag(std::span(bytes).subspan(first, std::min(checksum_block, size - first)));
    for (const unsigned char byte : tag) tags.push_back(static_cast<std::byte>(byte));
  }
  CHECK(shard_checksum("blocks.bin") == "gmac-64k:" + sha256(tags));
  CHECK(has_checksum("blocks.bin", shard_checksum("blocks.bin")));
  CHECK(has_checksum("blocks.bin", file_checksum("blocks.bin")));
}

TEST_CASE("it does not matter in which pieces a file was written") {
  std::mt19937 random(11);
  for (int round = 0; round < 20; ++round) {
    Bytes bytes = random_bytes(600000 + random() % 100000, random());
    BlockLedger ledger;
    for (int piece = 0; piece < 30; ++piece) {
      const std::size_t first = random() % bytes.size();
      const std::size_t count = std::min<std::size_t>(bytes.size() - first, 1 + random() % 300000);
      const Bytes fresh = random_bytes(count, random());
      std::copy(fresh.begin(), fresh.end(), bytes.begin() + static_cast<std::ptrdiff_t>(first));
      ledger.forget(first, count);
      // Every third piece is one that the ledger only hears has changed.
      if (piece % 3 != 0) ledger.wrote(first, fresh);
    }
    bytes.resize(bytes.size() - random() % 200000);
    write_file("pieces.bin", bytes);
    CHECK(ledger.checksum("pieces.bin") == shard_checksum("pieces.bin"));
  }
}

TEST_CASE("whatever is changed, the checksum is another one") {
  const Bytes bytes = random_bytes(150000, 3);
  write_file("whole.bin", bytes);
  const std::string whole = shard_checksum("whole.bin");
  const auto differs = [&](const Bytes& changed) {
    write_file("changed.bin", changed);
    return !has_checksum("changed.bin", whole);
  };
  for (const std::size_t place : std::initializer_list<std::size_t>{0, 65535, 65536, 131071, 149999}) {
    Bytes changed = bytes;
    changed[place] ^= std::byte{4};
    CHECK(differs(changed));
  }
  Bytes swapped = bytes;
  std::swap_ranges(swapped.begin(), swapped.begin() + checksum_block, swapped.begin() + checksum_block);
  CHECK(differs(swapped));
  Bytes torn = bytes;
  std::fill(torn.begin() + 100000, torn.end(), std::byte{});
  CHECK(differs(torn));
  CHECK(differs({bytes.begin(), bytes.end() - 1}));
  Bytes longer = bytes;
  longer.push_back({});
  CHECK(differs(longer));
}

TEST_CASE("a checksum of an unknown kind is no silent success") {
  write_file("kind.bin", random_bytes(10, 1));
  for (const std::string& checksum : {std::string("crc:00"), std::string(), std::string(63, 'a')}) {
    try {
      static_cast<void>(has_checksum("kind.bin", checksum));
      FAIL("nothing was thrown");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::unsupported);
    }
  }
}
