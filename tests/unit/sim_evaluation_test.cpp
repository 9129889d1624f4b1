// Do the engine's metrics of kept sets equal those computed from q, k and v in double precision?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "sim/replay/evaluation.h"
#include "sim/replay/layer_cache.h"
#include "tests/support/layer_tiles.h"
#include "tests/support/memory_trace_exact.h"

namespace {

using namespace evictsim;
using namespace evictsim::sim;
using namespace evictsim::test;
using policies::Granularity;

constexpr double tolerance = 2e-5;  // float32 products of at most 100 terms of size 1 to 10

/// The blocks of decode rows that a replay would walk through with `block` rows per tile.
std::vector<Tile> make_tiles(const LayerData& layer, std::size_t block, Index useful_entries) {
  std::vector<std::vector<double>> mass;
  std::vector<Tile> tiles = attended_tiles(layer, block, mass);
  for (Tile& tile : tiles) find_useful_sets(layer, mass, std::ssize(layer.decode_rows()), useful_entries, tile);
  return tiles;
}

/// Worst difference between one member's metrics and the exact ones.
class Comparison {
 public:
  explicit Comparison(const MemoryTrace& trace) : trace_(trace), exact_(trace) {}

  void add(const Tile& tile, const BlockMetrics& metrics, std::size_t member, int query_head, Index r,
           const std::vector<bool>& resident, const std::vector<std::int32_t>& useful) {
    const std::int32_t row = tile.rows[static_cast<std::size_t>(r)];
    const ExactLayer::Metrics expected = exact_.metrics(query_head, row, resident, useful);
    see(metrics.retained_mass[member](r, query_head), expected.retained_mass);
    see(metrics.output_error[member](r, query_head), expected.output_error);
    see(metrics.entropy[member](r, query_head), expected.entropy);
    if (std::isnan(expected.dilution)) {
      REQUIRE(std::isnan(metrics.dilution[member](r, query_head)));
    } else {
      see(metrics.dilution[member](r, query_head), expected.dilution);
    }
    const int dim = trace_.header.head_dim;
    for (int c = 0; c < dim; ++c) {
      see(metrics.difference(static_cast<Index>(member) * tile.size() + r, query_head * dim + c),
          expected.difference[static_cast<std::size_t>(c)]);
    }
    ++compared;
  }

  void see(float found, double expected) {
    const double error = std::abs(static_cast<double>(found) - expected) / std::max(1.0, std::abs(expected));
    worst = error <= worst ? worst : error;  // also takes NaN
  }

  double worst = 0;
  int compared = 0;

 private:
  const MemoryTrace& trace_;
  ExactLayer exact_;
};

std::vector<TraceShape> shapes() {
  TraceShape plain{.layers = 1, .query_heads = 6, .kv_heads = 2, .head_dim = 8, .prompt_length = 40, .length = 60};
  TraceShape capped = plain;
  capped.softcap = 3;
  TraceShape sliding = plain;
  sliding.sliding_window = {23};
  sliding.position_step = 2;
  TraceShape gaps = plain;
  gaps.q_rows = {3, 38, 39, 40, 43, 44, 50, 51, 59};
  TraceShape evidence = plain;
  evidence.evidence = {{4, 7}, {6, 9}, {30, 31}};
  TraceShape one_row = plain;
  one_row.q_rows = {41};
  TraceShape single_group = plain;
  single_group.query_heads = 2;
  TraceShape steep = plain;
  steep.query_spread = 30;
  return {plain, capped, sliding, gaps, evidence, one_row, single_group, steep};
}

/// Useful entries by the definition; those of the evidence spans where there are any.
std::vector<std::int32_t> useful_rows(const ExactLayer& exact, const MemoryTrace& trace, int query_head,
                                      std::int32_t row, std::size_t count) {
  if (trace.sequences[0].info.spans.contains("evidence")) return {4, 5, 6, 7, 8, 30};
  const std::vector<std::int32_t> rows = exact.decode_rows();
  return rows.size() < 2 ? std::vector<std::int32_t>{} : exact.useful(query_head, row, rows, count);
}

std::vector<std::int32_t> rows_of(const std::vector<UsefulSets::Entry>& entries) {
  std::vector<std::int32_t> rows;
  for (const UsefulSets::Entry& entry : entries) rows.push_back(entry.row);
  return rows;
}

}  // namespace

TEST_CASE("full attention of a tile") {
  for (const TraceShape& shape : shapes()) {
    const MemoryTrace trace = random_trace(shape);
    const LoadedLayer layer(trace);
    const ExactLayer exact(trace);
    for (const Tile& tile : make_tiles(layer.data(), 3, 5)) {
      Comparison comparison(trace);
      CHECK(tile.entries == tile.rows.back() + 1);
      for (Index r = 0; r < tile.size(); ++r) {
        const std::int32_t row = tile.rows[static_cast<std::size_t>(r)];
        for (int head = 0; head < shape.query_heads; ++head) {
          const std::vector<double> weights = exact.weights(head, row);
          const std::vector<double> output = exact.output(head, weights);
          for (int c = 0; c < shape.head_dim; ++c) {
            comparison.see(tile.output(r, head * shape.head_dim + c), output[static_cast<std::size_t>(c)]);
          }
          double entropy = 0;
          for (const double weight : weights) entropy -= weight > 0 ? weight * std::log(weight) : 0;
          comparison.see(tile.entropy(r, head), entropy);
        }
      }
      CHECK(comparison.worst < tolerance);
    }
  }
}

TEST_CASE("useful entries are those with the largest mass in the other rows") {
  const Index count = GENERATE(1, 5, 100);
  for (const TraceShape& shape : shapes()) {
    const MemoryTrace trace = random_trace(shape);
    const LoadedLayer layer(trace);
    const ExactLayer exact(trace);
    // Where a window hides most of the prompt, all hidden entries have the same mass, nothing: the older one is taken.
    for (const Tile& tile : make_tiles(layer.data(), 7, count)) {
      for (Index r = 0; r < tile.size(); ++r) {
        for (int head = 0; head < shape.query_heads; ++head) {
          const std::int32_t row = tile.rows[static_cast<std::size_t>(r)];
          const std::vector<std::int32_t> expected =
              useful_rows(exact, trace, head, row, static_cast<std::size_t>(count));
          REQUIRE(rows_of(tile.useful.at(head, r)) == expected);
          const std::vector<double> weights = exact.weights(head, row);
          double mass = 0;
          for (const std::int32_t j : expected) mass += weights[static_cast<std::size_t>(j)];
          if (expected.empty()) {
            REQUIRE(std::isnan(tile.dilution(r, head)));
          } else {
            REQUIRE(tile.dilution(r, head) == Approx(1 - mass).margin(tolerance));
          }
        }
      }
    }
  }
}

TEST_CASE("nested kept sets in one pass") {
  const auto granularity = GENERATE(Granularity::kv_head, Granularity::query_head);
  const std::size_t block = GENERATE(std::size_t{4}, std::size_t{100});
  for (const TraceShape& shape : shapes()) {
    const MemoryTrace trace = random_trace(shape);
    const LoadedLayer layer(trace);
    const ExactLayer exact(trace);
    const std::vector<CacheHead> heads = cache_heads(layer.data(), granularity);
    REQUIRE(heads.size() ==
            static_cast<std::size_t>(granularity == Granularity::kv_head ? shape.kv_heads : shape.query_heads));

    // Random levels: 0 .. 3 members, 4 = never kept, differently in every head.
    std::mt19937_64 generator(5);
    KeptChain chain{.points = {7, 8, 9, 10}, .level = {}};
    for (std::size_t head = 0; head < heads.size(); ++head) {
      chain.level.emplace_back();
      for (std::int32_t row = 0; row < shape.prompt_length; ++row) {
        chain.level.back().push_back(static_cast<std::uint16_t>(generator() % 5));
      }
    }
    Comparison comparison(trace);
    for (const Tile& tile : make_tiles(layer.data(), block, 5)) {
      BlockMetrics metrics(4, tile.size(), layer.data().geometry());
      for (std::size_t head = 0; head < heads.size(); ++head) {
        evaluate_chain(layer.data(), tile, chain, head, heads[head], metrics);
      }
      for (std::size_t member = 0; member < 4; ++member) {
        for (std::size_t head = 0; head < heads.size(); ++head) {
          std::vector<std::int32_t> kept;
          for (std::int32_t row = 0; row < shape.prompt_length; ++row) {
            if (chain.level[head][static_cast<std::size_t>(row)] <= member) kept.push_back(row);
          }
          const std::vector<bool> resident = resident_set(kept, shape.prompt_length, shape.length);
          for (int g = 0; g < heads[head].query_heads; ++g) {
            const int query_head = heads[head].first_query_head + g;
            for (Index r = 0; r < tile.size(); ++r) {
              comparison.add(tile, metrics, member, query_head, r, resident, rows_of(tile.useful.at(query_head, r)));
            }
          }
        }
      }
    }
    CHECK(comparison.compared == 4 * shape.query_heads * static_cast<int>(layer.data().decode_rows().size()));
    CHECK(comparison.worst < tolerance);
  }
}

TEST_CASE("everything kept is exactly no error") {
  for (const TraceShape& shape : shapes()) {
    const MemoryTrace trace = random_trace(shape);
    const LoadedLayer layer(trace);
    const KeptChain chain{.points = {0, 1},
                          .level = {static_cast<std::size_t>(shape.kv_heads),
                                    std::vector<std::uint16_t>(static_cast<std::size_t>(shape.prompt_length), 0)}};
    for (const Tile& tile : make_tiles(layer.data(), 100, 5)) {
      BlockMetrics metrics(2, tile.size(), layer.data().geometry());
      const auto heads = cache_heads(layer.data(), Granularity::kv_head);
      for (std::size_t head = 0; head < heads.size(); ++head) {
        evaluate_chain(layer.data(), tile, chain, head, heads[head], metrics);
      }
      CHECK(metrics.difference.isZero(0));
      CHECK(metrics.output_error[1].isZero(0));
      CHECK(metrics.retained_mass[0].minCoeff() > 1 - 1e-5F);
    }
  }
}

TEST_CASE("residency that changes from row to row") {
  const auto granularity = GENERATE(Granularity::kv_head, Granularity::query_head);
  const std::size_t block = GENERATE(std::size_t{4}, std::size_t{100});
  for (const TraceShape& shape : shapes()) {
    const MemoryTrace trace = random_trace(shape);
    const LoadedLayer layer(trace);
    const std::vector<CacheHead> heads = cache_heads(layer.data(), granularity);
    std::mt19937_64 generator(6);
    std::vector<std::vector<std::int32_t>> last_row(heads.size());
    for (auto& rows : last_row) {
      for (std::int32_t j = 0; j < shape.length; ++j) {
        // An entry is attended at least by its own row; a third stays for good.
        const std::int32_t earliest = std::max(j, shape.prompt_length - 1);
        const auto spread = static_cast<std::uint64_t>(shape.length - earliest);
        rows.push_back(generator() % 3 == 0 ? never_evicted
                                            : earliest + static_cast<std::int32_t>(generator() % spread));
      }
    }
    Comparison comparison(trace);
    for (const Tile& tile : make_tiles(layer.data(), block, 5)) {
      BlockMetrics metrics(1, tile.size(), layer.data().geometry());
      for (std::size_t head = 0; head < heads.size(); ++head) {
        evaluate_resident(layer.data(), tile, last_row[head], heads[head], 0, metrics);
        for (int g = 0; g < heads[head].query_heads; ++g) {
          const int query_head = heads[head].first_query_head + g;
          for (Index r = 0; r < tile.size(); ++r) {
            const std::int32_t row = tile.rows[static_cast<std::size_t>(r)];
            std::vector<bool> resident;
            for (const std::int32_t last : last_row[head]) resident.push_back(last >= row);
            comparison.add(tile, metrics, 0, query_head, r, resident, rows_of(tile.useful.at(query_head, r)));
          }
        }
      }
    }
    CHECK(comparison.compared > 0);
    CHECK(comparison.worst < tolerance);
  }
}

TEST_CASE("rows that still attend to everything lose exactly nothing") {
  const auto granularity = GENERATE(Granularity::kv_head, Granularity::query_head);
  const std::size_t block = GENERATE(std::size_t{4}, std::size_t{100});
  const TraceShape shape{
      .layers = 1, .query_heads = 6, .kv_heads = 2, .head_dim = 8, .prompt_length = 20, .length = 37};
  // No entry at all, one of the prompt, one that was decoded.
  const std::int32_t evicted = GENERATE(-1, 7, 22);
  constexpr std::int32_t last_reader = 26;
  const MemoryTrace trace = random_trace(shape);
  const LoadedLayer layer(trace);
  std::vector<std::int32_t> last_row(static_cast<std::size_t>(shape.length), never_evicted);
  if (evicted >= 0) last_row[static_cast<std::size_t>(evicted)] = last_reader;
  for (const Tile& tile : make_tiles(layer.data(), block, 5)) {
    BlockMetrics metrics(1, tile.size(), layer.data().geometry());
    for (const CacheHead& head : cache_heads(layer.data(), granularity)) {
      evaluate_resident(layer.data(), tile, last_row, head, 0, metrics);
    }
    for (Index r = 0; r < tile.size(); ++r) {
      const bool whole = evicted < 0 || tile.rows[static_cast<std::size_t>(r)] <= last_reader;
      REQUIRE((metrics.difference.row(r).array() == 0).all() == whole);
      REQUIRE((metrics.output_error[0].row(r).array() == 0).all() == whole);
    }
  }
}

TEST_CASE("what is left has next to no mass") {
  // A sink takes all but `rest` of the softmax and is evicted: the float32 probabilities of what is left are gone.
  const double logit = GENERATE(40.0, 58.0, 69.0, 95.0, 300.0, 20000.0);
  TraceShape shape{.layers = 1, .query_heads = 2, .kv_heads = 1, .head_dim = 8, .prompt_length = 20, .length = 26};
  MemoryTrace trace = random_trace(shape);
  for (std::int32_t row = 0; row < shape.length; ++row) trace.key(0, 0, row, 0) = 0;
  trace.key(0, 0, 0, 0) = 1;
  for (int head = 0; head < 2; ++head) {
    for (std::int32_t row = 0; row < shape.length; ++row) {
      trace.query(0, head, row, 0) = static_cast<float>(logit / trace.header.attention_scale);
    }
  }
  const LoadedLayer layer(trace);
  std::vector<std::uint16_t> levels(20, 0);
  levels[0] = 2;
  levels[7] = 1;
  const KeptChain chain{.points = {0, 1}, .level = {levels}};
  std::vector<std::int32_t> last_row(26, never_evicted);
  last_row[0] = 19;
  last_row[7] = 19;
  const std::vector<CacheHead> heads = cache_heads(layer.data(), Granularity::kv_head);
  const std::vector<Tile> tiles = make_tiles(layer.data(), 100, 4);
  REQUIRE(tiles.size() == 1);
  const Tile& tile = tiles[0];
  BlockMetrics at_once(2, tile.size(), layer.data().geometry());
  BlockMetrics by_row(1, tile.size(), layer.data().geometry());
  evaluate_chain(layer.data(), tile, chain, 0, heads[0], at_once);
  evaluate_resident(layer.data(), tile, last_row, heads[0], 0, by_row);
  Comparison comparison(trace);
  std::vector<bool> without_both = resident_set({}, 0, 26);
  without_both[0] = false;
  std::vector<bool> without_sink = without_both;
  without_both[7] = false;
  const ExactLayer exact(trace);
  for (int head = 0; head < 2; ++head) {
    for (Index r = 0; r < tile.size(); ++r) {
      // Which of the nearly massless entries is useful is rounding: take the engine's choice.
      const std::vector<std::int32_t> useful = rows_of(tile.useful.at(head, r));
      CHECK(useful.front() == 0);
      comparison.add(tile, at_once, 0, head, r, without_both, useful);
      comparison.add(tile, at_once, 1, head, r, without_sink, useful);
      comparison.add(tile, by_row, 0, head, r, without_both, useful);
      CHECK(by_row.output_error[0](r, head) > 0.01F);
    }
  }
  // Values are of size 1 and logits up to 300 have float32 errors of 1e-5.
  CHECK(comparison.worst < 1e-4);
}
