#include "analysis/calibration/layer_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <string_view>

#include "models/deployment.h"
#include "models/gpu.h"
#include "models/llm.h"
#include "traces/error.h"
#include "traces/text_lines.h"

namespace evictsim::analysis {
namespace {

constexpr double seconds_per_microsecond = 1e-6;

[[noreturn]] void refuse(const std::string& text, const std::string& why) {
  throw Error(ErrorCode::invalid_argument, why, {.parameter = "--layers", .value = text});
}

/// Calls `row` with the fields of every row, in the order of `columns`.
template <typename Row>
void for_each_row(const std::filesystem::path& file, std::initializer_list<const char*> columns, const Row& row) {
  traces::TextLines lines(file);
  std::string line;
  if (!lines.next(line)) throw lines.file_error(ErrorCode::missing_data, "a table of layer times needs a header");
  std::vector<std::string_view> fields;
  traces::split_csv(line, fields);
  const std::size_t width = fields.size();
  std::vector<std::size_t> places;
  for (const char* const column : columns) {
    const auto place = std::find(fields.begin(), fields.end(), column);
    if (place == fields.end()) throw lines.error(ErrorCode::missing_data, "this column is missing", column);
    places.push_back(static_cast<std::size_t>(place - fields.begin()));
  }
  std::vector<std::string_view> ordered(columns.size());
  while (lines.next(line)) {
    traces::split_csv(line, fields);
    if (fields.size() != width) {
      throw lines.error(ErrorCode::invalid_value, fmt::format("expected {} fields", width), {}, line);
    }
    for (std::size_t i = 0; i < places.size(); ++i) ordered[i] = fields[places[i]];
    row(lines, ordered);
  }
}

double number(const traces::TextLines& lines, std::string_view text, bool positive) {
  const auto value = traces::number_in<double>(text);
  if (!value || !std::isfinite(*value) || *value < 0 || (positive && *value <= 0)) {
    throw lines.error(ErrorCode::invalid_value, positive ? "expected a number above 0" : "expected 0 or more", {},
                      text);
  }
  return *value;
}

/// Time by tokens or sequences, linear between measured ones.
using Times = std::map<double, double>;

double at(const Times& times, double count) {
  const auto above = times.lower_bound(count);
  if (above == times.begin() || above->first == count) return above->second;
  const auto below = std::prev(above);
  const double share = (count - below->first) / (above->first - below->first);
  return below->second + share * (above->second - below->second);
}

/// Sums over kernels of a whole step, by tokens or sequences.
class KernelTimes {
 public:
  /// `layer` is what one row's kernel is called; `times_per_step` how often a step runs it.
  template <typename TimesPerStep>
  KernelTimes(const std::filesystem::path& file, const char* count, std::initializer_list<const char*> needed,
              const TimesPerStep& times_per_step) {
    std::map<std::string, Times, std::less<>> kernels;
    for_each_row(file, {"layer", count, "time_us"}, [&](const traces::TextLines& lines, const auto& fields) {
      kernels[std::string(fields[0])][number(lines, fields[1], true)] =
          number(lines, fields[2], true) * seconds_per_microsecond;
    });
    for (const char* const name : needed) {
      if (kernels.count(name) > 0) continue;
      throw Error(ErrorCode::missing_data, "a profile needs times of this layer",
                  {.file = file.string(), .dataset = name});
    }
    for (auto& [name, times] : kernels) {
      largest_ = kernels_.empty() ? times.rbegin()->first : std::min(largest_, times.rbegin()->first);
      kernels_.emplace_back(times_per_step(name), std::move(times));
    }
  }

  [[nodiscard]] bool covers(double count) const { return count <= largest_; }
  [[nodiscard]] double seconds(double count) const {
    double sum = 0;
    for (const auto& [times_per_step, times] : kernels_) sum += times_per_step * at(times, count);
    return sum;
  }

 private:
  std::vector<std::pair<double, Times>> kernels_;
  double largest_ = 0;
};

/// A step of the layers that profiles describe: dense, with attention over everything.
models::StepShape shape_of(const models::Llm& llm, const models::Gpu& gpu, const models::Deployment& deployment) {
  models::StepShape shape(llm, gpu, deployment);
  const bool all_seen = std::all_of(shape.pairs.begin(), shape.pairs.end(),
                                    [](const models::StepShape::Pairs& pairs) { return pairs.window == 0; });
  if (!shape.experts.empty() || shape.state_seconds > 0 || !all_seen) {
    throw Error(ErrorCode::unsupported,
                "profiles of layers are read for dense models whose layers attend to all tokens",
                {.parameter = "--layers", .value = llm.name});
  }
  shape.collectives = shape.collective_doublings = shape.collective_token_seconds = 0;
  return shape;
}

}  // namespace

LayerProfile read_layer_profile(const std::string& text) {
  std::array<std::string, 4> parts;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t end = text.find(':', begin);
    if (end == std::string::npos) refuse(text, "expected GPU:MODEL:TENSOR_PARALLEL:PREFIX");
    parts[i] = text.substr(begin, end - begin);
    begin = end + 1;
  }
  const std::string prefix = text.substr(begin);
  const auto degree = traces::number_in<int>(parts[2]);
  if (!degree || *degree < 1) refuse(text, "expected a whole number from 1 as tensor-parallel degree");

  const models::Gpu gpu = models::find_gpu(parts[0]);
  const models::Llm llm = models::find_llm(parts[1]);
  models::Deployment deployment;
  deployment.tensor_parallel = *degree;
  deployment = models::checked(llm, deployment);
  LayerProfile profile{gpu.name, llm.name, models::precision_name(llm, deployment), shape_of(llm, gpu, deployment), {}};

  const auto layers = static_cast<double>(llm.layers.size());
  const KernelTimes by_tokens(prefix + "dense.csv", "tokens", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
                              [&](const std::string& name) {
                                if (name == "embedding" || name == "final_layernorm") return 1.0;
                                // One before attention, one before the feed-forward part.
                                return name == "layernorm" ? 2 * layers : layers;
                              });
  const KernelTimes by_sequences(prefix + "per_sequence.csv", "sequences", {"lm_head"},
                                 [](const std::string&) { return 1.0; });
  for_each_row(prefix + "attention.csv", {"prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"},
               [&](const traces::TextLines& lines, const auto& fields) {
                 const double chunk = number(lines, fields[0], false), cached = number(lines, fields[1], false);
                 const double sequences = number(lines, fields[2], false), context = number(lines, fields[3], false);
                 const double attention = number(lines, fields[4], true) * seconds_per_microsecond;
                 const double prompts = chunk > 0 ? 1 : 0;
                 const double tokens = chunk + sequences;
                 if (tokens < 1) throw lines.error(ErrorCode::invalid_value, "a row needs a chunk or sequences");
                 if (!by_tokens.covers(tokens) || !by_sequences.covers(prompts + sequences)) return;
                 ProfiledStep step;
                 step.work = {sequences, sequences * context,        prompts,
                              chunk,     prompts * (cached + chunk), chunk * cached + chunk * (chunk + 1) / 2};
                 step.seconds =
                     layers * attention + by_tokens.seconds(tokens) + by_sequences.seconds(prompts + sequences);
                 profile.steps.push_back(step);
               });
  if (profile.steps.empty()) {
    throw Error(ErrorCode::missing_data, "no row of attention lies within what the other tables hold",
                {.file = prefix + "attention.csv"});
  }
  return profile;
}

}  // namespace evictsim::analysis
