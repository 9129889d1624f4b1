#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>

#include "analysis/report/page/page.h"
#include "analysis/report/page/page_parts.h"
#include "traces/error.h"

extern char** environ;

namespace evictsim::analysis {

namespace {

namespace fs = std::filesystem;

constexpr mode_t ours_alone = 0600;

/// A folder of our own that goes with this object.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (fs::temp_directory_path() / "evictsim-report-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw Error(ErrorCode::io_failure, std::string("no temporary folder can be made: ") + std::strerror(errno),
                  {.file = name});
    }
    path_ = name;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  [[nodiscard]] fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

void write_text(const fs::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw Error(ErrorCode::io_failure, "a temporary file cannot be written", {.file = path.string()});
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Redirections of a child process.
class FileActions {
 public:
  FileActions() { ::posix_spawn_file_actions_init(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }

  void open(int descriptor, const fs::path& path, int flags) {
    ::posix_spawn_file_actions_addopen(&actions_, descriptor, path.c_str(), flags, ours_alone);
  }
  [[nodiscard]] const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

/// Runs `node script`; its exit status.
int run_node(const fs::path& script, const fs::path& input, const fs::path& output, const fs::path& errors) {
  FileActions files;
  files.open(STDIN_FILENO, input, O_RDONLY);
  files.open(STDOUT_FILENO, output, O_WRONLY | O_CREAT | O_TRUNC);
  files.open(STDERR_FILENO, errors, O_WRONLY | O_CREAT | O_TRUNC);
  std::string program = "node";
  std::string argument = script.string();
  char* const arguments[] = {program.data(), argument.data(), nullptr};
  pid_t child = 0;
  const int failure = ::posix_spawnp(&child, "node", files.get(), nullptr, arguments, environ);
  if (failure != 0) {
    throw Error(ErrorCode::unsupported,
                std::string("figures are drawn by the program node, which cannot be started (") +
                    std::strerror(failure) + "): install Debian's nodejs");
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw Error(ErrorCode::io_failure, std::string("node was lost: ") + std::strerror(errno));
  }
  return status;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> report_figures(const std::string& json) {
  const ScratchFolder scratch;
  write_text(scratch / "figures.js", page_parts::figures_script);
  write_text(scratch / "report.json", json);
  const int status =
      run_node(scratch / "figures.js", scratch / "report.json", scratch / "drawn.json", scratch / "errors");
  if (status != 0) {
    const std::string errors = read_text(scratch / "errors");
    throw Error(ErrorCode::invalid_value,
                "node could not draw the report's figures: " +
                    (errors.empty() ? "it said nothing" : errors.substr(0, errors.find('\n'))));
  }
  const auto drawn = nlohmann::ordered_json::parse(read_text(scratch / "drawn.json"), nullptr, false);
  if (!drawn.is_object()) throw Error(ErrorCode::invalid_value, "node did not write the report's figures");
  std::vector<std::pair<std::string, std::string>> figures;
  for (const auto& [name, text] : drawn.items()) figures.emplace_back(name, text.get<std::string>());
  return figures;
}

}  // namespace evictsim::analysis
