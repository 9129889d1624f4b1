#include "analysis/pareto_front.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

namespace evictsim::analysis {

std::vector<std::uint8_t> pareto_front(std::span<const double> x, std::span<const double> cost) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!std::isnan(x[i]) && !std::isnan(cost[i])) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t left, std::size_t right) {
    return std::pair(x[left], cost[left]) < std::pair(x[right], cost[right]);
  });
  std::vector<std::uint8_t> on(x.size(), 0);
  std::optional<std::size_t> last;  // on the front, the one with the largest x
  for (const std::size_t i : order) {
    const bool twin = last && x[*last] == x[i] && cost[*last] == cost[i];
    if (last && !twin && cost[i] >= cost[*last]) continue;
    on[i] = 1;
    last = i;
  }
  return on;
}

}  // namespace evictsim::analysis
