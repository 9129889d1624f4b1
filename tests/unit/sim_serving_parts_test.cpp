// Do the exact arithmetic of step times, the integral of counts and the thinned series keep what their headers say?
#include <catch2/catch.hpp>
#include <cstdint>
#include <limits>
#include <random>

#include "sim/serving/sample_series.h"
#include "sim/serving/serving.h"
#include "sim/serving/step_progression.h"

using namespace evictsim;
using sim::ExactTime;
using sim::StepProgression;
using sim::Time;

TEST_CASE("a progression's ends are those of its steps added one by one") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    StepProgression steps;
    steps.start = {static_cast<Time>(random() % 1'000'000'000), static_cast<std::int64_t>(random() % 1'000'000)};
    steps.first = 1'000'000 + static_cast<std::int64_t>(random() % 20'000'000'000'000);
    steps.growth = round % 3 == 0 ? 0 : static_cast<std::int64_t>(random() % 1'000'000'000);
    ExactTime end = steps.start;
    models::Femtoseconds step = steps.first;
    for (std::int64_t count = 1; count <= 50; ++count) {
      end = end + step;
      step += steps.growth;
      REQUIRE(steps.end(count) == end);
      // Asked for its own end, and for a nanosecond around it.
      CHECK(steps.done_not_before(end.time, 50) == count);
      CHECK(steps.done_not_before(end.time + 1, 50) == std::min<std::int64_t>(count + 1, 50));
    }
    CHECK(steps.done_not_before(0, 50) == 1);
    CHECK(steps.done_not_before(sim::end_of_time, 50) == 50);
  }
}

TEST_CASE("no number of steps overflows") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (const models::Femtoseconds first : {models::Femtoseconds{1'000'000}, sim::longest_step}) {
    for (const models::Femtoseconds growth : {models::Femtoseconds{0}, models::Femtoseconds{1}, sim::longest_step}) {
      const StepProgression steps{{0, 999'999}, first, growth};
      const std::int64_t count = steps.representable(most);
      CAPTURE(first, growth, count);
      CHECK(count >= 1);
      CHECK(steps.end(count).time >= first / 1'000'000);
      // Steps sum to less than 2^63 femtoseconds, 9223 seconds, and one more of them would not.
      CHECK(steps.end(count).time <= 9224 * sim::nanoseconds_per_second);
      CHECK(steps.representable(count) == count);
      CHECK(steps.representable(count + 1) == count);
      CHECK(steps.representable(1) == 1);
    }
  }
}

TEST_CASE("a count's integral is exact beyond 64 bits of nanoseconds") {
  sim::CountTime sum;
  // 2^31 requests for a year, in two parts.
  const std::int64_t count = std::int64_t{1} << 31U;
  const Time year = 31'536'000 * sim::nanoseconds_per_second;
  sum.add(count, year / 2 + 1);
  sum.add(count, year / 2 - 2);
  CHECK(sum.seconds == count * 31'536'000 - 3);
  CHECK(sum.nanoseconds == 3 * sim::nanoseconds_per_second - count);
}

TEST_CASE("a series that gets too long keeps every second sample, on the same grid") {
  sim::SampleSeries series(10, 5);
  const auto sample = [](Time time) { return sim::ServingSample{time, time / 10, 0, 0}; };
  series.sample_before(41, sample);
  CHECK(series.period() == 10);
  series.sample_before(51, sample);
  CHECK(series.period() == 20);
  series.sample_before(1'000'000'000'000'000, sample);
  const Time period = series.period();
  const auto samples = series.take();
  CHECK(samples.size() >= 2);
  CHECK(samples.size() <= 5);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    CHECK(samples[i].time == static_cast<Time>(i) * period);
    CHECK(samples[i].used_blocks == samples[i].time / 10);
  }
}
