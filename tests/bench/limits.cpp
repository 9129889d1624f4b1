#include "tests/bench/limits.h"

#include <fstream>
#include <vector>

#ifdef EVICTSIM_HAS_OPENBLAS
#include <cblas.h>
#endif

namespace evictsim::bench {

double sgemm_flops(models::Index m, models::Index n, models::Index k) {
  const models::Matrix a = models::Matrix::Random(m, k);
  const models::Matrix b = models::Matrix::Random(k, n);
  models::Matrix c(m, n);
  double seconds = fastest(20, [&] { c.noalias() = a * b; });
#ifdef EVICTSIM_HAS_OPENBLAS
  openblas_set_num_threads(1);
  seconds = std::min(seconds, fastest(20, [&] {
                       cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<blasint>(m),
                                   static_cast<blasint>(n), static_cast<blasint>(k), 1.0F, a.data(),
                                   static_cast<blasint>(k), b.data(), static_cast<blasint>(n), 0.0F, c.data(),
                                   static_cast<blasint>(n));
                     }));
#endif
  return 2.0 * static_cast<double>(m * n * k) / seconds;
}

double plain_read_bytes_per_second(const std::filesystem::path& file) {
  std::vector<char> buffer(std::size_t{1} << 20U);
  const auto bytes = static_cast<double>(std::filesystem::file_size(file));
  return bytes / fastest(5, [&] {
           std::ifstream stream(file, std::ios::binary);
           while (stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || stream.gcount() > 0) {
           }
         });
}

}  // namespace evictsim::bench
