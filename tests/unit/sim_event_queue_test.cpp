// Does the event queue hand out events by time and order of scheduling, whatever is cancelled and moved?
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "sim/engine/event_queue.h"
#include "traces/error.h"

using namespace evictsim;
using sim::EventId;
using sim::Time;
using Queue = sim::EventQueue<int>;

namespace {

std::vector<int> drain(Queue& queue) {
  std::vector<int> payloads;
  while (const auto event = queue.pop()) payloads.push_back(event->payload);
  return payloads;
}

/// The same queue, slowly: what is equal in time stands in the order of insertion.
class Reference {
 public:
  void schedule(int name, Time time) { places_[name] = events_.emplace(time, name); }
  bool cancel(int name) {
    const auto place = places_.find(name);
    if (place == places_.end()) return false;
    events_.erase(place->second);
    places_.erase(place);
    return true;
  }
  bool reschedule(int name, Time time) {
    if (!cancel(name)) return false;
    schedule(name, time);
    return true;
  }
  [[nodiscard]] bool empty() const { return events_.empty(); }
  [[nodiscard]] std::size_t size() const { return events_.size(); }
  [[nodiscard]] std::pair<Time, int> first() const { return *events_.begin(); }

 private:
  std::multimap<Time, int> events_;
  std::map<int, std::multimap<Time, int>::iterator> places_;
};

/// Times that share few or many digits with now: equal ones, near ones, far ones.
Time draw_time(std::mt19937_64& generator, Time now) {
  const auto bits = static_cast<unsigned>(generator() % 50);
  const Time ahead = static_cast<Time>(generator() & ((std::uint64_t{1} << bits) - 1));
  return now + (generator() % 4 == 0 ? ahead % 3 : ahead);
}

void check_random_operations(std::uint64_t seed, int operations, std::size_t usual_size) {
  std::mt19937_64 generator(seed);
  Queue queue;
  Reference reference;
  std::vector<EventId> ids;
  for (int step = 0; step < operations; ++step) {
    const auto some = ids.empty() ? 0 : static_cast<int>(generator() % ids.size());
    switch (generator() % 8) {
      case 0:
      case 1: {
        if (queue.size() > usual_size) break;
        const Time time = draw_time(generator, queue.now());
        reference.schedule(static_cast<int>(ids.size()), time);
        ids.push_back(queue.schedule(time, static_cast<int>(ids.size())));
        break;
      }
      case 2:
        if (!ids.empty()) REQUIRE(queue.cancel(ids[static_cast<std::size_t>(some)]) == reference.cancel(some));
        break;
      case 3: {
        const Time time = draw_time(generator, queue.now());
        if (ids.empty()) break;
        REQUIRE(queue.reschedule(ids[static_cast<std::size_t>(some)], time) == reference.reschedule(some, time));
        break;
      }
      case 4: {
        const Time limit = draw_time(generator, queue.now());
        const auto event = queue.pop_until(limit);
        REQUIRE(event.has_value() == (!reference.empty() && reference.first().first <= limit));
        if (event) {
          REQUIRE(std::pair(event->time, event->payload) == reference.first());
          reference.cancel(event->payload);
        }
        REQUIRE(queue.now() == (event ? event->time : limit));
        break;
      }
      default: {
        if (queue.size() < usual_size / 2 && generator() % 2 == 0) break;
        REQUIRE(queue.next_time() == (reference.empty() ? std::nullopt : std::optional(reference.first().first)));
        const auto event = queue.pop();
        REQUIRE(event.has_value() == !reference.empty());
        if (!event) break;
        REQUIRE(std::pair(event->time, event->payload) == reference.first());
        REQUIRE(event->id == ids[static_cast<std::size_t>(event->payload)]);
        REQUIRE_FALSE(queue.pending(event->id));
        reference.cancel(event->payload);
      }
    }
    REQUIRE(queue.size() == reference.size());
  }
}

}  // namespace

TEST_CASE("events come out by time, equal times in the order of scheduling") {
  Queue queue;
  for (const auto& [time, payload] : {std::pair{70, 0}, {5, 1}, {5000, 2}, {5, 3}, {70, 4}, {0, 5}}) {
    queue.schedule(time, payload);
  }
  CHECK(queue.next_time() == 0);
  CHECK(drain(queue) == std::vector<int>{5, 1, 3, 0, 4, 2});
  CHECK(queue.now() == 5000);
  CHECK(queue.empty());
  CHECK_FALSE(queue.next_time().has_value());
}

TEST_CASE("a moved event stands behind all others of its time") {
  Queue queue;
  const EventId first = queue.schedule(10, 0);
  const EventId second = queue.schedule(10, 1);
  queue.schedule(20, 2);
  CHECK(queue.reschedule(first, 10));
  CHECK(queue.reschedule(second, 20));
  CHECK(queue.pending(second));
  CHECK(drain(queue) == std::vector<int>{0, 2, 1});
  CHECK_FALSE(queue.pending(second));
  CHECK_FALSE(queue.reschedule(second, 30));
}

TEST_CASE("what is cancelled never happens, and its name stays dead when its place is used again") {
  Queue queue;
  const EventId dead = queue.schedule(10, 0);
  CHECK(queue.cancel(dead));
  CHECK_FALSE(queue.cancel(dead));
  const EventId living = queue.schedule(10, 1);
  CHECK_FALSE(queue.cancel(dead));
  CHECK_FALSE(queue.reschedule(dead, 5));
  CHECK_FALSE(queue.pending({}));
  CHECK(queue.pending(living));
  CHECK(drain(queue) == std::vector<int>{1});
}

TEST_CASE("events may be scheduled at now while it is handled") {
  Queue queue;
  queue.schedule(64, 0);
  queue.schedule(64, 1);
  CHECK(queue.pop()->payload == 0);
  queue.schedule_after(0, 2);
  queue.schedule_after(1, 3);
  CHECK(drain(queue) == std::vector<int>{1, 2, 3});
}

TEST_CASE("a limit moves the clock only as far as nothing is left behind") {
  Queue queue;
  queue.schedule(100, 0);
  CHECK_FALSE(queue.pop_until(99).has_value());
  CHECK(queue.now() == 99);
  CHECK(queue.pop_until(100)->payload == 0);
  CHECK_FALSE(queue.pop_until(1000).has_value());
  CHECK(queue.now() == 1000);
  CHECK_FALSE(queue.pop().has_value());
  CHECK(queue.now() == 1000);
  CHECK_FALSE(queue.pop_until(10).has_value());
  CHECK(queue.now() == 1000);
}

TEST_CASE("the ends of time") {
  Queue queue;
  queue.schedule(sim::end_of_time, 1);
  queue.schedule(sim::end_of_time - 1, 0);
  CHECK(queue.next_time() == sim::end_of_time - 1);
  CHECK(drain(queue) == std::vector<int>{0, 1});
  CHECK_THROWS_AS(queue.schedule_after(1, 2), Error);
}

TEST_CASE("nothing is scheduled in the past") {
  Queue queue;
  const EventId later = queue.schedule(50, 0);
  queue.schedule(10, 1);
  queue.pop();
  CHECK_THROWS_AS(queue.schedule(9, 2), Error);
  CHECK_THROWS_AS(queue.reschedule(later, 9), Error);
  CHECK_THROWS_AS(queue.schedule_after(-1, 2), Error);
  CHECK(drain(queue) == std::vector<int>{0});
}

TEST_CASE("seconds become nanoseconds or an error") {
  CHECK(sim::from_seconds(1.5) == 1'500'000'000);
  CHECK(sim::from_seconds(0.4e-9) == 0);
  CHECK(sim::from_seconds(0.6e-9) == 1);
  CHECK(sim::to_seconds(2'500'000'000) == 2.5);
  for (const double wrong : {-1.0, 1e10, std::numeric_limits<double>::infinity(), std::nan("")}) {
    CHECK_THROWS_AS(sim::from_seconds(wrong), Error);
  }
}

TEST_CASE("random schedules, cancellations and moves agree with an ordered map") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    check_random_operations(seed, 4000, seed % 4 == 0 ? 4 : 300);
  }
}

TEST_CASE("memory is used again") {
  Queue queue;
  std::uint32_t highest = 0;
  for (int i = 0; i < 10; ++i) queue.schedule(i, i);
  for (int i = 0; i < 100000; ++i) {
    const auto event = queue.pop();
    highest = std::max(highest, queue.schedule(event->time + 1 + event->payload, event->payload).slot);
  }
  CHECK(highest < 10);
}
