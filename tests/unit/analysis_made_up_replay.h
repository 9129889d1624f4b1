#pragma once
/// \file
/// A replay that never happened: random results for every point, layer, row and head, handed to an observer in any
/// layer order and block size.

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "policies/budget.h"
#include "sim/replay/replay.h"

namespace evictsim::test {

/// An empty folder of its own for each test case.
inline std::filesystem::path scratch(const std::string& name) {
  std::filesystem::path folder = std::filesystem::path(EVICTSIM_TEST_SCRATCH) / name;
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

struct MadeUpReplay {
  static constexpr int query_heads = 4, kv_heads = 2, head_dim = 8, prompt_length = 40, rows = 21;

  /// [row][head] of one layer.
  using Values = std::vector<std::vector<float>>;
  /// [TokenClass][layer]
  using Classes = std::array<std::vector<Values>, sim::token_class_count>;
  struct Point {
    std::vector<Values> retained_mass, output_error, dilution, entropy;  ///< [layer]
    std::vector<Values> regret, oracle_gain, premature_evictions;        ///< [layer]
    std::vector<std::vector<double>> error_squared, output_squared;      ///< [layer][row]
    std::vector<std::vector<std::vector<std::int32_t>>> kept;            ///< [layer][cache head]
    std::vector<std::vector<std::int32_t>> resident, evicted;            ///< [layer][row * kv_heads + head]
    Classes class_mass;
    std::vector<std::vector<double>> lost_mass, premature_entries;  ///< [layer][entry]
    std::vector<std::vector<double>> lost_sinks;                    ///< [layer][row]
  };

  explicit MadeUpReplay(unsigned seed, bool with_projection = true) : generator(seed), projection(with_projection) {
    start.trace_path = "made-up.h5";
    start.name = "000000";
    start.prompt_length = prompt_length;
    start.length = prompt_length + rows;
    start.layers = {0, 3, 7};
    start.query_heads = query_heads;
    start.kv_heads = kv_heads;
    start.head_dim = head_dim;
    start.stored_bytes = 2;
    for (int row = 0; row < rows; ++row) start.decode_rows.push_back(prompt_length + row);
    for (const char* name : {"snapkv(window=4,kernel=3)", "host/tova"}) {
      evictsim::policies::Policy policy;
      policy.name = name;
      policy.expansion = std::string("expanded ") + name;
      plan.policies.push_back(policy);
    }
    for (const std::size_t policy : {0U, 1U}) {
      for (const char* budget : {"0.25", "0.5"}) plan.points.push_back({policy, policies::Budget::parse(budget)});
    }
    for (std::size_t layer = 0; layer < start.layers.size(); ++layer) {
      full_dilution.push_back(values());
      full_entropy.push_back(values());
    }
    for (std::size_t point = 0; point < plan.points.size(); ++point) points.push_back(make_point());
    full_class_mass = classes();
    for (std::size_t layer = 0; layer < start.layers.size(); ++layer) {
      auto& attention = full_attention.emplace_back();
      for (int head = 0; head < query_heads; ++head) attention.push_back(entry_values());
    }
    for (Point& point : points) {
      point.class_mass = classes();
      for (std::size_t layer = 0; layer < start.layers.size(); ++layer) {
        point.lost_mass.push_back(entry_values());
        point.premature_entries.push_back(entry_values());
        point.lost_sinks.push_back(entry_values());
      }
    }
  }

  /// Hands everything over; layers in `order` (indices into start.layers), rows in blocks of `block_rows`.
  void send(sim::ReplayObserver& observer, const std::vector<std::size_t>& order, std::size_t block_rows) const {
    observer.begin_sequence(start);
    for (const std::size_t layer : order) send_layer(observer, layer, block_rows);
    observer.end_sequence();
  }

  void send_layer(sim::ReplayObserver& observer, std::size_t layer, std::size_t block_rows) const {
    for (std::size_t point = 0; point < points.size(); ++point) {
      sim::PromptCut cut;
      cut.point = point;
      cut.layer = layer;
      cut.cache_heads = kv_heads;
      cut.kept = points[point].kept[layer];
      cut.scores.assign(kv_heads, std::vector<float>(prompt_length, static_cast<float>(point)));
      cut.oracle_overlap = {0.25, 0.75};
      cut.scored_entries = point == 0 ? 0 : 80;
      observer.prompt_cut(std::move(cut));
    }
    const std::vector<std::int32_t>& all = start.decode_rows;
    for (std::size_t first = 0; first < all.size(); first += block_rows) {
      const std::size_t count = std::min(block_rows, all.size() - first);
      const std::span<const std::int32_t> block(all.data() + first, count);
      const std::vector<float> dilution = dense(full_dilution[layer], first, count);
      const std::vector<float> entropy = dense(full_entropy[layer], first, count);
      const auto masses = dense(full_class_mass, layer, first, count);
      observer.full_block({layer, block, view(dilution, count), view(entropy, count), masses});
      for (std::size_t point = 0; point < points.size(); ++point) send_block(observer, point, layer, first, count);
    }
    observer.full_entries({layer, full_attention[layer], full_attention[layer]});
    for (std::size_t point = 0; point < points.size(); ++point) {
      observer.entry_losses({point, layer, points[point].lost_mass[layer], points[point].premature_entries[layer]});
    }
  }

  std::mt19937 generator;
  bool projection;
  sim::SequenceStart start;
  sim::ReplayPlan plan;
  std::vector<Values> full_dilution, full_entropy;
  Classes full_class_mass;
  std::vector<std::vector<std::vector<double>>> full_attention;  ///< [layer][query head][entry]
  std::vector<Point> points;

 private:
  Values values() {
    std::uniform_real_distribution<float> distribution(0.0F, 1.0F);
    Values made(rows, std::vector<float>(query_heads));
    for (std::vector<float>& row : made) {
      for (float& value : row) value = distribution(generator);
    }
    return made;
  }

  Classes classes() {
    Classes made;
    for (std::vector<Values>& layers : made) {
      for (std::size_t layer = 0; layer < start.layers.size(); ++layer) layers.push_back(values());
    }
    return made;
  }
  std::vector<double> entry_values() {
    std::uniform_real_distribution<double> distribution(0.0, 1.0);
    std::vector<double> made(prompt_length + rows);
    for (double& value : made) value = distribution(generator);
    return made;
  }

  Point make_point() {
    std::uniform_real_distribution<double> distribution(0.0, 3.0);
    Point point;
    for (std::size_t layer = 0; layer < start.layers.size(); ++layer) {
      point.retained_mass.push_back(values());
      point.output_error.push_back(values());
      point.dilution.push_back(values());
      point.entropy.push_back(values());
      point.regret.push_back(values());
      point.oracle_gain.push_back(values());
      point.premature_evictions.push_back(values());
      std::vector<double>& error = point.error_squared.emplace_back();
      std::vector<double>& output = point.output_squared.emplace_back();
      for (int row = 0; row < rows; ++row) {
        error.push_back(distribution(generator));
        output.push_back(1.0 + distribution(generator));
      }
      auto& heads = point.kept.emplace_back();
      for (int head = 0; head < kv_heads; ++head) {
        std::vector<std::int32_t> all(prompt_length);
        std::iota(all.begin(), all.end(), 0);
        std::shuffle(all.begin(), all.end(), generator);
        all.resize(5 + generator() % 20);
        std::sort(all.begin(), all.end());
        heads.push_back(all);
      }
      std::vector<std::int32_t>& resident = point.resident.emplace_back();
      std::vector<std::int32_t>& evicted = point.evicted.emplace_back();
      for (int place = 0; place < rows * kv_heads; ++place) {
        resident.push_back(static_cast<std::int32_t>(10 + generator() % 20));
        evicted.push_back(static_cast<std::int32_t>(generator() % 3));
      }
    }
    return point;
  }

  static std::vector<float> dense(const Values& values, std::size_t first, std::size_t count) {
    std::vector<float> made;
    for (std::size_t row = first; row < first + count; ++row)
      made.insert(made.end(), values[row].begin(), values[row].end());
    return made;
  }
  static std::array<models::Matrix, sim::token_class_count> dense(const Classes& classes, std::size_t layer,
                                                                  std::size_t first, std::size_t count) {
    std::array<models::Matrix, sim::token_class_count> made;
    for (std::size_t kind = 0; kind < made.size(); ++kind) {
      made[kind] = view(dense(classes[kind][layer], first, count), count);
    }
    return made;
  }
  static models::MatrixView view(const std::vector<float>& values, std::size_t count) {
    return models::view(values.data(), static_cast<models::Index>(count), query_heads);
  }

  void send_block(sim::ReplayObserver& observer, std::size_t index, std::size_t layer, std::size_t first,
                  std::size_t count) const {
    const Point& point = points[index];
    const std::vector<float> mass = dense(point.retained_mass[layer], first, count);
    const std::vector<float> error = dense(point.output_error[layer], first, count);
    const std::vector<float> dilution = dense(point.dilution[layer], first, count);
    const std::vector<float> entropy = dense(point.entropy[layer], first, count);
    const std::vector<float> regret = dense(point.regret[layer], first, count);
    const std::vector<float> gain = dense(point.oracle_gain[layer], first, count);
    const std::vector<float> premature = dense(point.premature_evictions[layer], first, count);
    const auto masses = dense(point.class_mass, layer, first, count);
    std::span<const double> error_squared;
    std::span<const double> output_squared;
    if (projection) {
      error_squared = std::span(point.error_squared[layer]).subspan(first, count);
      output_squared = std::span(point.output_squared[layer]).subspan(first, count);
    }
    // The second policy cuts while decoding: entry e is resident in row r when e % (r + 2) != 0.
    std::vector<std::vector<std::uint8_t>> resident_rows;
    if (plan.points[index].policy == 1) {
      resident_rows.assign(kv_heads, {});
      for (std::vector<std::uint8_t>& head : resident_rows) {
        for (std::size_t row = first; row < first + count; ++row) {
          for (std::size_t entry = 0; entry < static_cast<std::size_t>(start.length); ++entry) {
            head.push_back(entry % (row + 2) != 0);
          }
        }
      }
    }
    observer.layer_block({.point = index,
                          .layer = layer,
                          .rows = std::span(start.decode_rows).subspan(first, count),
                          .retained_mass = view(mass, count),
                          .output_error = view(error, count),
                          .dilution = view(dilution, count),
                          .entropy = view(entropy, count),
                          .class_mass = masses,
                          .regret = view(regret, count),
                          .oracle_gain = view(gain, count),
                          .premature_evictions = view(premature, count),
                          .lost_sink_mass = std::span(point.lost_sinks[layer]).subspan(first, count),
                          .error_squared = error_squared,
                          .output_squared = output_squared,
                          .resident = std::span(point.resident[layer]).subspan(first * kv_heads, count * kv_heads),
                          .evicted = std::span(point.evicted[layer]).subspan(first * kv_heads, count * kv_heads),
                          .cuts = static_cast<std::int64_t>(resident_rows.empty() ? 0 : count),
                          .scored_entries = static_cast<std::int64_t>(resident_rows.empty() ? 0 : 25 * count),
                          .resident_rows = resident_rows});
  }
};

}  // namespace evictsim::test
