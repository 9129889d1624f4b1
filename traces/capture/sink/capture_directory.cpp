#include "traces/capture/sink/capture_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "traces/checksum.h"
#include "traces/manifest.h"
#include "traces/model_record.h"

namespace evictsim::traces::capture {
namespace {

constexpr std::string_view shard_prefix = "shard-", shard_suffix = ".h5";

const std::filesystem::path& created(const std::filesystem::path& path) {
  if (path.empty()) {
    throw Error(ErrorCode::invalid_argument, "must name a directory",
                {.file = {}, .dataset = {}, .parameter = "directory", .value = {}});
  }
  if (::mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) throw system_error(errno, path, "create the directory");
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    throw Error(ErrorCode::invalid_argument, "is no directory; a capture writes shards into one",
                {.file = path.string()});
  }
  return path;
}

/// The number in a shard's name.
std::optional<int> number_of(const std::string& name) {
  if (!name.starts_with(shard_prefix) || !name.ends_with(shard_suffix)) return std::nullopt;
  int number = 0;
  const char* begin = name.data() + shard_prefix.size();
  const char* end = name.data() + name.size() - shard_suffix.size();
  const auto [rest, failure] = std::from_chars(begin, end, number);
  if (failure != std::errc{} || rest != end || number < 0) return std::nullopt;
  return number;
}

/// A sealed model record that is not in the manifest: its name says what it must hold.
Shard describe_record(const std::filesystem::path& file) {
  const std::string checksum = shard_checksum(file);
  if (model_record_name(checksum) != file.filename()) {
    throw Error(ErrorCode::checksum_mismatch, "altered: its name is not the one that its contents give",
                {.file = file.string()});
  }
  return {
      .name = file.filename().string(), .bytes = readable_file_size(file), .checksum = checksum, .model_record = true};
}

std::vector<std::string> names_in(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  std::error_code failure;
  for (auto entry = std::filesystem::directory_iterator(directory, failure);
       !failure && entry != std::filesystem::directory_iterator(); entry.increment(failure)) {
    names.push_back(entry->path().filename().string());
  }
  if (failure) throw system_error(failure.value(), directory, "read the directory");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

CaptureDirectory::CaptureDirectory(std::filesystem::path path, const CaptureOptions& options)
    : path_(std::move(path)), single_file_(options.single_file) {
  if (single_file_) return;
  directory_.emplace(created(path_), O_RDONLY | O_DIRECTORY, "open the directory");
  if (::flock(directory_->get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) throw system_error(errno, path_, "lock the directory");
    throw Error(ErrorCode::invalid_argument, "another capture writes into this directory; give each its own",
                {.file = path_.string()});
  }
  if (::access(path_.c_str(), W_OK | X_OK) != 0) throw system_error(errno, path_, "write into the directory");
  remove_unsealed();
  repair_manifest();
  adopt_sealed(options.check_contents);
}

std::filesystem::path CaptureDirectory::next_shard() {
  if (single_file_) return path_;
  return path_ / fmt::format("{}{:06}{}", shard_prefix, next_++, shard_suffix);
}

void CaptureDirectory::remove_unsealed() const {
  for (const std::string& name : names_in(path_)) {
    const bool ours = name.starts_with("." + std::string(shard_prefix)) || name.starts_with(".weights.");
    if (!ours || !name.ends_with(".partial")) continue;
    std::error_code failure;
    std::filesystem::remove(path_ / name, failure);
    if (failure) throw system_error(failure.value(), path_ / name, "remove what a killed capture left");
  }
}

void CaptureDirectory::repair_manifest() const {
  const std::filesystem::path manifest = path_ / manifest_name;
  std::error_code ignored;
  if (!std::filesystem::exists(manifest, ignored)) return;
  std::ifstream stream(manifest, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const std::size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
  if (whole == text.size()) return;
  const FileDescriptor file(manifest, O_WRONLY, "repair the manifest");
  if (::ftruncate(file.get(), static_cast<off_t>(whole)) != 0 || ::fsync(file.get()) != 0) {
    throw system_error(errno, manifest, "repair the manifest");
  }
}

void CaptureDirectory::adopt_sealed(bool check_contents) {
  const std::filesystem::path manifest = path_ / manifest_name;
  const auto check = check_contents ? check_shard : check_shard_size;
  std::set<std::string> known;
  std::error_code ignored;
  if (std::filesystem::exists(manifest, ignored)) {
    const Manifest named = read_manifest(path_);
    for (const auto& list : {named.model_records, named.shards}) {
      for (const Shard& sealed : list) {
        check(path_, sealed);
        known.insert(sealed.name);
      }
    }
  }
  const std::vector<std::string> names = names_in(path_);
  // First what shards may link to.
  for (const std::string& name : names) {
    if (is_model_record_name(name) && !known.contains(name)) append_to_manifest(path_, describe_record(path_ / name));
  }
  for (const std::string& name : names) {
    const std::optional<int> number = number_of(name);
    if (!number) continue;
    next_ = std::max(next_, *number + 1);
    if (!known.contains(name)) append_to_manifest(path_, describe_shard(path_ / name));
  }
}

}  // namespace evictsim::traces::capture
