#pragma once
/// \file
/// Norms, distances and cosines of rows, summed in double precision.

#include <cmath>
#include <cstddef>
#include <span>

namespace evictsim::traces::capture {

inline double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

inline double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return std::sqrt(sum);
}

inline double norm(std::span<const float> a) { return std::sqrt(dot(a, a)); }

/// Zero vectors have no direction; they count as unchanged.
inline double cosine(std::span<const float> a, std::span<const float> b) {
  const double norms = norm(a) * norm(b);
  return norms == 0 ? 1.0 : dot(a, b) / norms;
}

}  // namespace evictsim::traces::capture
