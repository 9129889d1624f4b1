#pragma once
/// \file
/// Pages of entries and the digest that Quest (arXiv 2406.10774) and ArkVale (NeurIPS 2024) search: the least and the
/// largest key of a page, component by component, which bound q.k for every key in it.

#include <cstdint>
#include <span>
#include <vector>

#include "models/matrix.h"

namespace evictsim::policies {

/// Pages of `page` consecutive entries of one cache head, the last one partly filled, and their digests.
class PageDigests {
 public:
  explicit PageDigests(models::Index page) : page_(page) {}

  /// Makes the pages those of `rows` with `keys` [seen, d] by token row. Rows that continue those of the last call are
  /// added, others make all pages anew. Answers whether they continued.
  bool cover(std::span<const std::int32_t> rows, const models::MatrixView& keys);

  [[nodiscard]] models::Index size() const { return (std::ssize(rows_) + page_ - 1) / page_; }
  [[nodiscard]] models::Index page() const { return page_; }
  /// Token rows of a page.
  [[nodiscard]] std::span<const std::int32_t> rows(models::Index page) const;
  /// sum_c max(q_c min_c, q_c max_c): at least q.k of every key of the page.
  [[nodiscard]] double bound(models::Index page, std::span<const float> query) const;
  /// Bounds of pages 0 .. count - 1.
  [[nodiscard]] std::vector<double> bounds(models::Index count, std::span<const float> query) const;
  /// Components of the digests: two keys a page.
  [[nodiscard]] models::Index components() const { return std::ssize(least_) + std::ssize(largest_); }

 private:
  models::Index page_;
  models::Index width_ = 0;
  std::vector<std::int32_t> rows_;
  std::vector<float> least_, largest_;  ///< [pages, d]
};

}  // namespace evictsim::policies
