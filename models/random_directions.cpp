#include "models/random_directions.h"

#include <cmath>
#include <numbers>
#include <string>

#include <Eigen/QR>

#include "traces/error.h"

namespace evictsim::models {
namespace {

/// SplitMix64 (Steele, Lea, Flood 2014): any seed gives a good stream.
class UniformStream {
 public:
  explicit UniformStream(std::uint64_t seed) : state_(seed) {}
  /// In (0, 1).
  double next() {
    state_ += 0x9e3779b97f4a7c15U;
    std::uint64_t bits = state_;
    bits = (bits ^ (bits >> 30U)) * 0xbf58476d1ce4e5b9U;
    bits = (bits ^ (bits >> 27U)) * 0x94d049bb133111ebU;
    bits ^= bits >> 31U;
    return (static_cast<double>(bits >> 11U) + 0.5) * 0x1p-53;
  }

 private:
  std::uint64_t state_;
};

}  // namespace

Matrix random_directions(Index count, Index dimensions, std::uint64_t seed) {
  if (count < 1 || dimensions < 1) {
    throw Error(ErrorCode::invalid_argument, "directions and dimensions must be positive",
                {.parameter = "directions", .value = std::to_string(count)});
  }
  if (count >= dimensions) return Matrix::Identity(dimensions, dimensions);
  UniformStream random(seed);
  Eigen::MatrixXd normal(dimensions, count);
  for (Index column = 0; column < count; ++column) {
    for (Index row = 0; row < dimensions; ++row) {  // Box and Muller
      const double radius = std::sqrt(-2 * std::log(random.next()));
      normal(row, column) = radius * std::cos(2 * std::numbers::pi * random.next());
    }
  }
  const Eigen::HouseholderQR<Eigen::MatrixXd> factors(normal);
  const Eigen::MatrixXd basis = factors.householderQ() * Eigen::MatrixXd::Identity(dimensions, count);
  const double scale = std::sqrt(static_cast<double>(dimensions) / static_cast<double>(count));
  return (basis.transpose() * scale).cast<float>();
}

}  // namespace evictsim::models
