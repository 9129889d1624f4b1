// Do transfers over a link take the time that latency, bandwidth, pieces and sharing say, worked out by hand?
#include <catch2/catch.hpp>
#include <vector>

#include "sim/memory/link.h"
#include "traces/error.h"

using namespace evictsim;
using sim::Direction;
using sim::Link;
using sim::LinkOptions;
using sim::Time;

namespace {

/// A byte per nanosecond each way.
LinkOptions plain() { return {.up = {.bytes_per_second = 1'000'000'000}, .down = {.bytes_per_second = 1'000'000'000}}; }

using Log = std::vector<std::pair<std::uint64_t, Time>>;

/// Everything that arrives from now on, by tag and time.
Log drain(Link& link) {
  Log log;
  while (link.next_arrival() != sim::end_of_time) {
    const Time next = link.next_arrival();
    while (const auto arrival = link.pop_arrival(next)) {
      CHECK(arrival->time == next);
      log.emplace_back(arrival->tag, arrival->time);
    }
    link.check();
  }
  return log;
}

ErrorCode code_of(const LinkOptions& options) {
  try {
    const Link link(options);
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("nothing was refused");
  return {};
}

}  // namespace

TEST_CASE("A transfer alone takes latency, bytes over bandwidth, and the time of its pieces") {
  LinkOptions options = plain();
  options.up.latency = 500;
  options.up.piece = 30;
  Link link(options);
  link.start(100, Direction::up, 1000, 4, 1);
  CHECK(link.next_arrival() == 100 + 1000 + 4 * 30 + 500);
  CHECK_FALSE(link.pop_arrival(1719));
  const auto arrival = link.pop_arrival(1720);
  REQUIRE(arrival);
  CHECK(arrival->time == 1720);
  CHECK(arrival->bytes == 1000);
  CHECK(arrival->direction == Direction::up);
  CHECK(link.next_arrival() == sim::end_of_time);
  CHECK(link.totals(Direction::up).busy == 1120);
}

TEST_CASE("Times are rounded up to whole nanoseconds once, not at every change") {
  LinkOptions options = plain();
  options.up.bytes_per_second = 3'000'000'000;
  Link link(options);
  link.start(0, Direction::up, 1, 0, 1);
  link.start(0, Direction::up, 7, 0, 2);
  link.start(0, Direction::up, 11, 0, 3);
  // One byte a nanosecond each; then 6 and 10 bytes at 1.5; then 4 bytes at 3 B/ns from 5 ns on: 6.33.
  CHECK(drain(link) == Log{{1, 1}, {2, 5}, {3, 7}});
}

TEST_CASE("Transfers share the bandwidth, also those that come later") {
  Link link(plain());
  link.start(0, Direction::up, 100, 1, 1);
  link.start(50, Direction::up, 100, 1, 2);
  // Alone for 50 ns; then both at half speed: the first needs 100 more, the second has 50 left at 150.
  CHECK(drain(link) == Log{{1, 150}, {2, 200}});
}

TEST_CASE("Weights divide the bandwidth in their ratio") {
  Link link(plain());
  link.start(0, Direction::up, 300, 1, 1, 3);
  link.start(0, Direction::up, 300, 1, 2, 1);
  // 3/4 and 1/4: the first leaves at 400, when the second has had 100 of its 300.
  CHECK(drain(link) == Log{{1, 400}, {2, 600}});
}

TEST_CASE("Directions do not disturb each other unless they have a bound together") {
  Link apart(plain());
  apart.start(0, Direction::up, 100, 1, 1);
  apart.start(0, Direction::down, 100, 1, 2);
  CHECK(drain(apart) == Log{{1, 100}, {2, 100}});

  LinkOptions bounded = plain();
  bounded.combined_bytes_per_second = 1'600'000'000;
  Link together(bounded);
  together.start(0, Direction::up, 80, 1, 1);
  together.start(0, Direction::down, 120, 1, 2);
  // Both at 0.8 B/ns until 100; 40 bytes are left, at full speed.
  CHECK(drain(together) == Log{{1, 100}, {2, 140}});
}

TEST_CASE("What a slow direction cannot use of the combined bandwidth is the other's") {
  LinkOptions options = plain();
  options.down.bytes_per_second = 200'000'000;
  options.combined_bytes_per_second = 1'000'000'000;
  Link link(options);
  link.start(0, Direction::up, 80, 1, 1);
  link.start(0, Direction::down, 100, 1, 2);
  CHECK(drain(link) == Log{{1, 100}, {2, 500}});
}

TEST_CASE("A direction that becomes idle within a nanosecond leaves the rest of it to the other") {
  LinkOptions options{.up = {.bytes_per_second = 3'000'000'000},
                      .down = {.bytes_per_second = 4'000'000'000},
                      .combined_bytes_per_second = 4'000'000'000};
  Link link(options);
  link.start(0, Direction::up, 1, 1, 1);
  link.start(0, Direction::down, 3, 1, 2);
  // Both at 2 B/ns: up is done at 0.5; 2 bytes down are left, at 4 B/ns: done at 1.0, not at 1.25.
  CHECK(drain(link) == Log{{1, 1}, {2, 1}});
}

TEST_CASE("A PCIe 5 link moves 50 GB/s one way and 83.4 GB/s both ways") {
  const LinkOptions options{.up = {.bytes_per_second = 50'000'000'000},
                            .down = {.bytes_per_second = 50'000'000'000},
                            .combined_bytes_per_second = 83'400'000'000};
  Link one(options);
  one.start(0, Direction::up, 50'000'000, 1, 1);
  CHECK(one.next_arrival() == 1'000'000);
  Link both(options);
  both.start(0, Direction::up, 41'700'000, 1, 1);
  both.start(0, Direction::down, 41'700'000, 1, 2);
  CHECK(drain(both) == Log{{1, 1'000'000}, {2, 1'000'000}});
}

TEST_CASE("A transfer that is cancelled frees its share and never arrives") {
  LinkOptions options = plain();
  options.up.latency = 1000;
  Link link(options);
  const auto first = link.start(0, Direction::up, 100, 1, 1);
  const auto second = link.start(0, Direction::up, 100, 1, 2);
  const auto third = link.start(0, Direction::up, 20, 1, 3);
  CHECK(link.cancel(60, first));  // the third left at 60, too, and is on its way; the others have had 20 each
  CHECK_FALSE(link.cancel(60, first));
  CHECK(link.cancel(70, third));
  CHECK(link.totals(Direction::up).cancelled == 120);
  CHECK(link.totals(Direction::up).in_flight() == 100);
  CHECK(drain(link) == Log{{2, 140 + 1000}});
  CHECK_FALSE(link.cancel(2000, second));
  CHECK_FALSE(link.cancel(2000, sim::TransferId{}));
  CHECK(link.totals(Direction::up).arrived == 100);
  CHECK(link.totals(Direction::up).busy == 140);
}

TEST_CASE("Nothing to move arrives after the latency") {
  LinkOptions options = plain();
  options.down.latency = 7;
  Link link(options);
  link.start(3, Direction::down, 0, 0, 1);
  CHECK(drain(link) == Log{{1, 10}});
}

TEST_CASE("Arrivals of the same time come in the order in which they left") {
  LinkOptions options = plain();
  options.up.latency = 10;
  Link link(options);
  link.start(0, Direction::up, 20, 1, 1);     // leaves at 20, arrives at 30
  link.start(20, Direction::down, 10, 1, 2);  // leaves and arrives at 30
  link.start(20, Direction::down, 10, 1, 3);  // 40, as does 2
  CHECK(drain(link) == Log{{1, 30}, {2, 40}, {3, 40}});
}

TEST_CASE("An estimate is what happens if nothing else changes") {
  LinkOptions options = plain();
  options.up.latency = 50;
  Link link(options);
  CHECK(link.estimate(Direction::up, 1000, 0) == 1050);
  link.start(0, Direction::up, 100'000, 1, 1);
  CHECK(link.estimate(Direction::up, 1000, 0) == 2050);
  CHECK(link.estimate(Direction::up, 1000, 0, 3) == 1384);  // 1000 * 4 / 3 rounded up
  link.start(0, Direction::up, 1000, 0, 2);
  CHECK(link.next_arrival() == 2050);
}

TEST_CASE("An event follows the next arrival through a queue of events") {
  sim::EventQueue<int> queue;
  sim::FollowedEvent event;
  Link link(plain());
  Log log;
  link.start(0, Direction::up, 100, 1, 1);
  follow(queue, event, link.next_arrival(), 7);
  queue.schedule(50, 8);
  std::size_t events = 0;
  while (const auto happened = queue.pop()) {
    ++events;
    REQUIRE(queue.size() <= 1);
    if (happened->payload == 8) link.start(queue.now(), Direction::up, 100, 1, 2);
    while (const auto arrival = link.pop_arrival(queue.now())) log.emplace_back(arrival->tag, arrival->time);
    follow(queue, event, link.next_arrival(), 7);
  }
  CHECK(events == 3);
  CHECK(log == Log{{1, 150}, {2, 200}});
}

TEST_CASE("Extremes neither overflow nor hang") {
  LinkOptions slow = plain();
  slow.up = {.bytes_per_second = 1, .latency = sim::end_of_time};
  slow.down = {.bytes_per_second = 1};
  Link link(slow);
  link.start(0, Direction::up, 1, 1, 1);
  link.start(0, Direction::down, std::int64_t{1} << 61U, 1, 2);
  CHECK(link.next_arrival() == sim::end_of_time);  // beyond what Time can say
  CHECK_FALSE(link.pop_arrival(sim::end_of_time - 1));
  link.check();
  LinkOptions fast = plain();
  fast.up.bytes_per_second = 100'000'000'000'000;
  Link quick(fast);
  quick.start(0, Direction::up, std::int64_t{1} << 61U, 1, 1, 1 << 20);
  quick.start(0, Direction::up, std::int64_t{1} << 61U, 1, 2);
  const Log log = drain(quick);
  REQUIRE(log.size() == 2);
  CHECK(log.back().second == 46'116'860'184'274);  // 2^62 bytes at 1e5 a nanosecond, rounded up
}

TEST_CASE("What a link cannot do is refused") {
  LinkOptions options = plain();
  options.up.bytes_per_second = 0;
  CHECK(code_of(options) == ErrorCode::invalid_argument);
  options = plain();
  options.down.bytes_per_second = 200'000'000'000'000;
  CHECK(code_of(options) == ErrorCode::invalid_argument);
  options = plain();
  options.down.latency = -1;
  CHECK(code_of(options) == ErrorCode::invalid_argument);
  options = plain();
  options.combined_bytes_per_second = -1;
  CHECK(code_of(options) == ErrorCode::invalid_argument);
  options = plain();
  options.up.piece = sim::end_of_time;
  Link link(options);
  CHECK_THROWS_AS(link.start(0, Direction::up, -1, 1, 1), Error);
  CHECK_THROWS_AS(link.start(0, Direction::up, 1, -1, 1), Error);
  CHECK_THROWS_AS(link.start(0, Direction::up, 1, 1, 1, 0), Error);
  CHECK_THROWS_AS(link.start(0, Direction::up, 1, std::int64_t{1} << 61U, 1), Error);
  CHECK_THROWS_AS(link.start(-1, Direction::up, 1, 1, 1), Error);
  link.start(9, Direction::down, std::int64_t{1} << 62U, 1, 1);
  CHECK_THROWS_AS(link.start(9, Direction::down, 1, 1, 1), Error);
  CHECK_THROWS_AS(link.pop_arrival(8), Error);
  link.check();
}
