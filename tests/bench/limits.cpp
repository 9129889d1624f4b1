#include "tests/bench/limits.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <random>
#include <stdexcept>
#include <vector>

#include "traces/half.h"

#ifdef EVICTSIM_HAS_OPENBLAS
#include <cblas.h>
#endif

namespace evictsim::bench {
namespace {

/// Reads the file front to back in pieces of 1 MiB, which go to `memory_size` bytes of memory in turn.
double read_bytes_per_second(const std::filesystem::path& file, std::size_t memory_size) {
  constexpr std::size_t piece = std::size_t{1} << 20U;
  const std::size_t size = std::filesystem::file_size(file);
  std::vector<char> memory(memory_size, 1);
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw std::runtime_error("cannot open " + file.string());
  std::size_t total = 0;
  const double seconds = fastest(25, [&] {
    ::lseek(descriptor, 0, SEEK_SET);
    std::size_t place = 0;
    for (total = 0; total < size;) {
      if (place == memory_size) place = 0;
      const ssize_t count = ::read(descriptor, memory.data() + place, std::min(piece, memory_size - place));
      if (count <= 0) break;
      place += static_cast<std::size_t>(count);
      total += static_cast<std::size_t>(count);
    }
  });
  ::close(descriptor);
  if (total != size) throw std::runtime_error("cannot read " + file.string());
  return static_cast<double>(size) / seconds;
}

}  // namespace

double sgemm_flops(models::Index m, models::Index n, models::Index k) {
  const models::Matrix a = models::Matrix::Random(m, k);
  const models::Matrix b = models::Matrix::Random(k, n);
  models::Matrix c(m, n);
  double seconds = fastest(20, [&] { c.noalias() = a * b; });
#ifdef EVICTSIM_HAS_OPENBLAS
  openblas_set_num_threads(1);
  seconds =
      std::min(seconds, fastest(20, [&] {
                 cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<blasint>(m),
                             static_cast<blasint>(n), static_cast<blasint>(k), 1.0F, a.data(), static_cast<blasint>(k),
                             b.data(), static_cast<blasint>(n), 0.0F, c.data(), static_cast<blasint>(n));
               }));
#endif
  return 2.0 * static_cast<double>(m * n * k) / seconds;
}

double plain_read_bytes_per_second(const std::filesystem::path& file) {
  return read_bytes_per_second(file, std::filesystem::file_size(file));
}

double scratch_read_bytes_per_second(const std::filesystem::path& file) {
  return read_bytes_per_second(file, std::size_t{1} << 20U);
}

double inflate_bytes_per_second() {
  constexpr std::size_t count = std::size_t{1} << 18U;
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<Bytef> planes(2 * count);
  for (std::size_t item = 0; item < count; ++item) {
    const unsigned bits = traces::float_to_half(normal(generator));
    planes[item] = static_cast<Bytef>(bits & 0xffU);
    planes[count + item] = static_cast<Bytef>(bits >> 8U);
  }
  uLongf stored = ::compressBound(planes.size());
  std::vector<Bytef> deflated(stored);
  if (::compress2(deflated.data(), &stored, planes.data(), planes.size(), 1) != Z_OK) {
    throw std::runtime_error("zlib cannot deflate");
  }
  return static_cast<double>(stored) / fastest(50, [&] {
           uLongf size = planes.size();
           ::uncompress(planes.data(), &size, deflated.data(), stored);
         });
}

}  // namespace evictsim::bench
