#include "analysis/calibration/accuracy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "traces/error.h"

namespace evictsim::analysis {
namespace {

using sim::MeasuredPoint;

constexpr int random_folds = 5;
constexpr int campaign_folds = 12;
constexpr std::size_t large_campaign = 45;

/// FNV-1a: the same on every machine.
std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 14695981039346656037ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 1099511628211ULL;
  }
  return hash ^ (hash >> 32);
}

std::string fold_of_text(const std::string& text, int folds) {
  return std::to_string(hash_of(text) % static_cast<std::uint64_t>(folds));
}

std::string every(const std::string& name, const PredictedOver& predicted) {
  return fmt::format("| {} | {} | {} |\n", name, predicted.first_token.size(), errors_of(predicted));
}

/// The same of those in which prompts are computed by replicas of their own, or of the others.
PredictedOver of_mode(const PredictedOver& predicted, std::span<const MeasuredPoint* const> points,
                      bool disaggregated) {
  PredictedOver part;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (points[i]->prefill.has_value() != disaggregated) continue;
    part.first_token.push_back(predicted.first_token[i]);
    part.per_output_token.push_back(predicted.per_output_token[i]);
    part.whole.push_back(predicted.whole[i]);
  }
  return part;
}

std::string line_of(const std::string& name, const PredictedOver& predicted, const std::vector<std::size_t>& which) {
  std::vector<double> first_token, per_output_token;
  for (const std::size_t i : which) {
    first_token.push_back(predicted.first_token[i]);
    per_output_token.push_back(predicted.per_output_token[i]);
  }
  return every(name, {first_token, per_output_token, {}});
}

std::string head_of(const std::string& what) {
  return fmt::format(
      "| {} | points | TPOT median % | mean | p90 | TTFT median % | mean | p90 |\n|---|---|---|---|---|---|---|---|\n",
      what);
}

std::string lines_by(const PredictedOver& predicted, std::span<const MeasuredPoint* const> points,
                     const std::function<std::string(const MeasuredPoint&)>& name_of) {
  std::map<std::string, std::vector<std::size_t>> parts;
  for (std::size_t i = 0; i < points.size(); ++i) parts[name_of(*points[i])].push_back(i);
  std::string text;
  for (const auto& [name, which] : parts) text += line_of(name, predicted, which);
  return text;
}

std::string by(const std::string& what, const PredictedOver& predicted, std::span<const MeasuredPoint* const> points,
               const std::function<std::string(const MeasuredPoint&)>& name_of) {
  return head_of(what) + lines_by(predicted, points, name_of) + '\n';
}

void add(PredictedOver& predicted, const MeasuredPoint& point, const FittedConstants& fitted,
         const std::string& family) {
  const models::EngineConstants constants = constants_of(fitted, point, family);
  const sim::ClosedLoopTimes times = sim::times_of(point, constants);
  predicted.first_token.push_back(times.first_token / point.first_token_seconds);
  predicted.per_output_token.push_back(times.per_output_token / point.per_output_token_seconds);
  const double others = point.loop.output_tokens - 1;
  predicted.whole.push_back((times.first_token + others * times.per_output_token) /
                            (point.first_token_seconds + others * point.per_output_token_seconds));
}

bool limited_by_memory(const MeasuredPoint& point) { return point.loop.concurrency > 0.9 * point.loop.most_sequences; }

std::string load_of(const MeasuredPoint& point) {
  const sim::ClosedLoopLoad& loop = point.loop;
  if (limited_by_memory(point)) return "memory limits the batch";
  if (loop.concurrency <= 16) return "up to 16 in flight";
  return loop.concurrency <= 64 ? "17 to 64 in flight" : "more than 64 in flight";
}

/// Whole requests of the campaigns with most points, for comparison with fits of one campaign alone.
std::string large_campaigns(const PredictedOver& predicted, std::span<const MeasuredPoint* const> points) {
  std::map<std::string, std::vector<double>> campaigns;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const MeasuredPoint& point = *points[i];
    if (limited_by_memory(point)) continue;
    campaigns[fmt::format("{} {}, {}, {}, {}", point.engine.name, point.engine.version, point.gpu, point.model,
                          point.precision)]
        .push_back(predicted.whole[i]);
  }
  std::string text = "| campaign | points | whole request median % | mean | p90 |\n|---|---|---|---|---|\n";
  for (const auto& [name, ratios] : campaigns) {
    if (ratios.size() >= large_campaign)
      text += fmt::format("| {} | {} | {} |\n", name, ratios.size(), errors_of(ratios));
  }
  return text + '\n';
}

}  // namespace

std::string errors_of(std::vector<double> ratios) {
  for (double& ratio : ratios) ratio = std::abs(ratio - 1);
  std::sort(ratios.begin(), ratios.end());
  double sum = 0;
  for (const double error : ratios) sum += error;
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(ratios.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, ratios.size() - 1);
    return ratios[below] + (place - std::floor(place)) * (ratios[above] - ratios[below]);
  };
  return fmt::format("{:.1f} | {:.1f} | {:.1f}", 100 * at(0.5), 100 * sum / static_cast<double>(ratios.size()),
                     100 * at(0.9));
}

std::string errors_of(const PredictedOver& predicted) {
  return fmt::format("{} | {}", errors_of(predicted.per_output_token), errors_of(predicted.first_token));
}

PredictedOver seen(std::span<const MeasuredPoint* const> points, const std::map<std::string, std::string>& families,
                   const FittedConstants& fitted) {
  PredictedOver predicted;
  for (const MeasuredPoint* const point : points) add(predicted, *point, fitted, families.at(point->model));
  return predicted;
}

PredictedOver held_out(std::span<const MeasuredPoint* const> points, const std::map<std::string, std::string>& families,
                       const std::function<std::string(const MeasuredPoint&)>& fold_of) {
  std::vector<std::string> folds;
  for (const MeasuredPoint* const point : points) folds.push_back(fold_of(*point));
  PredictedOver predicted{std::vector<double>(points.size()), std::vector<double>(points.size()),
                          std::vector<double>(points.size())};
  for (const std::string& fold : std::set<std::string>(folds.begin(), folds.end())) {
    std::vector<const MeasuredPoint*> others, left_out;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < points.size(); ++i) {
      (folds[i] == fold ? left_out : others).push_back(points[i]);
      if (folds[i] == fold) places.push_back(i);
    }
    const PredictedOver part = seen(left_out, families, fit(others, families));
    for (std::size_t i = 0; i < places.size(); ++i) {
      predicted.first_token[places[i]] = part.first_token[i];
      predicted.per_output_token[places[i]] = part.per_output_token[i];
      predicted.whole[places[i]] = part.whole[i];
    }
  }
  return predicted;
}

std::string fold_of_measurement(const MeasuredPoint& point, int folds) {
  // Tables quote one measurement with different numbers of digits: a third of a percent apart is the same.
  return fold_of_text(fmt::format("{}|{}|{}|{}|{:.0f}", point.gpu, point.loop.prompt_tokens, point.loop.output_tokens,
                                  point.loop.concurrency, 300 * std::log(point.per_output_token_seconds)),
                      folds);
}

PredictedOver five_folds(std::span<const MeasuredPoint* const> points,
                         const std::map<std::string, std::string>& families) {
  return held_out(points, families,
                  [](const MeasuredPoint& point) { return fold_of_measurement(point, random_folds); });
}

std::string accuracy_tables(std::span<const MeasuredPoint> points, std::span<const MeasuredPoint* const> usable,
                            const std::map<std::string, std::string>& families) {
  const auto family = [&](const MeasuredPoint& point) { return families.at(point.model); };
  const auto engine = [](const MeasuredPoint& point) { return point.engine.name; };
  const auto gpu = [](const MeasuredPoint& point) { return point.gpu; };

  std::vector<const MeasuredPoint*> aggregated, disaggregated;
  for (const MeasuredPoint* const point : usable) {
    (point->prefill ? disaggregated : aggregated).push_back(point);
  }
  const auto line = [&](const std::string& name, const PredictedOver& predicted) {
    return every(name, of_mode(predicted, usable, false));
  };
  const PredictedOver both = five_folds(usable, families);
  const PredictedOver five = of_mode(both, usable, false);

  std::string text = head_of("points predicted by constants fitted to");
  text += line("all points, these included", seen(usable, families, fit(usable, families)));
  text += line("four fifths of the points, without these", both);
  text += line("points of other campaigns (engine version, model, GPU, precision)",
               held_out(usable, families, [&](const MeasuredPoint& point) {
                 return fold_of_text(key_of(Level::campaign, point, family(point)), campaign_folds);
               }));
  text += line("points of other engine versions", held_out(usable, families, [&](const MeasuredPoint& point) {
                 return fold_of_text(key_of(Level::version, point, family(point)), campaign_folds);
               }));
  text += line("points of other models", held_out(usable, families, family));
  text += line("points of other GPUs", held_out(usable, families, gpu));
  text += line("points of other engines", held_out(usable, families, engine));
  text += "\nFour fifths, without these, in parts:\n\n";
  text += by("engine", five, aggregated, engine);
  text += by("GPU", five, aggregated, gpu);
  text += by("model", five, aggregated, family);
  text += by("precision", five, aggregated, [](const MeasuredPoint& point) { return point.precision; });
  text += by("load", five, aggregated, load_of);
  text += large_campaigns(five, aggregated);

  const PredictedOver apart = of_mode(both, usable, true);
  if (!disaggregated.empty()) {
    text += head_of("disaggregated, four fifths of the points, without these");
    text += every("all", apart);
    text += lines_by(apart, disaggregated, engine);
    text += lines_by(apart, disaggregated, gpu) + '\n';
  }

  std::map<std::string, std::size_t> refused;
  for (const MeasuredPoint& point : points) {
    if (point.status != "ok") ++refused[point.status];
  }
  text += "| rows that are not predicted | number |\n|---|---|\n";
  for (const auto& [status, number] : refused) text += fmt::format("| {} | {} |\n", status, number);
  return text;
}

void replace_tables(const std::filesystem::path& document, const std::string& tables) {
  const auto fail = [&](ErrorCode code, const std::string& what) {
    throw Error(code, what, {.file = document.string(), .dataset = {}, .parameter = {}, .value = {}});
  };
  std::ifstream input(document, std::ios::binary);
  if (!input) fail(ErrorCode::file_not_found, "the document cannot be read");
  std::stringstream content;
  content << input.rdbuf();
  const std::string text = content.str();
  const std::string begin = "<!-- fitted: begin -->\n", end = "<!-- fitted: end -->\n";
  const std::size_t first = text.find(begin), last = text.find(end);
  if (first == std::string::npos || last == std::string::npos || last < first) {
    fail(ErrorCode::missing_data, "needs a line '<!-- fitted: begin -->' and, behind it, '<!-- fitted: end -->'");
  }
  std::ofstream output(document, std::ios::binary);
  output << text.substr(0, first + begin.size()) << '\n' << tables << '\n' << text.substr(last);
  output.close();
  if (!output) fail(ErrorCode::io_failure, "the document cannot be written");
}

}  // namespace evictsim::analysis
