#include "analysis/detail_axes.h"

#include <string>

#include "traces/error.h"

namespace evictsim::analysis {

DetailAxes DetailAxes::parse(std::string_view text) {
  DetailAxes axes;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view name = text.substr(0, comma);
    if (name == "layer") {
      axes.layer = true;
    } else if (name == "head") {
      axes.head = true;
    } else if (name == "step") {
      axes.step = true;
    } else if (name == "entry") {
      axes.entry = true;
    } else if (name == "steps") {
      axes.steps = true;
    } else {
      throw Error(ErrorCode::unknown_name, "must be a list of layer, head, step, entry and steps",
                  {.file = {}, .dataset = {}, .parameter = "--per", .value = std::string(name)});
    }
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  if (axes.steps && !axes.layer && !axes.head) axes.step = true;
  if (axes.step) axes.steps = false;
  return axes;
}

}  // namespace evictsim::analysis
