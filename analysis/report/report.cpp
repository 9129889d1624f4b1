#include "analysis/report/report.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "analysis/report/page/page.h"
#include "analysis/report/report_json.h"
#include "analysis/report/sentences.h"
#include "analysis/run_file_input.h"
#include "analysis/table.h"
#include "analysis/version.h"
#include "traces/checksum.h"
#include "traces/error.h"

namespace evictsim::analysis {
namespace {

/// A trace that nobody named is only read for its checksum when that is quick.
constexpr std::uintmax_t most_searched_bytes = std::uintmax_t{2} << 30U;
/// JSON up to here stays readable in the page.
constexpr std::size_t most_plain_bytes = std::size_t{64} << 10U;
constexpr int report_version = 1;

/// Traces that runs were made from: those given, then those that lie where the run says.
class TraceFinder {
 public:
  explicit TraceFinder(const std::vector<traces::Reader>& given) {
    for (const traces::Reader& reader : given) given_.push_back(&reader);
  }

  std::vector<FoundTrace> find(const RunContents& run) {
    std::vector<FoundTrace> found;
    for (const Provenance::Input& input : run.provenance.inputs) found.push_back(find(input, run.path));
    return found;
  }

 private:
  FoundTrace find(const Provenance::Input& input, const std::string& run) {
    if (input.checksum.empty()) return {nullptr, "the run does not say of which bytes its trace was"};
    for (const traces::Reader* reader : given_) {
      if (reader->checksum() == input.checksum) return {reader, {}};
    }
    const std::filesystem::path beside =
        std::filesystem::path(run).parent_path() / std::filesystem::path(input.path).filename();
    std::string why = fmt::format("its trace {} is not there", input.path);
    for (const std::filesystem::path& path : {std::filesystem::path(input.path), beside}) {
      std::error_code problem;
      const std::uintmax_t size = std::filesystem::file_size(path, problem);
      if (problem || !std::filesystem::is_regular_file(path, problem)) continue;
      if (size > most_searched_bytes) {
        why = fmt::format("its trace {} is large: name it on the command line to have it read", path.string());
        continue;
      }
      try {
        if (traces::file_checksum(path) == input.checksum) return {&opened_.emplace_back(path), {}};
        why = fmt::format("its trace {} has changed since", path.string());
      } catch (const Error& error) {
        why = fmt::format("its trace cannot be read: {}", error.what());
      }
    }
    return {nullptr, why};
  }

  std::vector<const traces::Reader*> given_;
  std::deque<traces::Reader> opened_;
};

std::string title_text(const ReportInputs& inputs) {
  std::vector<std::string> subjects;
  const auto add = [&](const std::string& subject) {
    if (std::find(subjects.begin(), subjects.end(), subject) == subjects.end()) subjects.push_back(subject);
  };
  for (const RunReader& run : inputs.runs) {
    for (const Provenance::Input& input : run.contents().provenance.inputs) add(input.model);
  }
  if (subjects.empty()) {
    for (const PlanContents& plan : inputs.plans) {
      for (const PlanRow& row : plan.rows) add(row.model);
    }
  }
  if (subjects.empty()) return "evictsim report";
  const std::size_t more = subjects.size() - 1;
  constexpr std::size_t most_bytes = 200;
  return shown_text(subjects.front(), most_bytes) + (more == 0 ? "" : fmt::format(" and {} more", more));
}

/// Sections that need a kind of file of which none was given.
void add_missing_files(const ReportInputs& inputs, MissingParts& missing) {
  if (inputs.runs.empty()) {
    for (const char* section : {"curves", "where", "tokens", "dilution", "memory"}) {
      missing.push_back({section, {}, {}, {}, "no run file was given: evictsim replay ... -o run.h5 writes one"});
    }
  }
  if (inputs.plans.empty()) {
    missing.push_back({"plan", {}, {}, {}, "no plan file was given: evictsim plan ... -o plan.h5 writes one"});
  }
}

Json missing_json(const MissingParts& missing) {
  Json json = Json::array();
  const auto place = [](std::optional<std::size_t> index) { return index ? Json(*index) : Json(); };
  for (const MissingPart& part : missing) {
    json.push_back({{"section", part.section},
                    {"part", part.part.empty() ? Json() : Json(part.part)},
                    {"run", place(part.run)},
                    {"plan", place(part.plan)},
                    {"why", part.why}});
  }
  return json;
}

std::string deflated(const std::string& text) {
  uLongf size = compressBound(static_cast<uLong>(text.size()));
  std::vector<std::uint8_t> bytes(size);
  const auto* const source = reinterpret_cast<const Bytef*>(text.data());
  if (compress2(bytes.data(), &size, source, static_cast<uLong>(text.size()), Z_BEST_COMPRESSION) != Z_OK) {
    throw Error(ErrorCode::out_of_memory, "the report's data cannot be compressed");
  }
  return base64(std::span(bytes).first(size));
}

std::string html_text(std::string_view text) {
  std::string escaped;
  for (const char letter : text) {
    switch (letter) {
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '&':
        escaped += "&amp;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        // HTML has no control characters, not even escaped.
        escaped += static_cast<unsigned char>(letter) < ' ' || letter == '\x7f' ? ' ' : letter;
    }
  }
  return escaped;
}

}  // namespace

std::string report_title(const ReportInputs& inputs) { return title_text(inputs); }

std::string report_json(const ReportInputs& inputs, const std::string& command_line) {
  MissingParts missing;
  add_missing_files(inputs, missing);
  TraceFinder finder(inputs.traces);
  Json asked_lines = Json::array(), sentences = Json::array(), runs = Json::array(), plans = Json::array(),
       files = Json::array();
  constexpr std::size_t most_line_bytes = 4000;
  std::string caveat = open_loop_caveat;
  const bool plan_speaks = std::any_of(inputs.plans.begin(), inputs.plans.end(),
                                       [](const PlanContents& plan) { return !plan_sentences(plan, false).empty(); });
  bool unranked = false, partial = false;
  const auto say = [](Json& list, const std::string& line) { list.push_back(shown_text(line, most_line_bytes)); };
  for (std::size_t place = 0; place < inputs.runs.size(); ++place) {
    const RunReader& reader = inputs.runs[place];
    const PointGrid grid(reader.contents());
    say(asked_lines, asked(grid));
    std::vector<std::string> lines = run_sentences(grid);
    const std::string note = prediction_note(grid);
    if (!note.empty()) caveat += " " + shown_text(note, most_line_bytes);
    partial = partial || !note.empty();
    unranked = unranked || (lines.empty() && !grid.policies().empty());
    // Two sentences of the run and one of the plan.
    if (plan_speaks) lines.resize(std::min<std::size_t>(lines.size(), 2));
    for (const std::string& line : lines) {
      say(sentences, inputs.runs.size() == 1 ? line : short_name(reader.contents().path) + ": " + line);
    }
    runs.push_back(run_json(grid, reader, finder.find(reader.contents()), place, missing));
    files.push_back(provenance_json(reader.contents().path, "run", reader.contents().provenance));
  }
  for (std::size_t place = 0; place < inputs.plans.size(); ++place) {
    const PlanContents& plan = inputs.plans[place];
    say(asked_lines, asked(plan));
    for (const std::string& line : plan_sentences(plan, partial)) {
      say(sentences, inputs.plans.size() == 1 ? line : short_name(plan.path) + ": " + line);
    }
    plans.push_back(plan_json(plan, place, missing));
    files.push_back(provenance_json(plan.path, "plan", plan.provenance));
  }
  for (const auto& dump : inputs.dumps) files.push_back(provenance_json(dump->path(), "dump", dump->provenance()));
  for (const traces::Reader& reader : inputs.traces) {
    RecordedProvenance provenance;
    provenance.created = reader.header().created;
    provenance.complete = true;
    files.push_back(provenance_json(reader.path().string(), "trace", provenance));
  }
  if (sentences.empty()) {
    missing.push_back({"summary",
                       {},
                       {},
                       {},
                       unranked ? "no policy can be called best: there are only oracles, the full cache and policies "
                                  "that keep more than their budget, or no numbers of quality"
                                : "no row of these files has numbers"});
  }
  const Json report = {
      {"format", "evictsim-report"},
      {"version", report_version},
      {"title", title_text(inputs)},
      {"evictsim_version", version()},
      {"command_line", shown_text(command_line, 10 * most_line_bytes)},
      {"summary",
       {{"asked", std::move(asked_lines)}, {"sentences", std::move(sentences)}, {"caveat", std::move(caveat)}}},
      {"runs", std::move(runs)},
      {"plans", std::move(plans)},
      {"files", std::move(files)},
      {"missing", missing_json(missing)}};
  return to_text(report);
}

std::string report_page(const std::string& json, const std::string& title) {
  const std::string_view page = page_template();
  if (page.empty()) throw Error(ErrorCode::unsupported, std::string(page_template_hint()));
  const bool plain = json.size() <= most_plain_bytes;
  const std::pair<std::string_view, std::string> places[] = {{"@EVICTSIM_TITLE@", html_text(title)},
                                                             {"@EVICTSIM_ENCODING@", plain ? "json" : "deflate"},
                                                             {"@EVICTSIM_DATA@", plain ? json : deflated(json)}};
  // Where the placeholders stand is found before any is filled: data may hold their names.
  std::vector<std::pair<std::size_t, std::size_t>> order;
  for (std::size_t i = 0; i < std::size(places); ++i) order.emplace_back(page.find(places[i].first), i);
  std::sort(order.begin(), order.end());
  std::string text;
  std::size_t done = 0;
  for (const auto& [begin, place] : order) {
    text += page.substr(done, begin - done);
    text += places[place].second;
    done = begin + places[place].first.size();
  }
  return text.append(page.substr(done));
}

}  // namespace evictsim::analysis
