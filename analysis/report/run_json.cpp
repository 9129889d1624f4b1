#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <utility>

#include "analysis/report/ranking.h"
#include "analysis/report/report_json.h"
#include "analysis/report/sentences.h"
#include "analysis/report/token_json.h"

namespace evictsim::analysis {
namespace {

constexpr std::size_t most_name_bytes = 1000;

std::string shown(const std::string& name) { return shown_text(name, most_name_bytes); }

const char* to_text(Better better) {
  return better == Better::lower ? "lower" : better == Better::higher ? "higher" : nullptr;
}

const char* to_text(MetricGroup group) {
  return group == MetricGroup::quality ? "quality" : group == MetricGroup::memory ? "memory" : "work";
}

const char* to_text(IntervalOver over) {
  switch (over) {
    case IntervalOver::steps:
      return "steps";
    case IntervalOver::sequences:
      return "sequences";
    case IntervalOver::calibration:
      return "calibration";
    default:
      return nullptr;
  }
}

Json text_or_null(const char* text) { return text == nullptr ? Json() : Json(text); }

/// A metric of the detail: with the title that the curves have, where they have it.
Json detail_json(const DetailGrid& metric, std::vector<std::size_t> shape, std::size_t points) {
  const auto metrics = shown_metrics();
  const auto known =
      std::find_if(metrics.begin(), metrics.end(), [&](const ShownMetric& one) { return metric.name == one.name(); });
  shape.push_back(metric.values.size() / std::max<std::size_t>(points, 1) / (shape.size() == 3 ? shape[2] : 1));
  return {{"name", metric.name},
          {"title", known == metrics.end() ? metric.name : known->title},
          {"better", known == metrics.end() ? Json() : text_or_null(to_text(known->better))},
          {"values", real_array(shape, metric.values)}};
}

class RunSection {
 public:
  RunSection(const PointGrid& grid, const RunReader& reader, const std::vector<FoundTrace>& traces, std::size_t place,
             MissingParts& missing)
      : grid_(grid), reader_(reader), traces_(traces), place_(place), missing_(missing) {}

  Json json() {
    const RunContents& contents = grid_.contents();
    Json run = {{"name", shown(short_name(contents.path))},
                {"file", shown(contents.path)},
                {"complete", contents.provenance.complete},
                {"seed", contents.provenance.seed},
                {"model", models()}};
    add_inputs(run);
    add_axes(run);
    add_metrics(run);
    add_ranking(run);
    const std::optional<StepCurves> curves = step_curves(grid_, reader_);
    run["where"] = where(curves);
    run["tokens"] = tokens_json(grid_, reader_, traces_,
                                [this](const char* part, const std::string& why) { miss("tokens", part, why); });
    run["dilution"] = dilution();
    run["memory"] = memory(curves);
    return run;
  }

 private:
  void miss(const char* section, const char* part, const std::string& why) {
    missing_.push_back({section, part, place_, std::nullopt, why});
  }
  [[nodiscard]] std::vector<std::size_t> shape() const { return {grid_.policies().size(), grid_.budgets().size()}; }

  [[nodiscard]] std::string models() const {
    std::vector<std::string> names;
    for (const Provenance::Input& input : grid_.contents().provenance.inputs) {
      const std::string name = shown(input.model);
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
    return fmt::format("{}", fmt::join(names, ", "));
  }

  void add_inputs(Json& run) const {
    const RunContents& contents = grid_.contents();
    run["traces"] = Json::array();
    for (const Provenance::Input& input : contents.provenance.inputs) {
      run["traces"].push_back(
          {{"path", shown(input.path)}, {"checksum", shown(input.checksum)}, {"model", shown(input.model)}});
    }
    run["sequences"] = Json::array();
    for (const std::size_t index : grid_.sequences()) {
      const RunRow& row = contents.rows[index];
      const auto& inputs = contents.provenance.inputs;
      const auto input = std::find_if(inputs.begin(), inputs.end(),
                                      [&](const Provenance::Input& one) { return one.path == row.trace; });
      run["sequences"].push_back({{"trace", input == inputs.end() ? Json() : Json(input - inputs.begin())},
                                  {"name", shown(row.sequence)},
                                  {"prompt_length", row.prompt_length},
                                  {"decode_rows", row.decode_rows},
                                  {"layers", row.layers}});
    }
  }

  void add_axes(Json& run) const {
    run["policies"] = run["left_out"] = run["budgets"] = Json::array();
    for (const PointGrid::Policy& policy : grid_.policies()) {
      run["policies"].push_back({{"name", shown(policy.about.name)},
                                 {"expansion", shown(policy.about.expansion)},
                                 {"kind", to_string(policy.kind)},
                                 {"status", shown(policy.about.status)}});
    }
    for (const RunContents::Policy& policy : grid_.left_out()) {
      run["left_out"].push_back(
          {{"name", shown(policy.name)}, {"expansion", shown(policy.expansion)}, {"status", shown(policy.status)}});
    }
    for (const PointGrid::Budget& budget : grid_.budgets()) {
      run["budgets"].push_back({{"text", shown(budget.text)}, {"value", budget.value}, {"share", budget.share}});
    }
    std::vector<std::int32_t> behind;
    std::vector<std::uint8_t> within;
    constexpr std::uint8_t not_known = 255;
    for_each_point([&](const PointGrid::Point& point, std::size_t /*policy*/, std::size_t /*budget*/) {
      behind.push_back(static_cast<std::int32_t>(point.summary.sequences));
      within.push_back(point.within ? static_cast<std::uint8_t>(*point.within ? 1 : 0) : not_known);
    });
    run["behind"] = integer_array(shape(), behind);
    run["within"] = byte_array(shape(), within);
  }

  void add_metrics(Json& run) {
    const ShownMetric* first = grid_.default_metric();
    run["default_metric"] = first == nullptr ? Json() : Json(first->name());
    run["metrics"] = Json::array();
    const std::string note = prediction_note(grid_);
    for (const ShownMetric& metric : shown_metrics()) {
      if (!grid_.has(metric)) {
        miss("curves", metric.name(), why_empty(metric));
        continue;
      }
      const IntervalOver over = grid_.interval_over(metric);
      std::vector<double> values, lows, highs;
      for_each_point([&](const PointGrid::Point& /*point*/, std::size_t policy, std::size_t budget) {
        const Estimate estimate = grid_.value(metric, policy, budget);
        values.push_back(estimate.mean);
        lows.push_back(estimate.low);
        highs.push_back(estimate.high);
      });
      const bool bounded = over != IntervalOver::nothing;
      run["metrics"].push_back(
          {{"name", metric.name()},
           {"title", metric.title},
           {"unit", metric.unit},
           {"group", to_text(metric.group)},
           {"better", text_or_null(to_text(metric.better))},
           {"minimum", 0},
           {"maximum", metric.at_most_one ? Json(1) : Json()},
           {"interval", text_or_null(to_text(over))},
           {"note", metric.metric == Metric::predicted_kl && !note.empty() ? Json(shown(note)) : Json()},
           {"values", real_array(shape(), values)},
           {"low", bounded ? real_array(shape(), lows) : Json()},
           {"high", bounded ? real_array(shape(), highs) : Json()}});
    }
    if (run["metrics"].empty()) miss("curves", "", "no point of this run finished, so there is nothing to draw");
  }

  /// What would have filled the column.
  [[nodiscard]] std::string why_empty(const ShownMetric& metric) const {
    const RunContents& contents = grid_.contents();
    switch (metric.metric) {
      case Metric::predicted_kl:
        for (const RunRow& row : contents.rows) {
          if (!row.prediction_status.empty() && row.prediction_status != "ok") {
            constexpr std::string_view mark = "none: ";
            const bool marked = row.prediction_status.starts_with(mark);
            return "nothing is predicted: " + shown(row.prediction_status.substr(marked ? mark.size() : 0));
          }
        }
        return "nothing is predicted in this run";
      case Metric::layer_error:
      case Metric::squared_error:
        return "the trace has no w_o in every layer";
      case Metric::span_retention:
        return "the trace has no evidence spans";
      case Metric::recall_hit_share:
        return "no policy of this run has a placement";
      case Metric::normalised_regret:
        return "nothing can be regretted at these budgets";
      default:
        return "the run holds no value of it";
    }
  }

  void add_ranking(Json& run) const {
    run["fronts"] = run["best"] = Json::object();
    for (const ShownMetric& metric : shown_metrics()) {
      if (metric.group != MetricGroup::quality || metric.better == Better::neither || !grid_.has(metric)) continue;
      const Fronts on = fronts(grid_, metric);
      run["fronts"][metric.name()] = {{"budget", byte_array(shape(), on.budget)},
                                      {"bytes", byte_array(shape(), on.bytes)}};
      Json& list = run["best"][metric.name()] = Json::array();
      for (const BestPolicy& best : best_policies(grid_, metric)) {
        list.push_back({{"budget", best.budget},
                        {"policy", best.policy},
                        {"value", number(best.value.mean)},
                        {"low", number(best.value.low)},
                        {"high", number(best.value.high)},
                        {"ties", best.ties},
                        {"next", best.next ? Json(*best.next) : Json()},
                        {"next_value", number(best.next_value)},
                        {"apart", best.apart ? Json(*best.apart) : Json()}});
      }
    }
  }

  Json where(const std::optional<StepCurves>& curves) {
    const std::optional<HeadMaps> maps = head_maps(grid_, reader_);
    const std::optional<PositionMeans> positions = position_means(grid_, reader_);
    if (!maps && !curves && !positions) {
      miss("where", "", "the run was made without --per: evictsim replay --per layer,head,entry,steps tells where");
      return {};
    }
    Json json = {{"layers", nullptr},  {"heads", nullptr},   {"sequences", nullptr},
                 {"by_head", nullptr}, {"by_step", nullptr}, {"by_position", nullptr}};
    if (maps) {
      json["layers"] = maps->layers;
      json["heads"] = maps->heads;
      json["sequences"] = maps->sequences;
      json["by_head"] = Json::array();
      for (const DetailGrid& metric : maps->metrics) {
        std::vector<std::size_t> extents = shape();
        extents.push_back(maps->layers.size());
        json["by_head"].push_back(detail_json(metric, extents, grid_.size()));
      }
    } else {
      miss("where", "heads", "the run was made without --per layer,head");
    }
    if (curves) {
      json["by_step"] = {{"steps", curves->steps}, {"metrics", Json::array()}};
      for (const DetailGrid& metric : curves->metrics) {
        json["by_step"]["metrics"].push_back(detail_json(metric, shape(), grid_.size()));
      }
    } else {
      miss("where", "steps", "the run was made without --per steps, or its sequences have no decode rows with queries");
    }
    if (positions) {
      std::vector<std::size_t> extents = shape();
      extents.push_back(positions->edges.size() - 1);
      json["by_position"] = {{"edges", positions->edges},
                             {"evicted", real_array(extents, positions->evicted)},
                             {"lost", positions->lost.empty() ? Json() : real_array(extents, positions->lost)}};
    } else {
      miss("where", "positions", "the run was made without --per entry");
    }
    return json;
  }

  Json dilution() {
    struct Set {
      const char* name;
      Metric full, after;
      bool complement;  ///< the column holds what is not in the set
    };
    static constexpr std::array classes = {
        Set{"sink", Metric::sink_mass_full, Metric::sink_mass, false},
        Set{"useful", Metric::useful_mass_full, Metric::useful_mass, false},
        Set{"distractor", Metric::distractor_mass_full, Metric::distractor_mass, false},
        Set{"decoded", Metric::decoded_mass_full, Metric::decoded_mass, false}};
    static constexpr std::array halves = {Set{"useful", Metric::dilution_full, Metric::dilution, true},
                                          Set{"rest", Metric::dilution_full, Metric::dilution, false}};
    std::span<const Set> sets = classes;
    const auto available = [&](std::span<const Set> list) {
      bool any = false;
      for_each_point([&](const PointGrid::Point& point, std::size_t, std::size_t) {
        any = any || std::none_of(list.begin(), list.end(),
                                  [&](const Set& set) { return std::isnan(point.summary[set.after].mean); });
      });
      return any;
    };
    if (!available(sets)) sets = halves;
    if (!available(sets)) {
      miss("dilution", "", "no sequence has decode rows with queries, so nobody attends to what was kept");
      return {};
    }
    Json json = {{"sets", Json::array()}, {"full", Json::array()}, {"after", nullptr},
                 {"low", nullptr},        {"high", nullptr},       {"useful_is", useful_is()}};
    for (const Set& set : sets) {
      json["sets"].push_back(set.name);
      double sum = 0, count = 0;
      for_each_point([&](const PointGrid::Point& point, std::size_t, std::size_t) {
        const double value = point.summary[set.full].mean;
        if (std::isnan(value)) return;
        sum += set.complement ? 1 - value : value;
        ++count;
      });
      json["full"].push_back(number(sum / count));
    }
    std::vector<double> after;
    for_each_point([&](const PointGrid::Point& point, std::size_t, std::size_t) {
      for (const Set& set : sets) {
        const double value = point.summary[set.after].mean;
        after.push_back(set.complement ? 1 - value : value);
      }
    });
    std::vector<std::size_t> extents = shape();
    extents.push_back(sets.size());
    json["after"] = real_array(extents, after);
    return json;
  }

  [[nodiscard]] const char* useful_is() const {
    return std::isnan(first_value(Metric::span_retention)) ? "largest future mass" : "evidence";
  }
  [[nodiscard]] double first_value(Metric metric) const {
    for (const RunRow& row : grid_.contents().rows) {
      if (!std::isnan(row[metric])) return row[metric];
    }
    return not_available;
  }

  Json memory(const std::optional<StepCurves>& curves) {
    Json json = {{"steps", nullptr}, {"hbm", nullptr}, {"host", nullptr}, {"disk", nullptr}};
    if (!curves || curves->stored.empty()) {
      miss("memory", "steps", "the run was made without --per steps");
    } else {
      json["steps"] = curves->steps;
      std::vector<std::size_t> extents = shape();
      extents.push_back(curves->steps.size());
      for (const DetailGrid& tier : curves->stored) {
        const std::string name = tier.name.substr(7, tier.name.size() - 13);  // stored_hbm_bytes
        json[name] = real_array(extents, tier.values);
      }
    }
    const auto used = [&](Metric metric) {
      return std::any_of(grid_.contents().rows.begin(), grid_.contents().rows.end(),
                         [&](const RunRow& row) { return row[metric] > 0; });
    };
    if (!used(Metric::host_bytes) && !used(Metric::disk_bytes)) {
      miss("memory", "tiers", "no policy of this run keeps anything on the host or on disk: what is cut is dropped");
    } else if (!json["steps"].is_null()) {
      for (const auto& [tier, place, bytes] :
           {std::tuple{"host", "the host", Metric::host_bytes}, std::tuple{"disk", "disk", Metric::disk_bytes}}) {
        if (!used(bytes)) {
          miss("memory", tier, fmt::format("no policy of this run keeps anything on {}", place));
        } else if (json[tier].is_null()) {
          miss("memory", tier, fmt::format("an older evictsim wrote the run without the bytes on {} by step", place));
        }
      }
    }
    if (!used(Metric::recall_bytes_per_step)) miss("memory", "recall", "nothing came back from the host or from disk");
    return json;
  }

  template <typename Visit>
  void for_each_point(Visit visit) const {
    for (std::size_t policy = 0; policy < grid_.policies().size(); ++policy) {
      for (std::size_t budget = 0; budget < grid_.budgets().size(); ++budget) {
        visit(grid_.at(policy, budget), policy, budget);
      }
    }
  }

  const PointGrid& grid_;
  const RunReader& reader_;
  const std::vector<FoundTrace>& traces_;
  std::size_t place_;
  MissingParts& missing_;
};

}  // namespace

std::string short_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

Json run_json(const PointGrid& grid, const RunReader& reader, const std::vector<FoundTrace>& traces, std::size_t place,
              MissingParts& missing) {
  return RunSection(grid, reader, traces, place, missing).json();
}

}  // namespace evictsim::analysis
