#include "analysis/report/page/page.h"
#include "traces/error.h"

namespace evictsim::analysis {

std::string_view page_template() { return {}; }

std::string_view page_template_hint() {
  return "this build has no page for reports: install Debian's esbuild and node-vega, then configure and build again";
}

std::vector<std::pair<std::string, std::string>> report_figures(const std::string& /*json*/) {
  throw Error(ErrorCode::unsupported, std::string(page_template_hint()));
}

}  // namespace evictsim::analysis
