// Do placements attend the entries that their formulas choose, within their budgets, and count what moves?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <set>

#include "policies/page_cache.h"
#include "policies/page_digest.h"
#include "policies/registry.h"
#include "policies/retrieval.h"
#include "tests/support/placement_double.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using tests::CacheDouble;
using tests::CacheShape;
using tests::PlacementWalk;

namespace {

constexpr CacheShape long_shape = {.prompt = 96, .length = 120};
/// k and v of one entry of the double: 8 components of 2 bytes each.
constexpr double entry_bytes = 2 * 8 * 2;

double product(const CacheDouble& cache, int query_head, Index row) {
  const models::Matrix& queries = cache.all_queries[static_cast<std::size_t>(query_head)];
  const models::Matrix& keys = cache.all_keys[static_cast<std::size_t>(cache.geometry().kv_head_of(query_head))];
  return queries.row(cache.seen() - 1).cast<double>().dot(keys.row(row).cast<double>());
}

/// Rows 0 .. seen - 2 of a query head by logit, best first, cut at `count`, and the newest; ascending.
std::vector<std::int32_t> best_rows(const CacheDouble& cache, int query_head, std::size_t count) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(cache.seen() - 1));
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(), [&](std::int32_t a, std::int32_t b) {
    return product(cache, query_head, a) > product(cache, query_head, b);
  });
  rows.resize(std::min(rows.size(), count));
  rows.push_back(static_cast<std::int32_t>(cache.seen() - 1));
  std::sort(rows.begin(), rows.end());
  return rows;
}

std::int64_t distinct(const CacheDouble& cache, const AttendedEntries& attended) {
  std::int64_t count = 0;
  for (int head = 0; head < cache.heads(); ++head) {
    const QueryHeads queries = cache.query_heads(head);
    std::set<std::int32_t> rows;
    for (int i = 0; i < queries.count; ++i) {
      const auto& own = attended.rows[static_cast<std::size_t>(queries.first + i)];
      rows.insert(own.begin(), own.end());
    }
    count += std::ssize(rows);
  }
  return count;
}

/// What every system promises of every row.
void check_row(const CacheDouble& cache, const AttendedEntries& attended, std::int64_t most) {
  for (const auto& rows : attended.rows) {
    CHECK(std::is_sorted(rows.begin(), rows.end()));
    CHECK(std::adjacent_find(rows.begin(), rows.end()) == rows.end());
    REQUIRE_FALSE(rows.empty());
    CHECK(rows.back() == cache.seen() - 1);
    CHECK(rows.front() >= 0);
    CHECK(std::ssize(rows) <= most);
  }
  CHECK(attended.traffic.hits + attended.traffic.misses == distinct(cache, attended));
  CHECK(attended.traffic.misses >= 0);
  for (std::size_t tier = 0; tier < tier_count; ++tier) {
    CHECK(attended.traffic.recalled.bytes[tier] >= 0);
    CHECK(attended.traffic.written.bytes[tier] >= 0);
    CHECK(attended.traffic.scanned.bytes[tier] >= 0);
  }
}

void check_full(const PlacementWalk& walk, const AttendedEntries& attended, double tolerance = 0) {
  for (std::size_t head = 0; head < attended.rows.size(); ++head) {
    const std::vector<double> exact = walk.full_output(static_cast<int>(head));
    const std::vector<double> output = walk.output(static_cast<int>(head), attended);
    for (std::size_t c = 0; c < exact.size(); ++c) CHECK(output[c] == Approx(exact[c]).margin(tolerance).epsilon(0));
  }
}

}  // namespace

TEST_CASE("the bound of a page is at least q.k of each of its keys, and tight for one key") {
  const CacheDouble cache(long_shape);
  const models::MatrixView keys = models::view(cache.all_keys[0].data(), 96, 8);
  std::vector<std::int32_t> rows(96);
  std::iota(rows.begin(), rows.end(), 0);
  for (const Index size : {1, 5, 16}) {
    PageDigests digests(size);
    CHECK(digests.cover(std::span(rows).first(50), keys));
    CHECK(digests.cover(rows, keys));  // grows by what is new
    CHECK(digests.size() == (96 + size - 1) / size);
    CHECK(digests.components() == digests.size() * 2 * 8);
    for (Index token = 0; token < 96; ++token) {
      const std::span<const float> query(cache.all_queries[1].row(token).data(), 8);
      for (Index page = 0; page < digests.size(); ++page) {
        const double bound = digests.bound(page, query);
        for (const std::int32_t row : digests.rows(page)) CHECK(bound >= dot(query, keys, row));
        if (size == 1) CHECK(bound == dot(query, keys, page));
      }
    }
  }
  PageDigests digests(4);
  CHECK(digests.cover(rows, keys));
  CHECK_FALSE(digests.cover(std::span(rows).subspan(1), keys));  // other rows: made anew
  CHECK(digests.rows(0).front() == 1);
}

TEST_CASE("the page cache lets the least recently used go, never what is in use") {
  PageCache cache(3);
  CHECK(cache.use(std::vector<Index>{0, 1}, 1) == std::vector<Index>{0, 1});
  CHECK(cache.use(std::vector<Index>{2}, 2) == std::vector<Index>{2});
  CHECK(cache.use(std::vector<Index>{0}, 3).empty());
  CHECK(cache.use(std::vector<Index>{3}, 4) == std::vector<Index>{3});  // 1 is oldest
  CHECK_FALSE(cache.contains(1));
  CHECK(cache.use(std::vector<Index>{1, 2}, 5) == std::vector<Index>{1});  // 0 goes: 2 is in use
  CHECK(cache.contains(2));
  CHECK_FALSE(cache.contains(0));
  CHECK(cache.size() == 3);
}

TEST_CASE("the best places are the largest, of equal ones the first") {
  CHECK(best_places(std::vector<double>{1, 3, 3, 2, 3}, 2) == std::vector<Index>{1, 2});
  CHECK(best_places(std::vector<double>{1, 3}, 5) == std::vector<Index>{0, 1});
  CHECK(best_places(std::vector<double>{1, 3}, 0).empty());
  CHECK(best_places(std::vector<double>{1, 3}, -1).empty());
}

TEST_CASE("topk_per_query attends the largest logits of each query head") {
  CacheDouble cache(long_shape);
  PlacementWalk walk(cache, "topk_per_query", 20);
  const AttendedEntries attended = walk.step();
  for (int head = 0; head < 4; ++head) {
    CHECK(attended.rows[static_cast<std::size_t>(head)] == best_rows(cache, head, 19));
  }
  check_row(cache, attended, 20);
}

TEST_CASE("quest reads whole pages by bound, per query head, and skips the first layers") {
  CacheDouble cache(long_shape);
  PlacementWalk walk(cache, "quest(page=8,skip_layers=0)", 40);
  for (int step = 0; step < 12; ++step) {
    const AttendedEntries attended = walk.step();
    check_row(cache, attended, 40);
    for (int head = 0; head < 4; ++head) {
      // The newest page, and the best four of the others.
      const Index newest = (cache.seen() - 1) / 8;
      const models::Matrix& keys = cache.all_keys[static_cast<std::size_t>(head / 2)];
      const auto query = cache.all_queries[static_cast<std::size_t>(head)].row(cache.seen() - 1).cast<double>();
      std::vector<std::pair<double, Index>> pages;
      for (Index page = 0; page < newest; ++page) {
        const auto block = keys.middleRows(page * 8, 8).cast<double>();
        double bound = 0;
        for (Index c = 0; c < 8; ++c) {
          bound += std::max(query[c] * block.col(c).minCoeff(), query[c] * block.col(c).maxCoeff());
        }
        pages.emplace_back(-bound, page);
      }
      std::sort(pages.begin(), pages.end());
      std::vector<std::int32_t> expected;
      for (std::size_t i = 0; i < 4; ++i) {
        for (Index row = pages[i].second * 8; row < pages[i].second * 8 + 8; ++row) {
          expected.push_back(static_cast<std::int32_t>(row));
        }
      }
      for (Index row = newest * 8; row < cache.seen(); ++row) expected.push_back(static_cast<std::int32_t>(row));
      std::sort(expected.begin(), expected.end());
      CHECK(attended.rows[static_cast<std::size_t>(head)] == expected);
    }
    CHECK(attended.traffic.misses == 0);
    CHECK(attended.traffic.scanned[Tier::hbm] == 2.0 * static_cast<double>((cache.seen() + 7) / 8) * 2 * 8 * 2);
  }
  CacheDouble small(long_shape);
  PlacementWalk three(small, "quest(page=8,skip_layers=0)", 2);
  CHECK(three.step().rows[0].size() == 17);  // two full pages and the newest token
  CacheDouble dense(long_shape);             // its layer is 1
  PlacementWalk skipped(dense, "quest(page=8)", 24);
  check_full(skipped, skipped.step());
  CHECK(skipped.placement->stored(skipped.view)[Tier::hbm] == 2 * 97 * entry_bytes);
}

TEST_CASE("host and disk recall the best pages of what was cut, and nothing is lost when all come back") {
  for (const Tier tier : {Tier::host, Tier::disk}) {
    const std::string name = tier == Tier::host ? "host" : "disk";
    CacheDouble cache(long_shape);
    for (auto& rows : cache.resident) rows.erase(rows.begin(), rows.begin() + 70);
    PlacementWalk walk(cache, "window@" + name + "(page=8,recall=3,group=max)", 26);
    const TierBytes stored = walk.placement->stored(walk.view);
    CHECK(stored[tier] == 2 * 70 * entry_bytes);
    CHECK(stored[Tier::hbm] == 2 * 26 * entry_bytes + 2 * 9 * entry_bytes);  // nine digests of two keys each
    AttendedEntries attended = walk.step();
    check_row(cache, attended, 27 + 24);
    for (int head = 0; head < 2; ++head) {
      std::vector<std::pair<double, Index>> pages;
      const models::Matrix& keys = cache.all_keys[static_cast<std::size_t>(head)];
      for (Index page = 0; page < 9; ++page) {
        const auto block = keys.middleRows(page * 8, std::min<Index>(8, 70 - page * 8)).cast<double>();
        double best = -1e9;
        for (const int query_head : {2 * head, 2 * head + 1}) {
          const auto query = cache.all_queries[static_cast<std::size_t>(query_head)].row(96).cast<double>();
          double bound = 0;
          for (Index c = 0; c < 8; ++c) {
            bound += std::max(query[c] * block.col(c).minCoeff(), query[c] * block.col(c).maxCoeff());
          }
          best = std::max(best, bound);
        }
        pages.emplace_back(-best, page);
      }
      std::sort(pages.begin(), pages.end());
      std::set<std::int32_t> expected(cache.resident[static_cast<std::size_t>(head)].begin(),
                                      cache.resident[static_cast<std::size_t>(head)].end());
      for (std::size_t i = 0; i < 3; ++i) {
        for (Index row = pages[i].second * 8; row < std::min<Index>(pages[i].second * 8 + 8, 70); ++row) {
          expected.insert(static_cast<std::int32_t>(row));
        }
      }
      for (const int query_head : {2 * head, 2 * head + 1}) {
        CHECK(attended.rows[static_cast<std::size_t>(query_head)] ==
              std::vector<std::int32_t>(expected.begin(), expected.end()));
      }
    }
    CHECK(attended.traffic.hits == 2 * 27);
    CHECK(attended.traffic.recalled[tier] == static_cast<double>(attended.traffic.misses) * entry_bytes);
    CHECK(attended.traffic.written[tier] == 0);
    walk.cut_to_newest(20);
    attended = walk.step();
    CHECK(attended.traffic.written[tier] == 2 * 7 * entry_bytes);
    CHECK(walk.placement->stored(walk.view)[tier] == 2 * 77 * entry_bytes);

    CacheDouble other(long_shape);
    for (auto& rows : other.resident) rows.erase(rows.begin(), rows.begin() + 70);
    PlacementWalk all(other, "window@" + name + "(page=8,recall=1000)", 26);
    for (int step = 0; step < 5; ++step) {
      check_full(all, all.step());
      all.cut_to_newest(20);
    }
  }
}

TEST_CASE("systems that manage tiers keep to their budgets at any length") {
  for (const char* policy :
       {"arkvale", "arkvale(page=4,topk=3)", "infllm", "infllm(block=4,init=4,local=8,topk=3,cache_blocks=5)",
        "infllm(block=4,init=4,local=8,replacement=lru_s,relevance=true)", "shadowkv", "shadowkv(rank=3)", "infinigen",
        "infinigen(skip_layers=0)", "infinitekv", "infinitekv(scope=per_kv_head,sinks=4,search=chunked,chunk=4)",
        "infinitekv(score=per_head,cadence=3,value=exact,tier=disk)", "infinitekv(codec=low_rank,score=mean)",
        "infinitekv(positions=remapped,sinks=2)", "topk_per_query"}) {
    for (const int prompt : {1, 2, 9, 96}) {
      for (const int budget : {1, 2, 3, 7, 13, 24, 48, 60}) {
        INFO(policy << " with " << budget << " of " << prompt);
        CacheDouble cache(CacheShape{.prompt = prompt, .length = prompt + 24});
        PlacementWalk walk(cache, policy, budget);
        const TierBytes stored = walk.placement->stored(walk.view);
        CHECK(stored[Tier::hbm] >= 0);
        for (int step = 0; step < 20; ++step) {
          const AttendedEntries attended = walk.step();
          check_row(cache, attended, budget);
          for (int head = 0; head < 4; ++head) {
            const std::vector<double> output = walk.output(head, attended);
            CHECK(std::all_of(output.begin(), output.end(), [](double x) { return std::isfinite(x); }));
          }
        }
      }
    }
  }
}

TEST_CASE("systems that may attend everything, with exact codes, are full attention") {
  for (const auto& [policy, tolerance] : std::vector<std::pair<std::string, double>>{
           {"quest(skip_layers=0)", 0},
           {"topk_per_query", 0},
           {"arkvale(topk=1000)", 0},
           {"infllm", 0},
           {"infllm(block=4,init=4,local=8,topk=1000,cache_blocks=1000)", 0},
           {"shadowkv(rank=16)", 1e-5},
           {"infinigen(alpha=1e6,skip_layers=0)", 0},
           {"infinitekv(codec=exact)", 0},
           {"infinitekv(hot=8,codec=exact)", 0},
           {"infinitekv(hot=8,codec=exact,sinks=3,scope=per_kv_head,search=chunked,chunk=5)", 0},
           {"infinitekv(hot=8,codec=exact,score=per_head,cadence=2,value=exact,tier=disk)", 0},
           {"infinitekv(hot=8,codec=exact,positions=remapped)", 1e-5}}) {
    INFO(policy);
    CacheDouble cache(long_shape);
    PlacementWalk walk(cache, policy, 1000);
    for (int step = 0; step < 12; ++step) {
      const AttendedEntries attended = walk.step();
      // Between two searches nothing new is recalled.
      if (policy.find("cadence=2") != std::string::npos && step % 2 == 1) continue;
      check_row(cache, attended, 1000);
      CHECK(attended.rows[3].size() == static_cast<std::size_t>(cache.seen()));
      check_full(walk, attended, tolerance);
    }
  }
}

TEST_CASE("arkvale recalls a page once while it stays in use") {
  CacheDouble cache(long_shape);
  for (models::Matrix& queries : cache.all_queries) {
    for (Index row = 97; row < queries.rows(); ++row) queries.row(row) = queries.row(96);  // every row asks the same
  }
  PlacementWalk walk(cache, "arkvale(page=4,sinks_pages=1,window_pages=1,topk=4)", 24);
  CHECK(walk.placement->stored(walk.view)[Tier::host] == 2 * 96 * entry_bytes);
  const AttendedEntries first = walk.step();
  CHECK(first.traffic.misses > 0);
  CHECK(first.traffic.recalled[Tier::host] == static_cast<double>(first.traffic.misses) * entry_bytes);
  for (int step = 0; step < 2; ++step) {
    const AttendedEntries attended = walk.step();
    CHECK(attended.traffic.misses == 0);
    CHECK(attended.traffic.written[Tier::host] == 0);
  }
  CHECK(walk.step().traffic.written[Tier::host] == 2 * 4 * entry_bytes);  // the page of rows 96 .. 99 is full
}

TEST_CASE("infllm attends the same blocks in all heads and recalls what its buffer lacks") {
  CacheDouble cache(long_shape);
  PlacementWalk walk(cache, "infllm(block=8,init=4,local=16,topk=2,cache_blocks=2,relevance=true)", 64);
  // Rows 4 .. 75 in nine blocks; 76 .. 95 local.
  CHECK(walk.placement->stored(walk.view)[Tier::host] == 2 * 72 * entry_bytes);
  CHECK(walk.placement->stored(walk.view)[Tier::hbm] == 2 * (96 - 72 + 16) * entry_bytes + 9 * 4 * 8 * 2);
  const AttendedEntries attended = walk.step();
  for (const auto& rows : attended.rows) CHECK(rows == attended.rows[0]);
  CHECK(attended.rows[0].size() == 4 + 16 + 21);
  // The relevance of a block, from the four entries that received most attention.
  std::vector<std::pair<double, Index>> blocks;
  for (Index block = 0; block < 9; ++block) {
    double relevance = 0;
    for (int head = 0; head < 4; ++head) {
      const auto received = cache.accumulated_attention(head);
      std::vector<std::pair<double, Index>> order;
      for (Index row = 4 + block * 8; row < 12 + block * 8; ++row) {
        order.emplace_back(-received[static_cast<std::size_t>(row)], row);
      }
      std::sort(order.begin(), order.end());
      for (std::size_t i = 0; i < 4; ++i) relevance += product(cache, head, order[i].second) / 4;
    }
    blocks.emplace_back(-relevance, block);
  }
  std::sort(blocks.begin(), blocks.end());
  for (std::size_t i = 0; i < 2; ++i) {
    const auto first = static_cast<std::int32_t>(4 + blocks[i].second * 8);
    CHECK(std::binary_search(attended.rows[0].begin(), attended.rows[0].end(), first));
  }
  CHECK(attended.traffic.recalled[Tier::host] == static_cast<double>(attended.traffic.misses) * entry_bytes);
}

TEST_CASE("shadowkv is exact in its keys at full rank, and fetches values that the last row did not") {
  for (const int rank : {16, 4}) {
    CacheDouble cache(long_shape);
    for (models::Matrix& queries : cache.all_queries) {
      for (Index row = 97; row < queries.rows(); ++row) queries.row(row) = queries.row(96);
    }
    PlacementWalk walk(cache, "shadowkv(chunk=4,outliers=2,local=2,rank=" + std::to_string(rank) + ")", 40);
    AttendedEntries attended = walk.step();
    CHECK(attended.traffic.misses > 0);
    CHECK(attended.traffic.recalled[Tier::host] == static_cast<double>(attended.traffic.misses) * entry_bytes / 2);
    double largest = 0;
    for (const std::int32_t row : attended.rows[0]) {
      const auto difference = walk.placement->attended_keys(walk.view, 0).row(row) - walk.view.keys(0).row(row);
      largest = std::max(largest, static_cast<double>(difference.cwiseAbs().maxCoeff()));
    }
    CHECK((rank == 16 ? largest < 1e-6 : largest > 0.1));
    attended = walk.step();
    CHECK(attended.traffic.misses == 0);
    if (rank == 16) CHECK(walk.placement->stored(walk.view)[Tier::host] > 0);
  }
}

TEST_CASE("infinigen with all components and any alpha fetches the largest logits") {
  CacheDouble cache(long_shape);
  PlacementWalk walk(cache, "infinigen(partial=1,alpha=1e6,skip_layers=0)", 20);
  for (int step = 0; step < 3; ++step) {
    const AttendedEntries attended = walk.step();
    for (int head = 0; head < 4; ++head) {
      CHECK(attended.rows[static_cast<std::size_t>(head)] == best_rows(cache, head, 19));
    }
    CHECK(attended.traffic.hits == 2);  // the newest entry of two KV heads
    CHECK(attended.traffic.recalled[Tier::host] == static_cast<double>(attended.traffic.misses) * entry_bytes);
    CHECK(attended.traffic.written[Tier::host] == 2 * entry_bytes);
  }
}

TEST_CASE("infinigen fetches, in every head, the mean number of entries within alpha of the largest") {
  CacheDouble cache(long_shape);
  PlacementWalk walk(cache, "infinigen(partial=1,alpha=0.5,skip_layers=0)", 60);
  const AttendedEntries attended = walk.step();
  double critical = 0;
  for (int head = 0; head < 4; ++head) {
    std::vector<double> logits;
    for (Index row = 0; row < 96; ++row) logits.push_back(product(cache, head, row) / std::sqrt(8.0));
    const double largest = *std::max_element(logits.begin(), logits.end());
    critical += static_cast<double>(
        std::count_if(logits.begin(), logits.end(), [&](double logit) { return logit > largest - 0.5; }));
  }
  for (int head = 0; head < 4; ++head) {
    CHECK(attended.rows[static_cast<std::size_t>(head)] ==
          best_rows(cache, head, static_cast<std::size_t>(critical / 4)));
  }
}

TEST_CASE("infinitekv with an exact codec and everything recalled is full attention") {
  for (const char* options : {"", ",positions=remapped", ",scope=per_kv_head", ",search=chunked,chunk=8",
                              ",value=exact,tier=disk", ",score=per_head"}) {
    INFO(options);
    CacheDouble cache(long_shape);
    PlacementWalk walk(cache, std::string("infinitekv(hot=20,recall=1000,codec=exact") + options + ")", 95);
    const AttendedEntries attended = walk.step();  // 97 rows: 20 hot and 75 of 77
    check_row(cache, attended, 95);
    CacheDouble small(CacheShape{.prompt = 40, .length = 50});
    PlacementWalk all(small, std::string("infinitekv(hot=20,recall=1000,codec=exact") + options + ")", 40);
    const AttendedEntries everything = all.step();  // 41 rows against a budget of 40: 20 hot, 20 of 21
    CHECK(everything.rows[0].size() == 40);
  }
  // One record too many: every head leaves out its smallest logit.
  CacheDouble cache(CacheShape{.prompt = 40, .length = 50});
  PlacementWalk walk(cache, "infinitekv(hot=20,recall=1000,codec=exact,score=per_head)", 40);
  const AttendedEntries attended = walk.step();
  for (int head = 0; head < 4; ++head) {
    std::vector<std::int32_t> expected = best_rows(cache, head, 40);
    std::int32_t worst = 0;
    for (std::int32_t row = 0; row < 21; ++row) {
      if (product(cache, head, row) < product(cache, head, worst)) worst = row;
    }
    std::erase(expected, worst);
    CHECK(attended.rows[static_cast<std::size_t>(head)] == expected);
  }
}

TEST_CASE("infinitekv writes and scans records of their exact size") {
  // What fits stays as asked for; of less, half stays hot and the others are recalled.
  const int budget = GENERATE(24, 20);
  for (const bool per_layer : {true, false}) {
    const int hot = budget == 24 ? 16 : 10;
    CacheDouble cache(long_shape);
    PlacementWalk walk(
        cache, std::string("infinitekv(hot=16,recall=8,scope=") + (per_layer ? "per_layer)" : "per_kv_head)"), budget);
    const double owners = per_layer ? 1 : 2;
    CHECK(walk.placement->stored(walk.view)[Tier::host] == owners * 104 * (96 - hot));
    for (int step = 1; step <= 4; ++step) {
      const AttendedEntries attended = walk.step();
      CHECK(attended.traffic.written[Tier::host] == owners * 104);
      CHECK(attended.traffic.scanned[Tier::host] == owners * 104 * (96 - hot + step));
      CHECK(attended.traffic.recalled[Tier::host] == owners * 104 * 8);
      CHECK(attended.traffic.misses == 2 * 8);
      CHECK(attended.traffic.hits == 2 * hot);
    }
  }
  CHECK_THROWS_AS(parse_policy("infinitekv(positions=remapped,score=per_head)").make_placement(), Error);
}

TEST_CASE("infinitekv's recalled keys at remapped positions keep their distance to each other") {
  CacheDouble cache(long_shape);
  PlacementWalk walk(cache, "infinitekv(hot=8,recall=8,codec=exact,positions=remapped)", 16);
  const AttendedEntries attended = walk.step();
  const auto& rows = attended.rows[0];
  REQUIRE(rows.size() == 16);
  const models::MatrixView moved = walk.placement->attended_keys(walk.view, 0);
  const std::int32_t hot_begin = static_cast<std::int32_t>(cache.seen()) - 8;
  for (std::int32_t i = 0; i < 8; ++i) {
    const std::int32_t row = rows[static_cast<std::size_t>(i)];
    REQUIRE(row < hot_begin);
    const auto recorded = walk.view.keys(0).row(row);
    std::vector<double> key(recorded.data(), recorded.data() + 8);
    cache.rope().invert(std::span(key), row);
    cache.rope().apply(std::span(key), hot_begin - 8 + i);
    for (Index c = 0; c < 8; ++c) CHECK(moved(row, c) == Approx(key[static_cast<std::size_t>(c)]).margin(1e-6));
  }
}

TEST_CASE("a placement named as a policy works under its own or a given one, and every one reads back") {
  for (const Part* part : registered_parts()) {
    if (!part->is_placement()) continue;
    INFO(part->name);
    const Policy placed = parse_policy("snapkv@" + part->name);
    CHECK(parse_policy(placed.expansion).expansion == placed.expansion);
    CHECK(placed.places());
    if (!part->is_policy) {
      CHECK_THROWS_AS(parse_policy(part->name), Error);
      continue;
    }
    CHECK(parse_policy(part->name).expansion == parse_policy(part->default_policy + "@" + part->name).expansion);
    CHECK(parse_policy(part->name + "(snapkv())").expansion == placed.expansion);
    CHECK_THROWS_AS(parse_policy(part->name + "(snapkv()@host())"), Error);
  }
}
