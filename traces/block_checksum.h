#pragma once
/// \file
/// The checksum of shards, which can be taken while a file is written, piece by piece and from several threads.
/// Internal to traces/; docs/trace-format.md, "Many files", defines it.

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

struct evp_cipher_ctx_st;

namespace evictsim::traces {

/// A file is tagged in blocks of this many bytes; the last one may be shorter.
inline constexpr std::size_t checksum_block = std::size_t{64} << 10;
/// What such a checksum begins with; 64 hexadecimal digits follow.
inline constexpr const char* block_checksum_prefix = "gmac-64k:";

using BlockTag = std::array<unsigned char, 16>;

/// Tags one block after the other. One per thread.
class BlockTagger {
 public:
  /// Throws Error(unsupported) when OpenSSL has no AES-128-GCM.
  BlockTagger();
  BlockTagger(const BlockTagger&) = delete;
  BlockTagger& operator=(const BlockTagger&) = delete;
  ~BlockTagger();
  /// GMAC (NIST SP 800-38D) of the bytes, under a key and a nonce of zeros.
  BlockTag operator()(std::span<const std::byte> block);

 private:
  std::unique_ptr<evp_cipher_ctx_st, void (*)(evp_cipher_ctx_st*)> context_;
};

/// The tags of a file that is being written. Blocks that were written in one piece are tagged from memory; the others
/// are read when the file is complete. Members may be called from several threads.
class BlockLedger {
 public:
  /// These bytes are about to be replaced.
  void forget(std::uint64_t address, std::uint64_t size);
  /// They have been replaced by `bytes`. Nothing else may write there meanwhile.
  void wrote(std::uint64_t address, std::span<const std::byte> bytes);
  /// The checksum of the complete file; reads what has no tag. Throws Error(io_failure and the like).
  std::string checksum(const std::filesystem::path& path);

 private:
  std::mutex mutex_;
  std::vector<std::optional<BlockTag>> tags_;
};

}  // namespace evictsim::traces
