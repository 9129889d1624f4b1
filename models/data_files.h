#pragma once
/// \file
/// Where descriptions that come with evictsim as data are found when a program runs. Formats: docs/gpu.md.

#include <filesystem>
#include <string>
#include <vector>

namespace evictsim::models {

/// Folders that hold data, most important first: those in the environment variable EVICTSIM_DATA (':' between them),
/// `../share/evictsim` seen from the running program, and where this build is installed. They need not exist.
std::vector<std::filesystem::path> data_directories();

/// Names of the files `<directory>/<kind>/<name>.json`, ascending, each once.
std::vector<std::string> data_names(const std::string& kind);

/// The file of that name, from the first folder that has it. A `name` with '/' in it or '.json' behind it is a path
/// and is returned as it is. Throws Error (unknown_name), which lists the names that exist.
std::filesystem::path find_data_file(const std::string& kind, const std::string& name);

}  // namespace evictsim::models
