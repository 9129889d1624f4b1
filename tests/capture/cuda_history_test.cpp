// Does every row find the one that it is compared with where it was put, in no more memory than was given?
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <vector>

#include "traces/capture/cuda/row_history.h"

using namespace evictsim;
using namespace evictsim::traces::capture;

namespace {

constexpr std::int64_t width = 4;
constexpr std::size_t row_bytes = width * sizeof(float);

/// Which row lies at a place.
struct Content {
  std::uint64_t request = 0;
  int layer = 0;
  std::int32_t token = -1;
  bool operator==(const Content&) const = default;
};

RowSelection select(Measure measure, int layer, std::shared_ptr<const RowMap> rows) {
  return {
      measure == Measure::attention_cosine ? Role::after_attention : Role::hidden, layer, std::move(rows), {}, measure};
}

std::shared_ptr<RowMap> map_of(std::vector<RowOrigin> origin) {
  auto map = std::make_shared<RowMap>();
  for (std::size_t row = 0; row < origin.size(); ++row) map->source.push_back(static_cast<std::int64_t>(row));
  map->origin = std::move(origin);
  return map;
}

/// The memory that plans speak of, written and read as the kernels do.
class Memory {
 public:
  explicit Memory(std::size_t places) : places_(places) {}

  void write(const RowHistory::Plan& plan, const RowSelection& selection) {
    REQUIRE(plan.kept.size() == plan.places.size());
    for (std::size_t i = 0; i < plan.kept.size(); ++i) {
      const auto place = static_cast<std::size_t>(plan.places[i]);
      REQUIRE(place < places_.size());
      const RowOrigin& origin = selection.rows->origin[static_cast<std::size_t>(plan.kept[i])];
      places_[place] = {origin.request, selection.layer, origin.token};
    }
  }
  [[nodiscard]] const Content& at(std::int64_t place) const { return places_.at(static_cast<std::size_t>(place)); }

 private:
  std::vector<Content> places_;
};

}  // namespace

TEST_CASE("rows are compared with the row before and with those of the same step, for as long as there is room") {
  std::uint64_t matched = 0, unmatched = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random(seed);
    const std::size_t places = 1 + random() % 40;
    RowHistory history(places * row_bytes + random() % row_bytes);
    Memory memory(places);
    std::array<std::int32_t, 6> next{};
    std::uint64_t missing = 0;
    for (int step = 0; step < 40; ++step) {
      std::vector<RowOrigin> origin;
      for (std::uint64_t request = 0; request < next.size(); ++request) {
        if (random() % 3 == 0) continue;
        if (random() % 12 == 0) {
          history.forget(request);
          next[request] = 0;  // another request
        }
        for (auto count = 1 + random() % 3; count > 0; --count) origin.push_back({request, next[request]++});
      }
      const auto rows = map_of(std::move(origin));
      const std::size_t count = rows->source.size();
      for (int layer = 0; layer < 2; ++layer) {
        const RowSelection steps = select(Measure::step, layer, rows);
        if (random() % 10 == 0) {
          history.miss(steps);  // the rows before are then too old for the next ones
        } else if (history.can_take(steps, width)) {
          const RowHistory::Plan plan = history.take(steps);
          for (std::size_t i = 0; i < count; ++i) {
            const RowOrigin& own = rows->origin[i];
            const Content before{own.request, layer, own.token - 1};
            REQUIRE((plan.within[i] < 0 || plan.held[i] < 0));
            if (plan.held[i] >= 0) REQUIRE(memory.at(plan.held[i]) == before);
            if (plan.within[i] >= 0 && own.token > 0) {
              const RowOrigin& other = rows->origin[static_cast<std::size_t>(plan.within[i])];
              REQUIRE(Content{other.request, layer, other.token} == before);
            }
            const bool alone = plan.within[i] < 0 && plan.held[i] < 0;
            missing += alone ? 1U : 0U;
            matched += plan.held[i] >= 0 ? 1U : 0U;
          }
          memory.write(plan, steps);
        }
        for (const auto& [hold, cosine] : {std::pair{Measure::hold_for_attention, Measure::attention_cosine},
                                           std::pair{Measure::hold_for_final, Measure::final_cosine}}) {
          const RowSelection held = select(hold, layer, rows), compared = select(cosine, layer, rows);
          if (!history.can_take(held, width)) {
            CHECK_FALSE(history.can_take(compared, width));
            missing += count;
            continue;
          }
          memory.write(history.take(held), held);
          if (random() % 10 == 0) continue;  // never asked for: the next step takes its place
          REQUIRE(history.can_take(compared, width));
          const RowHistory::Plan plan = history.take(compared);
          for (std::size_t i = 0; i < count; ++i) {
            REQUIRE(memory.at(plan.held[i]) == Content{rows->origin[i].request, layer, rows->origin[i].token});
          }
        }
        REQUIRE(history.held_bytes() <= places * row_bytes);
      }
    }
    CHECK(history.unmatched_rows() == missing);
    unmatched += missing;
    for (std::uint64_t request = 0; request < next.size(); ++request) history.forget(request);
    for (const Measure measure : {Measure::hold_for_attention, Measure::hold_for_final}) {
      history.miss(select(measure, 0, map_of({})));
    }
    CHECK(history.held_bytes() == 0);
  }
  CHECK(matched > 1000);
  CHECK(unmatched > 1000);
}

TEST_CASE("rows of another step, of another layer or of another width are not compared") {
  RowHistory history(10 * row_bytes);
  const auto rows = map_of({{1, 0}, {1, 1}}), later = map_of({{1, 2}, {1, 3}});
  REQUIRE(history.can_take(select(Measure::hold_for_attention, 0, rows), width));
  history.take(select(Measure::hold_for_attention, 0, rows));
  CHECK(history.held_bytes() == 2 * row_bytes);
  CHECK_FALSE(history.can_take(select(Measure::attention_cosine, 1, rows), width));
  CHECK_FALSE(history.can_take(select(Measure::attention_cosine, 0, later), width));
  CHECK_FALSE(history.can_take(select(Measure::final_cosine, 0, rows), width));
  CHECK(history.unmatched_rows() == 6);
  CHECK(history.can_take(select(Measure::attention_cosine, 0, rows), width));
  CHECK_THROWS_AS(history.can_take(select(Measure::step, 0, rows), width + 1), Error);
  CHECK_FALSE(RowHistory(0).can_take(select(Measure::step, 0, rows), width));
}
