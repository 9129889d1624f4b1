#pragma once
/// \file
/// Writes the Trace Event Format that Perfetto and chrome://tracing show (Google, "Trace Event Format").

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace evictsim::analysis {

/// `text` as a JSON string, with its quotes; what is not valid UTF-8 becomes U+FFFD.
std::string json_string(const std::string& text);

/// One file of events, in the order of their times. Times are nanoseconds. `arguments` are members of a JSON object,
/// without its braces. Holds all events until `finish`.
class TraceEvents {
 public:
  /// Creates the file. Throws Error(permission_denied, file_not_found, io_failure).
  explicit TraceEvents(const std::filesystem::path& path);

  void name_process(int process, const std::string& name);
  void name_track(int process, int track, const std::string& name);
  void span(const std::string& name, int process, int track, std::int64_t begin, std::int64_t end,
            const std::string& arguments);
  void instant(const std::string& name, int process, int track, std::int64_t time, const std::string& arguments);
  /// Every argument is a number: one curve each.
  void counter(const std::string& name, int process, std::int64_t time, const std::string& arguments);
  /// Throws Error(io_failure) when the file cannot be written.
  void finish();

 private:
  std::filesystem::path path_;
  std::ofstream stream_;
  std::vector<std::string> names_;                            ///< metadata, without braces
  std::vector<std::pair<std::int64_t, std::string>> events_;  ///< time and fields
};

}  // namespace evictsim::analysis
