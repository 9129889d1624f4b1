#include "traces/block_checksum.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "traces/checksum.h"
#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::traces {
namespace {

constexpr std::array<unsigned char, 16> key{};
constexpr std::array<unsigned char, 12> nonce{};

/// Fills `buffer` from the place of the file on. Throws when the file ends before.
void read_all(const FileDescriptor& file, const std::filesystem::path& path, std::uint64_t address,
              std::span<std::byte> buffer) {
  for (std::size_t done = 0; done < buffer.size();) {
    const ssize_t count =
        ::pread(file.get(), buffer.data() + done, buffer.size() - done, static_cast<off_t>(address + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw system_error(errno, path, "read the file");
    if (count == 0) throw Error(ErrorCode::io_failure, "became shorter while it was read", {.file = path.string()});
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace

BlockTagger::BlockTagger() : context_(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free) {
  if (!context_ || EVP_EncryptInit_ex(context_.get(), EVP_aes_128_gcm(), nullptr, key.data(), nonce.data()) != 1) {
    throw Error(ErrorCode::unsupported, "OpenSSL refuses AES-128-GCM, which the checksum of shards is made with");
  }
}

BlockTagger::~BlockTagger() = default;

BlockTag BlockTagger::operator()(std::span<const std::byte> block) {
  BlockTag tag;
  int ignored = 0;
  EVP_CIPHER_CTX* const context = context_.get();
  // Nothing is encrypted: the block is data that is only authenticated.
  if (EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()) != 1 ||
      EVP_EncryptUpdate(context, nullptr, &ignored, reinterpret_cast<const unsigned char*>(block.data()),
                        static_cast<int>(block.size())) != 1 ||
      EVP_EncryptFinal_ex(context, tag.data(), &ignored) != 1 ||
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, static_cast<int>(tag.size()), tag.data()) != 1) {
    throw Error(ErrorCode::unsupported, "OpenSSL cannot make a GMAC");
  }
  return tag;
}

void BlockLedger::forget(std::uint64_t address, std::uint64_t size) {
  if (size == 0) return;
  const std::lock_guard lock(mutex_);
  const auto end = static_cast<std::size_t>((address + size - 1) / checksum_block + 1);
  if (tags_.size() < end) tags_.resize(end);
  for (auto block = static_cast<std::size_t>(address / checksum_block); block < end; ++block) tags_[block].reset();
}

void BlockLedger::wrote(std::uint64_t address, std::span<const std::byte> bytes) {
  const std::uint64_t first = (address + checksum_block - 1) / checksum_block;
  const std::uint64_t end = (address + bytes.size()) / checksum_block;
  if (first >= end) return;
  thread_local BlockTagger tagger;
  std::vector<BlockTag> tags;
  for (std::uint64_t block = first; block < end; ++block) {
    tags.push_back(tagger(bytes.subspan(static_cast<std::size_t>(block * checksum_block - address), checksum_block)));
  }
  const std::lock_guard lock(mutex_);
  if (tags_.size() < end) tags_.resize(static_cast<std::size_t>(end));
  std::copy(tags.begin(), tags.end(), tags_.begin() + static_cast<std::ptrdiff_t>(first));
}

std::string BlockLedger::checksum(const std::filesystem::path& path) {
  const std::uint64_t size = readable_file_size(path);
  const FileDescriptor file(path, O_RDONLY, "read the file");
  const auto blocks = static_cast<std::size_t>((size + checksum_block - 1) / checksum_block);
  BlockTagger tagger;
  std::vector<std::byte> buffer;
  std::vector<unsigned char> list;
  list.reserve(blocks * sizeof(BlockTag));
  const std::lock_guard lock(mutex_);
  tags_.resize(blocks);
  for (std::size_t block = 0; block < blocks; ++block) {
    const std::uint64_t address = std::uint64_t{block} * checksum_block;
    if (!tags_[block] || address + checksum_block > size) {
      buffer.resize(static_cast<std::size_t>(std::min<std::uint64_t>(checksum_block, size - address)));
      read_all(file, path, address, buffer);
      tags_[block] = tagger(buffer);
    }
    list.insert(list.end(), tags_[block]->begin(), tags_[block]->end());
  }
  return block_checksum_prefix + sha256(std::as_bytes(std::span(list)));
}

}  // namespace evictsim::traces
