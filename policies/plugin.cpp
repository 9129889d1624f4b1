#define BOOST_DLL_USE_STD_FS

#include "policies/plugin.h"

#include <elf.h>
#include <fmt/format.h>

#include <boost/dll/shared_library.hpp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <string>

#include "policies/names.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr std::string_view mark = EVICTSIM_PLUGIN_MARK;
constexpr const char* abi_symbol = "evictsim_plugin_abi";
constexpr std::size_t longest_abi = 500;

[[noreturn]] void refuse(ErrorCode code, const std::filesystem::path& file, const std::string& what) {
  throw Error(code, what, {.file = file.string()});
}

/// Whether the bytes are an ELF file up to its end: the loader would fault on a cut one.
bool is_whole_object(const std::string& bytes) {
  Elf64_Ehdr header{};
  if (bytes.size() < sizeof header) return false;
  std::memcpy(&header, bytes.data(), sizeof header);
  const std::size_t end = header.e_shoff + std::size_t{header.e_shentsize} * header.e_shnum;
  return std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_ident[EI_CLASS] == ELFCLASS64 &&
         header.e_shoff <= bytes.size() && end <= bytes.size();
}

/// The ABI text in a shared object, read from the file: loading it would already run its code.
std::optional<std::string> abi_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) refuse(ErrorCode::permission_denied, file, "cannot be read");
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  if (!is_whole_object(bytes)) return std::nullopt;
  const std::size_t begin = bytes.find(mark);
  if (begin == std::string::npos) return std::nullopt;
  const std::string text = bytes.substr(begin, longest_abi);
  return text.substr(0, text.find('\0'));
}

void refuse_other_abi(const std::filesystem::path& file) {
  const std::optional<std::string> abi = abi_of(file);
  if (!abi) {
    refuse(ErrorCode::unsupported, file,
           "is no plug-in of evictsim; one is a whole shared object with EVICTSIM_PLUGIN of policies/plugin.h");
  }
  if (*abi != plugin_abi()) {
    refuse(ErrorCode::unsupported_version, file,
           fmt::format("was built for {}; this program takes {}; build it again against this version",
                       abi->substr(mark.size()), plugin_abi().substr(mark.size())));
  }
}

/// Plug-ins are never unloaded: the registry holds their functions until the program ends.
std::vector<boost::dll::shared_library>& loaded() {
  static auto* libraries = new std::vector<boost::dll::shared_library>();
  return *libraries;
}

}  // namespace

std::string_view plugin_abi() noexcept { return EVICTSIM_PLUGIN_ABI; }

void load_plugin(const std::filesystem::path& file) {
  static std::set<std::filesystem::path> known;
  std::error_code failure;
  const std::filesystem::path path = std::filesystem::canonical(file, failure);
  if (failure) refuse(ErrorCode::file_not_found, file, failure.message());
  if (known.contains(path)) return;
  if (!std::filesystem::is_regular_file(path)) refuse(ErrorCode::unsupported, file, "is not a regular file");
  refuse_other_abi(path);

  const std::size_t parts = registered_parts().size();
  boost::dll::shared_library library;
  std::string reason;
  const std::vector<std::string> refused = refused_registrations([&] {
    try {
      // Every symbol now: a missing one is an error here rather than in the middle of a replay.
      library.load(path, boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local);
    } catch (const std::exception& error) {
      reason = error.what();
    }
  });
  if (!reason.empty()) refuse(ErrorCode::unsupported, file, "cannot be loaded: " + reason);
  const bool complete = library.has(abi_symbol);
  loaded().push_back(std::move(library));
  if (!complete) refuse(ErrorCode::unsupported, file, fmt::format("does not export {}", abi_symbol));
  if (!refused.empty()) refuse(ErrorCode::invalid_argument, file, join(refused, "; "));
  if (registered_parts().size() == parts) refuse(ErrorCode::unsupported, file, "registers no part");
  known.insert(path);
}

}  // namespace evictsim::policies
