#include "policies/random_matrix.h"

#include <cmath>

namespace evictsim::policies {

models::MatrixDouble normal_matrix(std::mt19937_64& generator, models::Index rows, models::Index columns) {
  constexpr double two_pi = 6.283185307179586;
  models::MatrixDouble drawn(rows, columns);
  for (models::Index i = 0; i < drawn.size(); ++i) {
    const double radius = (static_cast<double>(generator() >> 11U) + 0.5) * 0x1p-53;
    const double angle = static_cast<double>(generator() >> 11U) * 0x1p-53;
    drawn.data()[i] = std::sqrt(-2.0 * std::log(radius)) * std::cos(two_pi * angle);
  }
  return drawn;
}

}  // namespace evictsim::policies
