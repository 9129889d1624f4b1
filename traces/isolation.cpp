#include "traces/isolation.h"

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>

#include "traces/file_system.h"
#include "traces/hdf5_handle.h"

namespace evictsim::traces {
namespace {

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;

void limit(int resource, std::uint64_t value) {
  rlimit current{};
  if (::getrlimit(static_cast<__rlimit_resource>(resource), &current) != 0) return;
  current.rlim_cur = std::min<rlim_t>(value, current.rlim_max);
  ::setrlimit(static_cast<__rlimit_resource>(resource), &current);
}

std::uint64_t address_space_in_use() {
  unsigned long long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r"); file != nullptr) {
    if (std::fscanf(file, "%llu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

[[noreturn]] void run_child(int result, std::uint64_t file_size, const std::function<void()>& work) {
  hdf5::Guard::reset_after_fork();
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGXCPU}) std::signal(signal, SIG_DFL);
  // A crash here is an answer, not news: no core file, and no text from the C library or a sanitizer.
  if (const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC); null >= 0) {
    ::dup2(null, STDOUT_FILENO);
    ::dup2(null, STDERR_FILENO);
  }
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, 2 + file_size / (16 * mebibyte));
  limit(RLIMIT_AS, address_space_in_use() + 1024 * mebibyte + 4 * file_size);
  // Fresh and freed memory is filled, so that a use of it shows here.
  ::mallopt(M_PERTURB, 0xa5);  // NOLINT(concurrency-mt-unsafe): this process has one thread
  try {
    work();
  } catch (...) {  // A proper refusal: the caller will meet it again.
  }
  const char survived = 1;
  ::_exit(::write(result, &survived, 1) == 1 ? 0 : 1);
}

/// Whether the child reported before it ended. Ends it after `limit`.
bool await_report(int result, std::chrono::seconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd watched{result, POLLIN, 0};
    const int ready = ::poll(&watched, 1, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    char survived = 0;
    const ssize_t count = ::read(result, &survived, 1);
    if (count < 0 && errno == EINTR) continue;
    return count == 1;
  }
}

}  // namespace

void rehearse(const std::filesystem::path& file, std::uint64_t file_size, const std::function<void()>& work) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw system_error(errno, file, "start a process that checks the file");
  pid_t child = -1;
  {
    // No other thread is inside HDF5 while its state is copied.
    const hdf5::Guard guard;
    child = ::fork();
    if (child == 0) {
      ::close(ends[0]);
      run_child(ends[1], file_size, work);
    }
  }
  const int failure = errno;
  ::close(ends[1]);
  if (child < 0) {
    ::close(ends[0]);
    throw system_error(failure, file, "start a process that checks the file");
  }
  const bool survived = await_report(ends[0], std::chrono::seconds(60 + file_size / (16 * mebibyte)));
  ::close(ends[0]);
  if (!survived) ::kill(child, SIGKILL);
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (!survived) {
    throw Error(ErrorCode::not_a_trace, "damaged: the HDF5 library breaks down on it", {.file = file.string()});
  }
}

}  // namespace evictsim::traces
