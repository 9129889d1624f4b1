// Do learned policies compute their networks and budgets, against plain float64 loops on random weights?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <numeric>

#include "policies/policy.h"
#include "tests/support/cache_double.h"
#include "tests/support/weights_file.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;
using tests::WeightsFile;
using tests::WeightTensor;

namespace {

using Row = std::vector<double>;
constexpr std::size_t kv_heads = 2;
constexpr std::size_t query_heads = 4;
constexpr std::size_t width = 8;
constexpr std::size_t hidden = query_heads * width;
const std::string file = "weights.h5";

/// A cache whose layer input is random too.
CacheDouble cache_with_input(const CacheShape& shape = {}) {
  CacheDouble cache(shape);
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  cache.input.resize(shape.length, static_cast<Index>(hidden));
  for (Index i = 0; i < cache.input.size(); ++i) cache.input.data()[i] = normal(generator);
  return cache;
}

Row input_row(const CacheDouble& cache, Index row) {
  Row values;
  for (Index c = 0; c < cache.input.cols(); ++c) values.push_back(cache.input(row, c));
  return values;
}

Row head_row(const models::Matrix& all, Index row) {
  Row values;
  for (Index c = 0; c < all.cols(); ++c) values.push_back(all(row, c));
  return values;
}

void append(Row& values, const Row& more) { values.insert(values.end(), more.begin(), more.end()); }

/// y_o = sum_i W[o][i] x_i (+ b_o), with leading indices fixed to `head` for stacked weights.
Row linear(const Row& x, const WeightTensor& weight, const WeightTensor* bias, std::size_t outputs,
           std::size_t head = 0) {
  Row y(outputs, 0.0);
  for (std::size_t o = 0; o < outputs; ++o) {
    if (bias != nullptr) y[o] = bias->values[head * outputs + o];
    for (std::size_t i = 0; i < x.size(); ++i) {
      y[o] += static_cast<double>(weight.values[(head * outputs + o) * x.size() + i]) * x[i];
    }
  }
  return y;
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double relu(double x) { return std::max(0.0, x); }

Row mapped(Row values, double (*function)(double)) {
  std::transform(values.begin(), values.end(), values.begin(), function);
  return values;
}

double log_beta(double x) { return -std::log1p(std::exp(-x)); }

LayerScores scores_of(const std::string& policy, const CacheDouble& cache, std::int64_t entries = 12) {
  LayerScores scores(cache);
  parse_policy(policy).make_scorer()->score(
      cache, {.cached = cache.seen(), .entries = entries, .exact_entries = static_cast<double>(entries)}, scores);
  return scores;
}

/// Every resident entry of every head against `expected(row, head)`.
void check_scores(const LayerScores& scores, const CacheDouble& cache,
                  const std::function<double(Index, std::size_t)>& expected) {
  for (int head = 0; head < cache.heads(); ++head) {
    const auto entries = cache.entries(head);
    REQUIRE(scores.of(head).size() == entries.size());
    for (std::size_t place = 0; place < entries.size(); ++place) {
      INFO("head " << head << ", entry " << entries[place]);
      CHECK(scores.of(head)[place] ==
            Approx(expected(entries[place], static_cast<std::size_t>(head))).epsilon(1e-6).margin(1e-9));
    }
  }
}

}  // namespace

TEST_CASE("gate rg: two layers on the attention's input, an age of 2 for the newest token") {
  WeightTensor w1, b1, w2, b;
  {
    WeightsFile weights(file);
    w1 = weights.random("/g/layer_001/linear1.weight", {5, hidden});
    b1 = weights.random("/g/layer_001/linear1.bias", {5});
    w2 = weights.random("/g/layer_001/linear2.weight", {kv_heads, 5});
    b = weights.random("/g/layer_001/bias", {kv_heads}, 0.1F, 18.0F);
  }
  CacheDouble cache = cache_with_input();
  const auto score = [&](Index row, std::size_t head) {
    const Row out = linear(mapped(linear(input_row(cache, row), w1, &b1, 5), silu), w2, nullptr, kv_heads);
    return static_cast<double>(cache.seen() + 1 - row) * log_beta(out[head] + b.values[head]);
  };
  // Bias 18: beta is 1 in single precision, its logarithm -1.5e-8.
  const LayerScores scores = scores_of("trimkv(gate=rg,weights=weights.h5:/g)", cache);
  check_scores(scores, cache, score);
  CHECK(scores.of(0)[0] < 0);
  CHECK(parse_policy("trimkv(weights=weights.h5:/g)").needs.layer_input);

  // The same object later, with holes in the heads: old rows keep their gate's answer.
  const auto scorer = parse_policy("trimkv(gate=rg,weights=weights.h5:/g)").make_scorer();
  LayerScores first(cache);
  scorer->score(cache, {.cached = 24, .entries = 12, .exact_entries = 12}, first);
  cache.resident[0] = {0, 7, 9};
  cache.resident[1] = {3, 20, 23};
  cache.see(30);
  LayerScores later(cache);
  scorer->score(cache, {.cached = 9, .entries = 3, .exact_entries = 3}, later);
  check_scores(later, cache, score);
}

TEST_CASE("gate rg10: three layers, the last one tied across layers unless the layer has its own") {
  const bool own_last = GENERATE(false, true);
  WeightTensor w1, b1, w2, b2, w3, b;
  {
    WeightsFile weights(file);
    w1 = weights.random("/g/layer_001/linear1.weight", {6, hidden});
    b1 = weights.random("/g/layer_001/linear1.bias", {6});
    w2 = weights.random("/g/layer_001/linear2.weight", {5, 6});
    b2 = weights.random("/g/layer_001/linear2.bias", {5});
    w3 = weights.random("/g/linear3.weight", {kv_heads, 5});
    b = weights.random("/g/bias", {kv_heads});
    if (own_last) w3 = weights.random("/g/layer_001/linear3.weight", {kv_heads, 5});
    weights.attribute("/g", "activation", "relu");
  }
  const CacheDouble cache = cache_with_input();
  const LayerScores scores = scores_of("dbtrimkv(weights=weights.h5:/g)", cache);
  check_scores(scores, cache, [&](Index row, std::size_t head) {
    const Row first = mapped(linear(input_row(cache, row), w1, &b1, 6), relu);
    const Row out = linear(mapped(linear(first, w2, &b2, 5), relu), w3, nullptr, kv_heads);
    return static_cast<double>(cache.seen() + 1 - row) * log_beta(out[head] + b.values[head]);
  });
}

TEST_CASE("gates rg2 and rg3 read keys and values, KV heads in order") {
  WeightTensor w1, b1, w2, gate, up, down, b2, b3;
  {
    WeightsFile weights(file);
    const std::size_t inputs = kv_heads * 2 * width;
    w1 = weights.random("/rg2/layer_001/linear1.weight", {5, inputs});
    b1 = weights.random("/rg2/layer_001/linear1.bias", {5});
    w2 = weights.random("/rg2/layer_001/linear2.weight", {kv_heads, 5});
    b2 = weights.random("/rg2/layer_001/bias", {kv_heads});
    gate = weights.random("/rg3/layer_001/gate_proj.weight", {5, inputs});
    up = weights.random("/rg3/layer_001/up_proj.weight", {5, inputs});
    down = weights.random("/rg3/layer_001/down_proj.weight", {kv_heads, 5});
    b3 = weights.random("/rg3/layer_001/bias", {kv_heads});
  }
  const CacheDouble cache{CacheShape{}};
  const auto input = [&](Index row) {
    Row x;
    for (std::size_t head = 0; head < kv_heads; ++head) {
      append(x, head_row(cache.all_keys[head], row));
      append(x, head_row(cache.all_values[head], row));
    }
    return x;
  };
  const auto age = [&](Index row) { return static_cast<double>(cache.seen() + 1 - row); };
  check_scores(scores_of("trimkv(gate=rg2,weights=weights.h5:/rg2)", cache), cache, [&](Index row, std::size_t head) {
    const Row out = linear(mapped(linear(input(row), w1, &b1, 5), silu), w2, nullptr, kv_heads);
    return age(row) * log_beta(out[head] + b2.values[head]);
  });
  const auto rg3 = [&](Index row, std::size_t head) {
    Row inner = mapped(linear(input(row), gate, nullptr, 5), silu);
    const Row raised = linear(input(row), up, nullptr, 5);
    for (std::size_t i = 0; i < inner.size(); ++i) inner[i] *= raised[i];
    return age(row) * log_beta(linear(inner, down, nullptr, kv_heads)[head] + b3.values[head]);
  };
  check_scores(scores_of("trimkv(gate=rg3,weights=weights.h5:/rg3)", cache), cache, rg3);
  check_scores(scores_of("trimkv(gate=rg3,weights=weights.h5:/rg3,knorm_alpha=true)", cache), cache,
               [&](Index row, std::size_t head) {
                 double squares = 0;
                 for (const double k : head_row(cache.all_keys[head], row)) squares += k * k;
                 return rg3(row, head) + 0.5 * std::log(squares);
               });
  CHECK_FALSE(parse_policy("trimkv(gate=rg3,weights=weights.h5:/rg3)").needs.layer_input);
}

namespace {

/// A gate that answers log(beta) for every token, whatever it is.
void write_constant_gate(double beta) {
  WeightsFile weights(file);
  weights.random("/layer_001/linear1.weight", {3, hidden}, 0.0F);
  weights.random("/layer_001/linear1.bias", {3}, 0.0F);
  weights.random("/layer_001/linear2.weight", {kv_heads, 3}, 0.0F);
  weights.random("/layer_001/bias", {kv_heads}, 0.0F, static_cast<float>(std::log(beta / (1 - beta))));
}

}  // namespace

TEST_CASE("the lookahead is the log of the retention summed over the steps to come") {
  const double beta = GENERATE(0.3, 0.9, 0.999);
  const int steps = GENERATE(1, 7, 100);
  write_constant_gate(beta);
  const CacheDouble cache = cache_with_input();
  // The gate's bias is single precision.
  const double exact = 1 / (1 + std::exp(-static_cast<double>(static_cast<float>(std::log(beta / (1 - beta))))));
  const LayerScores scores =
      scores_of("trimkv(weights=weights.h5,age_offset=1,lookahead=" + std::to_string(steps) + ")", cache);
  check_scores(scores, cache, [&](Index row, std::size_t) {
    double sum = 0;
    for (int step = 1; step <= steps; ++step)
      sum += std::pow(exact, static_cast<double>(cache.seen() - 1 + step - row));
    return std::log(sum);
  });
}

TEST_CASE("ages of the newest token: 2 and 3 as the code, 0 as the paper; equal gates make a sliding window") {
  write_constant_gate(0.5);
  const CacheDouble cache = cache_with_input();
  const double half = std::log(0.5);
  CHECK(scores_of("trimkv(weights=weights.h5)", cache).of(0).back() == Approx(2 * half));
  CHECK(scores_of("trimkv(weights=weights.h5,age_offset=0)", cache).of(0).back() == Approx(0).margin(1e-12));
  // 3 log(1/2) + log(1 - 1/4) - log(1 - 1/2)
  CHECK(scores_of("trimkv(weights=weights.h5,lookahead=2)", cache).of(0).back() ==
        Approx(3 * half + std::log(0.75) - half));
  for (const char* policy : {"trimkv(weights=weights.h5)", "trimkv(weights=weights.h5,lookahead=128)"}) {
    const LayerScores scores = scores_of(policy, cache);
    const std::vector<std::int32_t> best = select_best(scores, 1, 5);
    CHECK(best == std::vector<std::int32_t>{19, 20, 21, 22, 23});
  }
  const LayerScores windowed = scores_of("trimkv(weights=weights.h5,sliding_window=3)", cache);
  CHECK(windowed.protected_count(0) == 3);
  CHECK(windowed.is_protected(0, 21));
}

TEST_CASE("a beta that double precision cannot tell from 1 gives finite scores") {
  {
    WeightsFile weights(file);
    weights.random("/layer_001/linear1.weight", {3, hidden}, 0.0F);
    weights.random("/layer_001/linear1.bias", {3}, 0.0F);
    weights.random("/layer_001/linear2.weight", {kv_heads, 3}, 0.0F);
    weights.write("/layer_001/bias", {{kv_heads}, {1e30F, -1e30F}});
  }
  const CacheDouble cache = cache_with_input();
  for (const char* policy : {"trimkv(weights=weights.h5)", "trimkv(weights=weights.h5,lookahead=64)"}) {
    const LayerScores scores = scores_of(policy, cache);
    for (int head = 0; head < cache.heads(); ++head) {
      for (const float score : scores.of(head)) CHECK(std::isfinite(score));
    }
  }
  CHECK(scores_of("trimkv(weights=weights.h5,lookahead=64)", cache).of(0)[5] == Approx(std::log(64.0)));
}

TEST_CASE("KVP: a network per KV head on key, value and position, ends protected") {
  const std::string activation = GENERATE("relu", "tanh");
  WeightTensor w1, b1, w2, b2;
  {
    WeightsFile weights(file);
    w1 = weights.random("/layer_001/fc1.weight", {kv_heads, 6, 2 * width + 1});
    b1 = weights.random("/layer_001/fc1.bias", {kv_heads, 6});
    w2 = weights.random("/layer_001/fc2.weight", {kv_heads, 1, 6});
    b2 = weights.random("/layer_001/fc2.bias", {kv_heads, 1});
  }
  const CacheDouble cache{CacheShape{}};
  const LayerScores scores = scores_of("kvp_agents(weights=weights.h5,activation=" + activation + ")", cache);
  check_scores(scores, cache, [&](Index row, std::size_t head) {
    Row x = head_row(cache.all_keys[head], row);
    append(x, head_row(cache.all_values[head], row));
    x.push_back(static_cast<double>(row));
    const Row inner = mapped(
        linear(x, w1, &b1, 6, head), activation == "relu" ? relu : [](double v) { return std::tanh(v); });
    return linear(inner, w2, &b2, 1, head)[0];
  });
  CHECK(parse_policy("kvp(weights=weights.h5)").protections.size() == 2);
}

TEST_CASE("KVzap: linear, or two layers with GELU, on the attention's input") {
  WeightTensor w, b, w1, b1, w2, b2;
  {
    WeightsFile weights(file);
    w = weights.random("/linear/layer_001/weight", {kv_heads, hidden});
    b = weights.random("/linear/layer_001/bias", {kv_heads});
    w1 = weights.random("/mlp/layer_001/0.weight", {7, hidden});
    b1 = weights.random("/mlp/layer_001/0.bias", {7});
    w2 = weights.random("/mlp/layer_001/2.weight", {kv_heads, 7});
    b2 = weights.random("/mlp/layer_001/2.bias", {kv_heads});
  }
  const CacheDouble cache = cache_with_input();
  check_scores(scores_of("kvzap(weights=weights.h5:/linear,kind=linear)", cache), cache,
               [&](Index row, std::size_t head) { return linear(input_row(cache, row), w, &b, kv_heads)[head]; });
  check_scores(scores_of("kvzap(weights=weights.h5:/mlp)", cache), cache, [&](Index row, std::size_t head) {
    return linear(mapped(linear(input_row(cache, row), w1, &b1, 7), gelu), w2, &b2, kv_heads)[head];
  });
}

TEST_CASE("Fast KVzip: normed gate vectors against learned sinks, mean over the group, ends score 1") {
  constexpr std::size_t gate_width = 4;
  constexpr std::size_t sinks = 3;
  constexpr std::size_t group = query_heads / kv_heads;
  WeightTensor q, q_bias, k, q_norm, k_norm, base, bias;
  {
    WeightsFile weights(file);
    q = weights.random("/layer_001/q_proj.weight", {query_heads * gate_width, hidden});
    q_bias = weights.random("/layer_001/q_proj.bias", {query_heads * gate_width});
    k = weights.random("/layer_001/k_proj.weight", {kv_heads * gate_width, hidden});
    q_norm = weights.random("/layer_001/q_norm.weight", {gate_width}, 0.2F, 1.0F);
    k_norm = weights.random("/layer_001/k_norm.weight", {gate_width}, 0.2F, 1.0F);
    base = weights.random("/layer_001/k_base", {kv_heads, 1, sinks, gate_width}, 1.0F);
    bias = weights.random("/layer_001/b", {kv_heads, 1, group}, 1.0F);
  }
  const CacheDouble cache = cache_with_input({.prompt = 30, .length = 32});
  const auto normed = [&](const Row& all, std::size_t first, const WeightTensor& weight) {
    double squares = 0;
    for (std::size_t i = 0; i < gate_width; ++i) squares += all[first + i] * all[first + i];
    Row out;
    for (std::size_t i = 0; i < gate_width; ++i) {
      out.push_back(all[first + i] / std::sqrt(squares / gate_width + 1e-6) * weight.values[i]);
    }
    return out;
  };
  const auto expected = [&](Index row, std::size_t head) {
    // First 4 of 30 tokens, and int(0.1 * 30) last ones.
    if (row < 4 || row >= 27) return 1.0;
    const Row queries = linear(input_row(cache, row), q, &q_bias, query_heads * gate_width);
    const Row keys = linear(input_row(cache, row), k, nullptr, kv_heads * gate_width);
    const Row key = normed(keys, head * gate_width, k_norm);
    double mean = 0;
    for (std::size_t member = 0; member < group; ++member) {
      const Row query = normed(queries, (head * group + member) * gate_width, q_norm);
      const double logit =
          std::inner_product(key.begin(), key.end(), query.begin(), 0.0) / 2.0 + bias.at({head, 0, member});
      double sum = 0;
      for (std::size_t sink = 0; sink < sinks; ++sink) {
        double dot = 0;
        for (std::size_t i = 0; i < gate_width; ++i) dot += base.at({head, 0, sink, i}) * query[i];
        sum += std::exp(dot / 2.0 - logit);
      }
      mean += 1 / (1 + sum) / group;
    }
    return mean;
  };
  check_scores(scores_of("fastkvzip(weights=weights.h5,window_ratio=0.1)", cache), cache, expected);
  CHECK(parse_policy("fastkvzip(weights=weights.h5)").allocator->scope() == AllocationScope::model_each_cut);
  CHECK(parse_policy("fastkvzip(weights=weights.h5,layerwise=true)").allocator->scope() == AllocationScope::layer);
}

namespace {

struct LocretWeights {
  WeightTensor first, second;
};

LocretWeights write_locret() {
  WeightsFile weights(file);
  return {weights.random("/layer_001/fc1.weight", {6, (query_heads + 2 * kv_heads) * width}),
          weights.random("/layer_001/fc2.weight", {kv_heads, 6})};
}

}  // namespace

TEST_CASE("Locret: two layers on queries and keys before RoPE and values of all heads") {
  const LocretWeights weights = write_locret();
  const auto layout = GENERATE(traces::RopeLayout::half, traces::RopeLayout::interleaved);
  const CacheDouble cache({.layout = layout, .attention_scaling = 1.25});
  const auto before_rope = [&](const models::Matrix& all, Index row) {
    Row values = head_row(all, row);
    cache.rope().invert(values, static_cast<double>(row));
    return values;
  };
  const LayerScores scores = scores_of("locret(weights=weights.h5,local=5)", cache);
  check_scores(scores, cache, [&](Index row, std::size_t head) {
    Row x;
    for (const models::Matrix& queries : cache.all_queries) append(x, before_rope(queries, row));
    for (const models::Matrix& keys : cache.all_keys) append(x, before_rope(keys, row));
    for (const models::Matrix& values : cache.all_values) append(x, head_row(values, row));
    return linear(mapped(linear(x, weights.first, nullptr, 6), silu), weights.second, nullptr, kv_heads)[head];
  });
  CHECK(scores.protected_count(1) == 5);
  CHECK(scores.dropped_count(1) == 0);
}

TEST_CASE("Locret: the prompt is cut behind every chunk, the newest entries are safe until the last cut") {
  write_locret();
  const CacheDouble cache{CacheShape{}};  // 24 tokens: chunks end at 6, 12, 18; 4 local tokens
  const LayerScores whole = scores_of("locret(weights=weights.h5,local=4)", cache, 9);
  const LayerScores scores = scores_of("locret(weights=weights.h5,local=4,chunk=6,stabilizers=2)", cache, 9);
  for (int head = 0; head < cache.heads(); ++head) {
    std::vector<std::int32_t> held;
    std::vector<std::int32_t> dropped;
    for (std::int32_t end = 6; end < 20; end += 6) {
      for (std::int32_t row = end - 6; row < end; ++row) held.push_back(row);
      while (held.size() > 5) {  // 9 entries less 4 local ones
        const auto worst = std::min_element(held.begin(), held.end() - 2, [&](std::int32_t a, std::int32_t b) {
          return whole.of(head)[static_cast<std::size_t>(a)] < whole.of(head)[static_cast<std::size_t>(b)];
        });
        dropped.push_back(*worst);
        held.erase(worst);
      }
    }
    CHECK(scores.dropped_count(head) == std::ssize(dropped));
    for (const std::int32_t row : dropped) CHECK(scores.is_dropped(head, row));
  }
}

TEST_CASE("LKV-like: token scores from key and value or from the input; budgets from head embeddings") {
  WeightTensor t1, tb1, t2, tb2, z1, zb1, z2, zb2, e0, e1, m1, mb1, m2, mb2;
  {
    WeightsFile weights(file);
    t1 = weights.random("/kv/layer_001/token.0.weight", {5, 2 * width});
    tb1 = weights.random("/kv/layer_001/token.0.bias", {5});
    t2 = weights.random("/kv/layer_001/token.2.weight", {1, 5});
    tb2 = weights.random("/kv/layer_001/token.2.bias", {1});
    z1 = weights.random("/z/layer_001/token.0.weight", {5, hidden});
    zb1 = weights.random("/z/layer_001/token.0.bias", {5});
    z2 = weights.random("/z/layer_001/token.2.weight", {kv_heads, 5});
    zb2 = weights.random("/z/layer_001/token.2.bias", {kv_heads});
    e0 = weights.random("/kv/layer_000/embedding", {kv_heads, 3}, 1.0F);
    e1 = weights.random("/kv/layer_001/embedding", {kv_heads, 3}, 1.0F);
    m1 = weights.random("/kv/budget.0.weight", {4, 3}, 1.0F);
    mb1 = weights.random("/kv/budget.0.bias", {4});
    m2 = weights.random("/kv/budget.2.weight", {1, 4}, 1.0F);
    mb2 = weights.random("/kv/budget.2.bias", {1});
  }
  const CacheDouble cache = cache_with_input();
  check_scores(scores_of("lkv_tokens(weights=weights.h5:/kv)", cache), cache, [&](Index row, std::size_t head) {
    Row x = head_row(cache.all_keys[head], row);
    append(x, head_row(cache.all_values[head], row));
    return linear(mapped(linear(x, t1, &tb1, 5), gelu), t2, &tb2, 1)[0];
  });
  check_scores(scores_of("lkv_tokens(weights=weights.h5:/z,input=z)", cache), cache, [&](Index row, std::size_t head) {
    return linear(mapped(linear(input_row(cache, row), z1, &zb1, 5), gelu), z2, &zb2, kv_heads)[head];
  });

  // Two layers with two heads, 12 entries each on average, at least 4.
  Row logits;
  for (const WeightTensor* embedding : {&e0, &e1}) {
    for (std::size_t head = 0; head < kv_heads; ++head) {
      Row x;
      for (std::size_t i = 0; i < 3; ++i) x.push_back(embedding->at({head, i}));
      logits.push_back(linear(mapped(linear(x, m1, &mb1, 4), gelu), m2, &mb2, 1)[0]);
    }
  }
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  Row ideal;
  std::vector<Index> expected;
  for (const double logit : logits) {
    ideal.push_back(4 + std::exp(logit) / sum * (48 - 16));
    expected.push_back(static_cast<Index>(ideal.back()));
  }
  while (std::accumulate(expected.begin(), expected.end(), Index{0}) < 48) {
    std::size_t largest = 0;
    for (std::size_t i = 0; i < ideal.size(); ++i) {
      if (ideal[i] - static_cast<double>(expected[i]) > ideal[largest] - static_cast<double>(expected[largest])) {
        largest = i;
      }
    }
    ++expected[largest];
  }
  const LayerScores scores(cache);
  const CutBudget budget{.cached = 24, .entries = 12, .exact_entries = 12};
  const std::vector<AllocationRequest> layers = {{.budget = budget, .layer = 0, .num_layers = 2, .scores = &scores},
                                                 {.budget = budget, .layer = 1, .num_layers = 2, .scores = &scores}};
  std::vector<std::vector<Index>> counts(2, std::vector<Index>(2, 0));
  const Policy policy = parse_policy("lkv(weights=weights.h5:/kv,floor=4)");
  policy.allocator->allocate_model(layers, counts);
  CHECK(std::vector<Index>{counts[0][0], counts[0][1], counts[1][0], counts[1][1]} == expected);
  CHECK(policy.allocator->scope() == AllocationScope::model_once);
}

TEST_CASE("without weights a policy says what it needs; wrong files and shapes are refused by name") {
  for (const char* name :
       {"trimkv", "dbtrimkv", "kvp", "foresightkv", "kvzap", "fastkvzip", "locret", "lkv", "dbtrimkv(threshold=0.3)"}) {
    INFO(name);
    const Policy policy = parse_policy(name);
    REQUIRE(policy.needs.parameters.size() == 1);
    CHECK(policy.needs.parameters.begin()->starts_with("weights: "));
  }
  CHECK(parse_policy("kvpress:KVzapPress(model_type=\"linear\")").needs.parameters.begin()->find("kvzap(weights=") !=
        std::string::npos);
  CHECK(parse_policy("kvpress:FastKVzipPress()").needs.parameters.size() == 1);

  const auto code_of = [](const std::string& text) {
    try {
      static_cast<void>(parse_policy(text));
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::interrupted;
  };
  CHECK(code_of("trimkv(weights=missing.h5)") == ErrorCode::file_not_found);
  { WeightsFile(file).random("/layer_001/linear1.weight", {5, hidden + 1}); }
  CHECK(code_of("trimkv(weights=weights.h5:/nothing)") == ErrorCode::missing_data);
  CHECK(code_of("dbtrimkv(weights=weights.h5,threshold=0.5,floor=2)") == ErrorCode::invalid_argument);
  const CacheDouble cache = cache_with_input();
  CHECK_THROWS_WITH(scores_of("trimkv(weights=weights.h5)", cache),
                    Catch::Contains("linear1.weight") && Catch::Contains("[5, 33]"));
  CHECK_THROWS_WITH(scores_of("kvzap(weights=weights.h5)", cache), Catch::Contains("0.weight"));
}
