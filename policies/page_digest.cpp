#include "policies/page_digest.h"

#include <algorithm>

namespace evictsim::policies {

using models::Index;

bool PageDigests::cover(std::span<const std::int32_t> rows, const models::MatrixView& keys) {
  const bool continues = rows.size() >= rows_.size() && std::equal(rows_.begin(), rows_.end(), rows.begin());
  if (!continues) {
    rows_.clear();
    least_.clear();
    largest_.clear();
  }
  width_ = keys.cols();
  for (const std::int32_t row : rows.subspan(rows_.size())) {
    const float* key = keys.data() + row * keys.outerStride();
    if (std::ssize(rows_) % page_ == 0) {
      least_.insert(least_.end(), key, key + width_);
      largest_.insert(largest_.end(), key, key + width_);
    } else {
      float* least = least_.data() + (std::ssize(least_) - width_);
      float* largest = largest_.data() + (std::ssize(largest_) - width_);
      for (Index c = 0; c < width_; ++c) {
        least[c] = std::min(least[c], key[c]);
        largest[c] = std::max(largest[c], key[c]);
      }
    }
    rows_.push_back(row);
  }
  return continues;
}

std::span<const std::int32_t> PageDigests::rows(Index page) const {
  const Index begin = page * page_;
  const Index count = std::min(page_, std::ssize(rows_) - begin);
  return std::span(rows_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
}

double PageDigests::bound(Index page, std::span<const float> query) const {
  const float* least = least_.data() + page * width_;
  const float* largest = largest_.data() + page * width_;
  double sum = 0;
  for (std::size_t c = 0; c < query.size(); ++c) {
    const auto component = static_cast<double>(query[c]);
    sum += std::max(component * static_cast<double>(least[c]), component * static_cast<double>(largest[c]));
  }
  return sum;
}

std::vector<double> PageDigests::bounds(Index count, std::span<const float> query) const {
  std::vector<double> all(static_cast<std::size_t>(count));
  for (Index page = 0; page < count; ++page) all[static_cast<std::size_t>(page)] = bound(page, query);
  return all;
}

}  // namespace evictsim::policies
