#include "analysis/quantiles.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace evictsim::analysis {
namespace {

// float32 has 23 fraction bits; keeping 9 of them makes 512 bins per power of two.
constexpr std::uint32_t dropped_bits = 14;

std::uint32_t bits_of(float value) { return value <= 0 ? 0U : std::bit_cast<std::uint32_t>(value) & 0x7fffffffU; }

}  // namespace

void Quantiles::add(std::span<const float> values) {
  for (const float value : values) {
    const std::uint32_t bits = bits_of(value);
    if (++count_ <= exact_limit) {
      exact_.push_back(bits);
      continue;
    }
    for (const std::uint32_t earlier : exact_) count_in_bin(earlier);
    if (!exact_.empty()) exact_ = {};
    count_in_bin(bits);
  }
}

void Quantiles::count_in_bin(std::uint32_t bits) {
  const std::uint32_t bin = bits >> dropped_bits;
  if (bins_.empty()) first_bin_ = bin;
  if (bin < first_bin_) {
    bins_.insert(bins_.begin(), first_bin_ - bin, 0);
    first_bin_ = bin;
  }
  if (bin - first_bin_ >= bins_.size()) bins_.resize(bin - first_bin_ + 1, 0);
  ++bins_[bin - first_bin_];
}

double Quantiles::order_statistic(std::uint64_t rank) const {
  if (!exact_.empty()) {
    const auto place = exact_.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(exact_.begin(), place, exact_.end());
    return std::bit_cast<float>(*place);
  }
  std::uint64_t seen = 0;
  for (std::size_t index = 0; index < bins_.size(); ++index) {
    seen += bins_[index];
    if (seen <= rank) continue;
    const std::uint32_t bin = first_bin_ + static_cast<std::uint32_t>(index);
    const auto edge = [](std::uint32_t of) { return double{std::bit_cast<float>(of << dropped_bits)}; };
    return bin == 0 || !std::isfinite(edge(bin + 1)) ? edge(bin) : (edge(bin) + edge(bin + 1)) / 2;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

double Quantiles::at(double share) const {
  if (count_ == 0) return std::numeric_limits<double>::quiet_NaN();
  const double place = share * static_cast<double>(count_ - 1);
  const auto rank = static_cast<std::uint64_t>(place);
  const double below = order_statistic(rank);
  const double part = place - static_cast<double>(rank);
  return part == 0 ? below : below + part * (order_statistic(std::min(rank + 1, count_ - 1)) - below);
}

}  // namespace evictsim::analysis
