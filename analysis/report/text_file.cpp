#include "analysis/report/text_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "traces/error.h"
#include "traces/file_system.h"

namespace evictsim::analysis {

void write_text_file(const std::filesystem::path& path, std::string_view text) {
  traces::require_replaceable(path);
  const std::filesystem::path temporary = path.string() + ".partial";
  try {
    const traces::FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, "create the file");
    while (!text.empty()) {
      const ssize_t written = ::write(file.get(), text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) throw traces::system_error(errno, path, "write the file");
      text.remove_prefix(static_cast<std::size_t>(written));
    }
    traces::sync_to_disk(temporary);
    std::filesystem::rename(temporary, path);
  } catch (const Error& problem) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw Error(problem.code(), problem.message(), {.file = path.string()});
  } catch (const std::filesystem::filesystem_error& problem) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw traces::system_error(problem.code().value(), path, "rename the finished file");
  }
}

}  // namespace evictsim::analysis
