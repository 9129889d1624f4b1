#include "traces/checksum.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <vector>

#include "traces/block_checksum.h"
#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::traces {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
      throw Error(ErrorCode::unsupported, "OpenSSL refuses SHA-256");
    }
  }
  void add(const void* bytes, std::size_t count) { EVP_DigestUpdate(context_.get(), bytes, count); }
  [[nodiscard]] std::string digits() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int length = 0;
    EVP_DigestFinal_ex(context_.get(), digest.data(), &length);
    std::string text;
    constexpr const char* hexadecimal = "0123456789abcdef";
    for (unsigned int index = 0; index < length; ++index) {
      text += hexadecimal[digest[index] >> 4];
      text += hexadecimal[digest[index] & 15];
    }
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

bool is_sha256(const std::string& checksum) {
  return checksum.size() == 64 && checksum.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

std::string sha256(std::span<const std::byte> bytes) {
  Sha256 sum;
  sum.add(bytes.data(), bytes.size());
  return sum.digits();
}

std::string file_checksum(const std::filesystem::path& path) {
  const FileDescriptor file(path, O_RDONLY, "read the file");
  Sha256 sum;
  std::vector<unsigned char> buffer(std::size_t{1} << 20);
  for (;;) {
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw system_error(errno, path, "read the file");
    if (count == 0) return sum.digits();
    sum.add(buffer.data(), static_cast<std::size_t>(count));
  }
}

std::string shard_checksum(const std::filesystem::path& path) { return BlockLedger().checksum(path); }

bool has_checksum(const std::filesystem::path& path, const std::string& checksum) {
  if (checksum.starts_with(block_checksum_prefix)) return shard_checksum(path) == checksum;
  if (is_sha256(checksum)) return file_checksum(path) == checksum;
  throw Error(ErrorCode::unsupported, "the manifest's checksum is of a kind that this version does not know",
              {.file = path.string(), .dataset = {}, .parameter = "checksum", .value = checksum.substr(0, 80)});
}

}  // namespace evictsim::traces
