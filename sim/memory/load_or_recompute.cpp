#include "sim/memory/load_or_recompute.h"

#include <algorithm>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {

Time overlapped(Time load, Time compute, int layers) {
  const auto refuse = [](const std::string& name, Time value, const char* least) {
    throw Error(ErrorCode::invalid_argument, std::string("expected at least ") + least,
                {.parameter = name, .value = std::to_string(value)});
  };
  if (load < 0) refuse("load time", load, "0");
  if (compute < 0) refuse("compute time", compute, "0");
  if (layers < 1) refuse("layers", layers, "1");
  const auto [shorter, longer] = std::minmax(load, compute);
  const Time layer = shorter / layers + (shorter % layers == 0 ? 0 : 1);
  return layer > end_of_time - longer ? end_of_time : longer + layer;
}

LoadChoice load_or_recompute(const TieredStore& store, std::span<const PrefixSegment> found, std::size_t first_block,
                             int layers, const std::function<Time(std::size_t block)>& compute_from) {
  LoadChoice best;
  best.compute = compute_from(first_block);
  best.finish = overlapped(0, best.compute, layers);
  for (std::size_t count = 1; count <= found.size(); ++count) {
    LoadChoice choice{.segments = count, .load = store.load_time(found.first(count))};
    choice.compute = compute_from(found[count - 1].last);
    choice.finish = overlapped(choice.load, choice.compute, layers);
    if (choice.finish < best.finish) best = choice;
  }
  return best;
}

}  // namespace evictsim::sim
