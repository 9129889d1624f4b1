#pragma once
/// \file
/// The pages (or blocks) that lie in an HBM buffer of bounded size.

#include <map>
#include <span>
#include <vector>

#include "models/matrix.h"

namespace evictsim::policies {

/// Every page carries a mark; where room is needed, the smallest mark goes first, of equal ones the first page. With
/// the time of last use as mark that is LRU.
class PageCache {
 public:
  explicit PageCache(models::Index capacity) : capacity_(capacity) {}

  /// Brings `pages` (at most the capacity) in, which stay while others make room, and marks them; answers with those
  /// that were not there.
  std::vector<models::Index> use(std::span<const models::Index> pages, double mark);
  [[nodiscard]] bool contains(models::Index page) const { return marks_.contains(page); }
  [[nodiscard]] models::Index capacity() const { return capacity_; }
  [[nodiscard]] models::Index size() const { return std::ssize(marks_); }
  /// Marks by page.
  [[nodiscard]] std::map<models::Index, double>& marks() { return marks_; }
  [[nodiscard]] const std::map<models::Index, double>& marks() const { return marks_; }

 private:
  models::Index capacity_;
  std::map<models::Index, double> marks_;
};

}  // namespace evictsim::policies
