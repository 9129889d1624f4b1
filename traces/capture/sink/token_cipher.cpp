#include "traces/capture/sink/token_cipher.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <array>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

/// SHA-256 of the key and a counter, block after block: numbers that cannot be told without the key.
class KeyStream {
 public:
  explicit KeyStream(std::string key) : key_(std::move(key)) {}

  std::uint64_t next() {
    if (used_ == block_.size()) refill();
    std::uint64_t number = 0;
    for (std::size_t byte = 0; byte < sizeof number; ++byte) number = number << 8 | block_[used_++];
    return number;
  }

  /// Uniform in [0, bound).
  std::uint64_t below(std::uint64_t bound) {
    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    const std::uint64_t limit = most - most % bound;
    for (;;) {
      const std::uint64_t number = next();
      if (number < limit) return number % bound;
    }
  }

 private:
  void refill() {
    const std::string text = "evictsim token ids " + std::to_string(counter_++) + " " + key_;
    unsigned int size = 0;
    if (EVP_Digest(text.data(), text.size(), block_.data(), &size, EVP_sha256(), nullptr) != 1) {
      throw Error(ErrorCode::unsupported, "OpenSSL refuses SHA-256");
    }
    used_ = 0;
  }

  std::string key_;
  std::uint64_t counter_ = 0;
  std::array<unsigned char, 32> block_{};
  std::size_t used_ = 32;
};

std::string random_key() {
  std::array<unsigned char, 32> bytes{};
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
    throw Error(ErrorCode::unsupported, "the system gives no random numbers; give token_key");
  }
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

TokenCipher::TokenCipher(const std::string& key, int vocabulary) : table_(static_cast<std::size_t>(vocabulary)) {
  std::iota(table_.begin(), table_.end(), 0);
  KeyStream stream(key.empty() ? random_key() : key);
  for (std::size_t left = table_.size(); left > 1; --left) {
    std::swap(table_[left - 1], table_[static_cast<std::size_t>(stream.below(left))]);
  }
}

}  // namespace evictsim::traces::capture
