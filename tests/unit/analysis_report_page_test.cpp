// Is the template of the report's page complete and closed to the network, in builds with and without the plotting
// library?
#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <string_view>

#include "analysis/report/page/page.h"
#include "traces/error.h"

using namespace evictsim::analysis;

namespace {

std::size_t occurrences(std::string_view text, std::string_view word) {
  std::size_t count = 0;
  for (std::size_t place = text.find(word); place != std::string_view::npos; place = text.find(word, place + 1))
    ++count;
  return count;
}

}  // namespace

TEST_CASE("the template has its three places, and nothing of ours left to fill in") {
  const std::string_view page = page_template();
  REQUIRE(page.empty() != page_template_hint().empty());
  if (page.empty()) {
    CHECK(page_template_hint().find("node-vega") != std::string_view::npos);
    CHECK_THROWS_AS(report_figures("{}"), evictsim::Error);
    return;
  }
  for (const char* place : {"@EVICTSIM_TITLE@", "@EVICTSIM_ENCODING@", "@EVICTSIM_DATA@"}) {
    INFO(place);
    CHECK(occurrences(page, place) == 1);
  }
  for (const char* place : {"@STYLE@", "@SCRIPT@", "@LICENCES@", "@SCRIPT_HASH@", "@STYLE_HASH@"}) {
    INFO(place);
    CHECK(occurrences(page, place) == 0);
  }
}

TEST_CASE("the page may load nothing and run only its own script") {
  const std::string_view page = page_template();
  if (page.empty()) {
    WARN("this build has no page: " << page_template_hint());
    return;
  }
  CHECK(occurrences(page, "default-src 'none'; script-src 'sha256-") == 1);
  CHECK(occurrences(page, "unsafe-") == 0);
  CHECK(occurrences(page, "<link") == 0);
  CHECK(occurrences(page, "<script src") == 0);
  CHECK(occurrences(page, "</script>") == 2);
  CHECK(occurrences(page, "IN NO EVENT SHALL") > 0);
}

TEST_CASE("figures need node, and say so") {
  if (page_template().empty()) {
    WARN("this build draws no figures: " << page_template_hint());
    return;
  }
  const char* path = std::getenv("PATH");
  const std::string before = path == nullptr ? "" : path;
  ::setenv("PATH", EVICTSIM_TEST_SCRATCH, 1);
  std::string message;
  try {
    report_figures("{}");
  } catch (const evictsim::Error& error) {
    CHECK(error.code() == evictsim::ErrorCode::unsupported);
    message = error.what();
  }
  ::setenv("PATH", before.c_str(), 1);
  CHECK(message.find("nodejs") != std::string::npos);
}
