#include "traces/stored_integers.h"

#include <fmt/format.h>

#include "traces/error.h"
#include "traces/stored_rows.h"

namespace evictsim::traces {

std::vector<std::int32_t> bounded(const hdf5::Node& dataset, std::int64_t smallest, std::int64_t largest,
                                  const char* rule) {
  const std::vector<std::int64_t> wide = hdf5::read_integers(dataset);
  std::vector<std::int32_t> values(wide.size());
  for (std::size_t index = 0; index < wide.size(); ++index) {
    if (wide[index] < smallest || wide[index] > largest) {
      throw dataset.error(ErrorCode::invalid_value, rule, fmt::format("row {}: {}", index, wide[index]));
    }
    values[index] = static_cast<std::int32_t>(wide[index]);
  }
  return values;
}

}  // namespace evictsim::traces
