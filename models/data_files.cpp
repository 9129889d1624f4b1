#include "models/data_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <set>
#include <sstream>

#include "traces/error.h"

namespace evictsim::models {
namespace fs = std::filesystem;

std::vector<fs::path> data_directories() {
  std::vector<fs::path> directories;
  if (const char* const given = std::getenv("EVICTSIM_DATA")) {  // NOLINT(concurrency-mt-unsafe): nobody sets it
    std::istringstream list(given);
    for (std::string directory; std::getline(list, directory, ':');) {
      if (!directory.empty()) directories.emplace_back(directory);
    }
  }
  std::error_code failure;
  const fs::path program = fs::read_symlink("/proc/self/exe", failure);
  if (!failure) directories.push_back(program.parent_path().parent_path() / "share/evictsim");
  directories.emplace_back(EVICTSIM_INSTALLED_DATA);
  return directories;
}

std::vector<std::string> data_names(const std::string& kind) {
  std::set<std::string> names;
  for (const fs::path& directory : data_directories()) {
    std::error_code failure;
    for (const auto& entry : fs::directory_iterator(directory / kind, failure)) {
      if (entry.path().extension() == ".json") names.insert(entry.path().stem().string());
    }
  }
  return {names.begin(), names.end()};
}

fs::path find_data_file(const std::string& kind, const std::string& name) {
  if (name.find('/') != std::string::npos || name.ends_with(".json")) return name;
  for (const fs::path& directory : data_directories()) {
    fs::path file = directory / kind / (name + ".json");
    std::error_code failure;
    if (fs::is_regular_file(file, failure)) return file;
  }
  const std::vector<std::string> names = data_names(kind);
  throw Error(ErrorCode::unknown_name,
              names.empty()
                  ? fmt::format("none is found; name a .json file, or a folder with {}/ in EVICTSIM_DATA", kind)
                  : fmt::format("known are {}; or name a .json file", fmt::join(names, ", ")),
              {.file = {}, .dataset = {}, .parameter = kind, .value = name});
}

}  // namespace evictsim::models
