#include "sim/cli/option_lists.h"

#include "policies/call.h"

namespace evictsim {

std::vector<std::string> list_elements(const std::vector<std::string>& lists, const char* option) {
  std::vector<std::string> all;
  for (const std::string& list : lists) {
    try {
      for (std::string& element : policies::split_list(list)) all.push_back(std::move(element));
    } catch (const Error& problem) {
      throw Error(problem.code(), problem.message(), {.parameter = option, .value = list});
    }
  }
  return all;
}

std::string nearest_text(const std::string& name, const std::vector<std::string>& known, std::size_t count) {
  const std::vector<std::string> near = policies::near_to(name, known, count);
  return near.empty() ? "" : "; nearest: " + policies::join(near);
}

}  // namespace evictsim
