#pragma once
/// \file
/// A parser of the Trace Event Format (Google, "Trace Event Format"), as strict as the viewers are.

#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>

namespace evictsim::test {

/// The events of a file in JSON object format, checked: known phases with the members that they need; numbers that are
/// numbers; times that never go back on a track or a counter; every process named.
inline nlohmann::json trace_events(const std::string& text) {
  const nlohmann::json document = nlohmann::json::parse(text);
  REQUIRE(document.is_object());
  const nlohmann::json& events = document.at("traceEvents");
  REQUIRE(events.is_array());
  std::set<int> named, used;
  std::map<std::tuple<int, int, std::string>, double> latest;  // process, track, counter
  std::size_t wrong = 0;
  const auto require = [&](bool right, const nlohmann::json& event) {
    if (right || wrong++ > 0) return;
    UNSCOPED_INFO("the first wrong event: " << event.dump());
  };
  for (const nlohmann::json& event : events) {
    require(event.is_object() && event.at("name").is_string() && event.at("pid").is_number_integer() &&
                event.at("args").is_object(),
            event);
    const std::string phase = event.at("ph");
    const int process = event.at("pid");
    if (phase == "M") {
      const std::string what = event.at("name");
      require((what == "process_name" || what == "thread_name") && event.at("args").at("name").is_string(), event);
      if (what == "process_name") require(named.insert(process).second, event);
      continue;
    }
    used.insert(process);
    const double time = event.at("ts").get<double>();
    require(std::isfinite(time) && time >= 0, event);
    const bool counter = phase == "C";
    require(counter || event.at("tid").is_number_integer(), event);
    double& last = latest[{process, counter ? -1 : event.at("tid").get<int>(),
                           counter ? event.at("name").get<std::string>() : std::string()}];
    require(time >= last, event);
    last = time;
    if (phase == "X") {
      require(event.at("dur").get<double>() >= 0, event);
    } else if (phase == "i") {
      const std::string scope = event.at("s");
      require(scope == "t" || scope == "p" || scope == "g", event);
    } else if (counter) {
      require(!event.at("args").empty(), event);
      for (const auto& value : event.at("args")) require(value.is_number(), event);
    } else {
      require(false, event);
    }
  }
  CHECK(wrong == 0);
  for (const int process : used) CHECK(named.contains(process));
  return events;
}

}  // namespace evictsim::test
