// Do the allocators that split a budget over layers and heads count as their sources do?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "policies/kvpress.h"
#include "policies/policy.h"
#include "tests/support/cache_double.h"
#include "tests/support/weights_file.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;

namespace {

using Counts = std::vector<std::vector<Index>>;

/// Layers that hold the given scores, all heads alike in length; what is NaN is protected.
struct Layers {
  std::vector<LayerScores> scores;
  std::vector<std::vector<double>> measured;
  Index prompt_length = 0;

  void add(const std::vector<std::vector<float>>& rows, std::vector<double> measurement = {}) {
    CacheDouble cache({.query_heads = static_cast<int>(rows.size()),
                       .kv_heads = static_cast<int>(rows.size()),
                       .head_dim = 2,
                       .prompt = static_cast<int>(rows[0].size()),
                       .length = static_cast<int>(rows[0].size())});
    LayerScores layer(cache);
    for (int head = 0; head < layer.heads(); ++head) {
      const std::vector<float>& row = rows[static_cast<std::size_t>(head)];
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (std::isnan(row[i])) {
          layer.protect(head, static_cast<Index>(i));
        } else {
          layer.of(head)[i] = row[i];
        }
      }
    }
    scores.push_back(std::move(layer));
    measured.push_back(std::move(measurement));
    prompt_length = std::ssize(rows[0]);
  }

  [[nodiscard]] Counts counts(const std::string& policy, std::int64_t entries, double exact = -1,
                              Index seen = -1) const {
    std::vector<AllocationRequest> requests;
    Counts all;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      requests.push_back({.budget = {.cached = std::ssize(scores[i].of(0)),
                                     .entries = entries,
                                     .exact_entries = exact < 0 ? static_cast<double>(entries) : exact},
                          .layer = static_cast<int>(i),
                          .num_layers = static_cast<int>(scores.size()),
                          .scores = &scores[i],
                          .prompt_length = prompt_length,
                          .seen = seen < 0 ? prompt_length : seen,
                          .measured = measured[i]});
      all.emplace_back(static_cast<std::size_t>(scores[i].heads()), Index{-1});
    }
    parse_policy(policy).allocator->allocate_model(requests, all);
    // As the engine does.
    for (std::size_t layer = 0; layer < all.size(); ++layer) {
      for (std::size_t head = 0; head < all[layer].size(); ++head) {
        all[layer][head] = std::min(all[layer][head], std::ssize(scores[layer].of(static_cast<int>(head))));
      }
    }
    return all;
  }
};

const float window = std::nanf("");

/// `count` scores drawn evenly from [0, 1), then two protected entries.
std::vector<float> random_row(std::mt19937& generator, int count, double power) {
  std::vector<float> row;
  for (int i = 0; i < count; ++i) {
    row.push_back(static_cast<float>(std::pow(static_cast<double>(generator() >> 8) * 0x1p-24, power)));
  }
  row.insert(row.end(), {window, window});
  return row;
}

Index total(const Counts& counts) {
  Index sum = 0;
  for (const auto& layer : counts) sum += std::accumulate(layer.begin(), layer.end(), Index{0});
  return sum;
}

}  // namespace

TEST_CASE("LAVa: layers share by the entropy of their scores, heads by their scores") {
  Layers layers;
  layers.add({{4, 4, 4, 4, window}, {4, 4, 4, 4, window}});  // entropy ln 8
  layers.add({{1, 1, 0, 0, window}, {1, 1, 0, 0, window}});  // entropy ln 4, two thirds of it
  // 2 * 2.5 entries beside the window at 3.5 ... whole: 2 layers * (4 - 1) = 6, 3.6 and 2.4 of them.
  const Counts no_floor = layers.counts("lava(window=1,alpha=0)", 4);
  // Ties go to the lower head: 6 seats of the first layer's 8, 4 of the second layer's.
  CHECK(no_floor == Counts{{4 + 1, 2 + 1}, {2 + 1, 2 + 1}});
  // clean: floors int(0.5 * 3.6) = 1 and int(0.5 * 2.4) = 1; round(4 * 0.5 + 1), round(2 * 0.5 + 1), ...
  CHECK(layers.counts("lava(window=1,alpha=0.5)", 4) == Counts{{3 + 1, 2 + 1}, {2 + 1, 2 + 1}});
  // as_code: the floor is int(0.5 * 4) = 2, whatever the layer has.
  CHECK(layers.counts("lava(window=1,alpha=0.5,floor_mode=as_code)", 4) == Counts{{4 + 1, 3 + 1}, {3 + 1, 3 + 1}});
  // A layer whose part exceeds its prefix keeps everything; a budget within the window is shared by nobody.
  CHECK(layers.counts("lava(window=1,alpha=0)", 5)[0] == std::vector<Index>{4 + 1, 4 + 1});
  CHECK(layers.counts("lava(window=1)", 1) == Counts{{1, 1}, {1, 1}});
}

TEST_CASE("LAVa: a layer's scale does not count, and layers not yet seen only take") {
  std::mt19937 generator(3);
  std::vector<std::vector<std::vector<float>>> rows;
  for (const double power : {1.0, 4.0, 2.0, 8.0}) {
    rows.push_back({random_row(generator, 40, power), random_row(generator, 40, 2 * power)});
  }
  for (const char* mode : {"clean", "as_code"}) {
    const std::string policy = "lava(window=2,alpha=0.2,floor_mode=" + std::string(mode) + ")";
    Layers all;
    Counts previous;
    for (const auto& layer : rows) {
      all.add(layer);
      // The cascade: budgets for the layers seen so far, with the whole model's total.
      const auto entries = static_cast<std::int64_t>(10 * 4 / all.scores.size()) + 2;
      const Counts now = all.counts(policy, entries);
      if (std::string(mode) == "clean") {
        for (std::size_t seen = 0; seen < previous.size(); ++seen) {
          CHECK(std::accumulate(now[seen].begin(), now[seen].end(), Index{0}) <=
                std::accumulate(previous[seen].begin(), previous[seen].end(), Index{0}) + 1);
        }
      }
      previous = now;
    }
    const Counts before = all.counts(policy, 12);
    Layers louder = all;
    for (int head = 0; head < 2; ++head) {
      for (float& score : louder.scores[1].of(head)) score *= 256;
    }
    CHECK(louder.counts(policy, 12) == before);
    // Two truncations per layer and one rounding per head.
    if (std::string(mode) == "clean") CHECK(std::abs(total(before) - 4 * 2 * 12) <= 4 * 2 * 2);
  }
}

TEST_CASE("SqueezeAttention: the layers that change least keep p, the others share what that frees") {
  Layers layers;
  // 0.5 and 0.52, 0.7, and 0.9 with 0.91.
  for (const double similarity : {0.9, 0.5, 0.91, 0.52, 0.7}) {
    layers.add({std::vector<float>(100, 1.0F)}, {similarity});
  }
  const Counts counts = layers.counts("squeezeattention(window,p=0.4)", 50, 50.0);
  // 0.2 * 100; (5 * 0.5 - 2 * 0.2) / 3 = 0.7
  CHECK(counts == Counts{{20}, {70}, {20}, {70}, {70}});
  CHECK(total(counts) == 5 * 50);
  CHECK(layers.counts("squeezeattention(window,p=1)", 50, 50.0) == Counts{{50}, {50}, {50}, {50}, {50}});
}

TEST_CASE("SqueezeAttention: fewer layers or values than clusters") {
  Layers two;
  two.add({std::vector<float>(10, 1.0F)}, {0.5});
  two.add({std::vector<float>(10, 1.0F)}, {0.9});
  CHECK(two.counts("squeezeattention(window)", 5) == Counts{{5}, {5}});
  Layers alike;
  for (int layer = 0; layer < 4; ++layer) alike.add({std::vector<float>(10, 1.0F)}, {0.5});
  CHECK(alike.counts("squeezeattention(window)", 5) == Counts{{5}, {5}, {5}, {5}});
  alike.add({std::vector<float>(10, 1.0F)}, {0.6});  // two clusters: the highest one is reduced
  CHECK(alike.counts("squeezeattention(window)", 5) == Counts{{5}, {5}, {5}, {5}, {2}});
}

TEST_CASE("SqueezeAttention measures the prompt's mean similarity, and hands on what an inner allocator measured") {
  CacheDouble cache({.prompt = 4, .length = 6});
  cache.channels[{traces::Channel::cos_attention, 1}] = {0.5F, 0.75F, 1.0F, 0.25F, -1.0F, -1.0F};
  cache.channels[{traces::Channel::entropy_top, 1}] = {1, 2, 3, 4, 5, 6};
  cache.channels[{traces::Channel::cos_final, 1}] = {0, 0, 0, 0, 0, 0};
  const Policy plain = parse_policy("squeezeattention(window)");
  CHECK(plain.allocator->measure(cache) == std::vector<double>{0.625});
  CHECK(plain.needs.channels == std::set<traces::Channel>{traces::Channel::cos_attention});
  const Policy nested = parse_policy("squeezeattention(infokv(layers=information))");
  // (1 - 0 + 1) * (1 + 1 + 2 + 3): the entropy of the token before, of the first its own
  CHECK(nested.allocator->measure(cache) == std::vector<double>{0.625, 14.0});
  CHECK(nested.needs.channels.size() == 3);
}

TEST_CASE("information shares: layers get entries in proportion") {
  Layers layers;
  layers.add({std::vector<float>(20, 1.0F), std::vector<float>(20, 1.0F)}, {1.0});
  layers.add({std::vector<float>(20, 1.0F), std::vector<float>(20, 1.0F)}, {3.0});
  CHECK(layers.counts("infokv(layers=information)", 9) == Counts{{4, 4}, {13, 13}});
  layers.measured = {{0.0}, {0.0}};
  CHECK(layers.counts("infokv(layers=information)", 9) == Counts{{9, 9}, {9, 9}});
}

TEST_CASE("LU-KV: counts from the table's row, with the largest remainders rounded up") {
  std::vector<float> ratios(99 * 3, 0.0F);
  for (std::size_t percent = 1; percent <= 99; ++percent) {
    const float uniform = static_cast<float>(percent) / 100.0F;
    ratios[(percent - 1) * 3] = uniform;
    ratios[(percent - 1) * 3 + 1] = uniform;
    ratios[(percent - 1) * 3 + 2] = uniform;
  }
  ratios[49 * 3] = 0.25F;  // at 50 %
  ratios[49 * 3 + 1] = 0.875F;
  ratios[49 * 3 + 2] = 0.4375F;
  const std::string path = std::string(EVICTSIM_TEST_SCRATCH) + "/lukv_table.h5";
  tests::WeightsFile(path).write("layer_000/prune_ratios", {{99, 3}, ratios});
  Layers layers;
  layers.add(std::vector<std::vector<float>>(3, std::vector<float>(10, 1.0F)));
  const std::string policy = "lukv(table=\"" + path + "\")";
  // 7.5, 1.25, 5.625: together 14.375, rounded 14; one more for the largest remainder.
  CHECK(layers.counts(policy, 5) == Counts{{7, 1, 6}});
  // 0.3 * 10 in single precision: 3 each but for the sum's rounding; 96 % removed: at least one stays.
  CHECK(total(layers.counts(policy, 3)) == 9);
  CHECK(layers.counts(policy, 0, 0.4) == Counts{{1, 1, 1}});
  CHECK(layers.counts(policy, 10) == Counts{{10, 10, 10}});
  const Policy parsed = parse_policy(policy);
  CHECK(parsed.protections.size() == 2);
  CHECK(parsed.needs.parameters.empty());
  CHECK(parse_policy(parsed.expansion).expansion == parsed.expansion);
  CHECK(parse_policy("lukv").needs.parameters.size() == 1);

  // The published layout, [99, L, H_kv]: layer 1 is a table of halves.
  std::vector<float> published;
  for (std::size_t percent = 0; percent < 99; ++percent) {
    published.insert(published.end(), ratios.begin() + static_cast<std::ptrdiff_t>(percent * 3),
                     ratios.begin() + static_cast<std::ptrdiff_t>(percent * 3 + 3));
    published.insert(published.end(), 3, 0.5F);
  }
  const std::string whole = std::string(EVICTSIM_TEST_SCRATCH) + "/lukv_published.h5";
  tests::WeightsFile(whole).write("curves/prune_ratios", {{99, 2, 3}, published});
  Layers both;
  both.add(std::vector<std::vector<float>>(3, std::vector<float>(10, 1.0F)));
  both.add(std::vector<std::vector<float>>(3, std::vector<float>(10, 1.0F)));
  CHECK(both.counts("lukv(table=\"" + whole + ":/curves\")", 5) == Counts{{7, 1, 6}, {5, 5, 5}});
  const std::string flat = std::string(EVICTSIM_TEST_SCRATCH) + "/lukv_flat.h5";
  tests::WeightsFile(flat).write("prune_ratios", {{99, 6}, published});
  CHECK_THROWS_WITH(parse_policy("lukv(table=\"" + flat + "\")"), Catch::Contains("[99, layers, H_kv]"));
  tests::WeightsFile(flat).write("others", {{99, 6}, published});
  CHECK_THROWS_WITH(parse_policy("lukv(table=\"" + flat + "\")"), Catch::Contains("prune_ratios"));

  CHECK_THROWS_AS(parse_policy("lukv(table=nowhere.h5)"), Error);
  CHECK_THROWS_AS(parse_policy("lukv(pyramidkv,table=\"" + path + "\")"), Error);
  layers.add(std::vector<std::vector<float>>(3, std::vector<float>(10, 1.0F)));  // a layer the table lacks
  CHECK_THROWS_AS(layers.counts(policy, 5), Error);
}

TEST_CASE("DuoAttention: the heads that need the middle least keep sinks and the newest only") {
  Layers layers;
  layers.add({std::vector<float>(30, 1.0F), std::vector<float>(30, 1.0F)}, {0.9, 0.1});
  layers.add({std::vector<float>(30, 1.0F), std::vector<float>(30, 1.0F)}, {0.3, 0.2});
  CHECK(layers.counts("duoattention(sparsity=0.5,sinks=2,recent=5)", 3) == Counts{{30, 7}, {30, 7}});
  CHECK(layers.counts("duoattention(sparsity=0,sinks=2,recent=5)", 3) == Counts{{30, 30}, {30, 30}});
  CHECK(layers.counts("duoattention(sparsity=1,sinks=2,recent=50)", 3) == Counts{{30, 30}, {30, 30}});
  // round(4 * 0.375) = round(1.5) = 2, half to even
  CHECK(layers.counts("duoattention(sparsity=0.375,sinks=2,recent=5)", 3) == Counts{{30, 7}, {30, 7}});
  CHECK(layers.counts("duoattention(sparsity=0.125,sinks=2,recent=5)", 3) == Counts{{30, 30}, {30, 30}});
}

TEST_CASE("DuoAttention measures what streaming changes, against plain loops") {
  const CacheShape shape = {.query_heads = 4, .kv_heads = 2, .head_dim = 4, .prompt = 20, .length = 20};
  CacheDouble cache(shape);
  std::mt19937 generator(5);
  cache.w_o.resize(16, 16);
  for (Index i = 0; i < cache.w_o.size(); ++i) cache.w_o.data()[i] = static_cast<float>(generator() % 7) - 3;
  const Policy policy = parse_policy("duoattention(sinks=2,recent=3,queries=4)");
  const std::vector<double> measured = policy.allocator->measure(cache);
  REQUIRE(measured.size() == 2);
  for (int head = 0; head < 2; ++head) {
    double expected = 0;
    for (Index row = 16; row < 20; ++row) {
      Eigen::VectorXd full = Eigen::VectorXd::Zero(16);
      Eigen::VectorXd streamed = Eigen::VectorXd::Zero(16);
      for (int query_head = 2 * head; query_head < 2 * head + 2; ++query_head) {
        const auto all = cache.attention_of(query_head, row, cache.entries(head));
        std::vector<std::int32_t> kept = {0, 1};
        for (Index i = row - 2; i <= row; ++i) kept.push_back(static_cast<std::int32_t>(i));
        const auto some = cache.attention_of(query_head, row, kept);
        const Eigen::MatrixXd projection = cache.w_o.middleCols(query_head * 4, 4).cast<double>();
        const Eigen::MatrixXd values = cache.all_values[static_cast<std::size_t>(head)].cast<double>();
        for (std::size_t i = 0; i < all.size(); ++i) {
          full += all[i] * (projection * values.row(static_cast<Index>(i)).transpose());
        }
        for (std::size_t i = 0; i < kept.size(); ++i) {
          streamed += some[i] * (projection * values.row(kept[i]).transpose());
        }
      }
      expected += (streamed - full).norm() / full.norm() / 4;
    }
    CHECK(measured[static_cast<std::size_t>(head)] == Approx(expected).epsilon(1e-5));
  }
  // A window as long as the prompt changes nothing.
  for (const double error : parse_policy("duoattention(sinks=0,recent=20)").allocator->measure(cache)) {
    CHECK(error == Approx(0).margin(1e-6));
  }
}

TEST_CASE("DuoAttention: kvpress' score is the area under the cumulated attention of mean query and key") {
  CacheDouble cache({.query_heads = 2, .kv_heads = 1, .head_dim = 4, .prompt = 12, .length = 12});
  const double measured = parse_policy("duoattention(pattern=repeated)").allocator->measure(cache).front();
  const auto mean_of = [&](const models::Matrix& rotated) {
    Eigen::VectorXd mean = Eigen::VectorXd::Zero(4);
    for (Index row = 0; row < 12; ++row) {
      Eigen::VectorXd vector = rotated.row(row).cast<double>();
      cache.rope().invert(std::span<double>(vector.data(), 4), static_cast<double>(row));
      mean += vector / 12;
    }
    return mean;
  };
  double expected = 0;
  for (const models::Matrix& queries : cache.all_queries) {
    Eigen::VectorXd query = mean_of(queries);
    cache.rope().apply(std::span<double>(query.data(), 4), 499.0);
    std::vector<double> weights;
    double sum = 0;
    for (int position = 0; position < 500; ++position) {
      Eigen::VectorXd key = mean_of(cache.all_keys[0]);
      cache.rope().apply(std::span<double>(key.data(), 4), position);
      weights.push_back(std::exp(query.dot(key) / 2));
      sum += weights.back();
    }
    double cumulated = 0;
    for (const double weight : weights) {
      cumulated += weight / sum;
      expected += cumulated / 500 / 2;
    }
  }
  CHECK(measured == Approx(expected).epsilon(1e-6));
}

TEST_CASE("DuoAttention: given alphas, and the press") {
  const std::string path = std::string(EVICTSIM_TEST_SCRATCH) + "/duo_alphas.h5";
  tests::WeightsFile(path).write("layer_001/alphas", {{2}, {0.25F, 1.0F}});
  const CacheDouble cache(CacheShape{});
  const Policy given = parse_policy("duoattention(pattern=given,alphas=\"" + path + "\")");
  CHECK(given.allocator->measure(cache) == std::vector<double>{0.25, 1.0});
  CHECK(given.allocator->ignores_budget());
  CHECK(parse_policy("duoattention(pattern=given)").needs.parameters.size() == 1);
  const Policy press = parse_policy("kvpress:DuoAttentionPress(0.25,on_the_fly_scoring=True)");
  CHECK(press.expansion == parse_policy("duoattention(sparsity=0.25,pattern=repeated,schedule=once)").expansion);
  CHECK(parse_policy("kvpress:DuoAttentionPress()").needs.parameters.size() == 1);
}

TEST_CASE("EpiKV's budget never cuts the prompt") {
  Layers layers;
  layers.add({{window, window, window, window, 1, 2, 3, window}});
  layers.prompt_length = 4;
  CHECK(layers.counts("epikv", 2, -1, 8) == Counts{{5}});
  CHECK(layers.counts("epikv", 7, -1, 8) == Counts{{7}});
  CHECK(layers.counts("epikv(budget_of=generated)", 2, -1, 8) == Counts{{6}});
}
