#include "policies/page_cache.h"

#include <algorithm>

namespace evictsim::policies {

using models::Index;

std::vector<Index> PageCache::use(std::span<const Index> pages, double mark) {
  std::vector<Index> absent;
  for (const Index page : pages) {
    if (!contains(page)) absent.push_back(page);
  }
  std::vector<std::pair<double, Index>> leaving;
  for (const auto& [page, old_mark] : marks_) {
    if (std::find(pages.begin(), pages.end(), page) == pages.end()) leaving.emplace_back(old_mark, page);
  }
  std::sort(leaving.begin(), leaving.end());
  auto next = leaving.begin();
  while (size() + std::ssize(absent) > capacity_ && next != leaving.end()) marks_.erase((next++)->second);
  for (const Index page : pages) marks_[page] = mark;
  return absent;
}

}  // namespace evictsim::policies
