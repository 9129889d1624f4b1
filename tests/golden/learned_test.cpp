// Do the gates answer the authors' log beta, and block-wise eviction the authors' values at every step?
#include <catch2/catch.hpp>

#include <cmath>
#include <limits>

#include "policies/call.h"
#include "policies/policy.h"
#include "tests/golden/agreement.h"
#include "tests/golden/trace_cache.h"

namespace {

using namespace evictsim;
using namespace evictsim::test;
using policies::Index;

std::string weights_of(const std::string& trace, const std::string& group) {
  return policies::quote_word(golden_path("seeds-b." + trace + ".golden.h5") + ":/weights/" + group);
}

}  // namespace

TEST_CASE("log beta of every token is the authors'", "[golden]") {
  const std::string trace = GENERATE("tiny-g2", "smollm2");
  const std::string gate = GENERATE("rg2", "rg3");
  const H5File stored(golden_path(trace + ".h5"));
  const traces::Header header = traces::Reader(golden_path(trace + ".h5")).header();
  for (const int layer : trace == "tiny-g2" ? std::vector<int>{0, 1, 2} : std::vector<int>{0, 9, 29}) {
    const int length = static_cast<int>(stored.read("/sequences/000000/" + layer_name(layer) + "/k").shape[0]);
    const TraceCache cache(stored, header, layer, length);
    policies::LayerScores scores(cache);
    // The weights lie in the golden file, which HDF5 does not open twice in different ways.
    policies::parse_policy("trimkv(gate=" + gate + ",weights=" + weights_of(trace, gate) + ")")
        .make_scorer()
        ->score(cache, {.cached = length, .entries = 1, .exact_entries = 1}, scores);
    const H5File golden(golden_path("seeds-b." + trace + ".golden.h5"));
    for (int head = 0; head < cache.heads(); ++head) {
      const std::vector<double> expected =
          golden.read("/retention/" + gate + "/" + layer_name(layer) + "/head_" + std::to_string(head)).values;
      REQUIRE(expected.size() == static_cast<std::size_t>(length));
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const double age = static_cast<double>(length) + 1 - static_cast<double>(i);
        REQUIRE(scores.of(head)[i] / age == Approx(expected[i]).epsilon(1e-5));  // seeds-b.md: 8e-6
      }
    }
  }
}

TEST_CASE("block-wise eviction ranks the authors' candidates with the authors' values at every step", "[golden]") {
  const std::string trace = GENERATE("tiny-g2", "smollm2");
  const std::string system = GENERATE("foresightkv", "foresightkv_oracle");
  const std::string share = GENERATE("0.25", "0.50");
  const bool learned = system == "foresightkv";
  const H5File stored(golden_path(trace + ".h5"));
  const traces::Header header = traces::Reader(golden_path(trace + ".h5")).header();
  const std::string policy = learned ? "foresightkv(weights=" + weights_of(trace, "foresightkv") + ",every=16)"
                                     : std::string("foresightkv_oracle(every=16)");
  const std::string group = "/" + system + "/" + share;
  for (const int layer : trace == "tiny-g2" ? std::vector<int>{0, 2} : std::vector<int>{9}) {
    std::vector<double> rows;
    {
      const H5File golden(golden_path("seeds-b." + trace + ".golden.h5"));
      rows = golden.read(group + "/rows").values;
    }
    for (std::size_t step = 0; step < rows.size(); ++step) {
      const TraceCache cache(stored, header, layer, static_cast<int>(rows[step]) + 1);
      policies::LayerScores scores(cache);
      const std::int64_t entries = static_cast<std::int64_t>(rows.front()) + 1 - 16;
      const policies::CutBudget budget{
          .cached = cache.seen(), .entries = entries, .exact_entries = static_cast<double>(entries)};
      if (learned) {
        policies::parse_policy(policy).make_scorer()->score(cache, budget, scores);
      } else {
        policies::parse_policy(policy).make_oracle()->score(cache, budget, tests::FutureDouble(cache), scores);
      }
      const H5File golden(golden_path("seeds-b." + trace + ".golden.h5"));
      for (int head = 0; head < cache.heads(); ++head) {
        CAPTURE(trace, system, share, layer, step, head);
        const std::string place = group + "/" + layer_name(layer) + "/head_" + std::to_string(head);
        const H5Array candidates = golden.read(place + "/candidates");
        const H5Array values = golden.read(place + "/score");
        const H5Array resident = golden.read(place + "/resident");
        const std::size_t width = candidates.shape[1];
        double lowest = std::numeric_limits<double>::infinity();
        double highest = -lowest;
        for (std::size_t i = 0; i < width; ++i) {
          lowest = std::min(lowest, values.values[step * width + i]);
          highest = std::max(highest, values.values[step * width + i]);
        }
        double largest_difference = 0;
        for (std::size_t i = 0; i < width; ++i) {
          const auto row = static_cast<std::size_t>(candidates.values[step * width + i]);
          const double ours = scores.of(head)[row];
          const double theirs = values.values[step * width + i];
          largest_difference = std::max(largest_difference, std::abs((learned ? -ours : ours) - theirs));
        }
        CHECK(largest_difference <= 1e-5 * (highest - lowest));
        for (Index row = 0; row < cache.seen(); ++row) {
          const bool stays = resident.values[step * resident.shape[1] + static_cast<std::size_t>(row)] != 0;
          REQUIRE(scores.is_dropped(head, row) != stays);
        }
      }
    }
  }
}
