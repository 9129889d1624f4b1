// How fast is the event queue beside the heaps of the standard library and Boost, at the hold model?
#include <benchmark/benchmark.h>

#include <boost/heap/d_ary_heap.hpp>
#include <boost/heap/pairing_heap.hpp>
#include <cmath>
#include <cstdint>
#include <queue>
#include <random>
#include <vector>

#include "sim/engine/event_queue.h"

namespace {

using namespace evictsim;
using sim::Time;

struct Payload {
  std::uint64_t kind = 0, subject = 0;
};

/// What the others order: they need the sequence number to keep equal times in order.
struct Entry {
  Time time = 0;
  std::uint64_t sequence = 0;
  Payload payload;
  friend bool operator<(const Entry& a, const Entry& b) {
    return a.time != b.time ? a.time > b.time : a.sequence > b.sequence;
  }
};

template <typename Heap>
class Ordered {
 public:
  void schedule(Time time, const Payload& payload) { heap_.push({time, sequence_++, payload}); }
  Time hold(Time ahead) {
    const Entry entry = heap_.top();
    heap_.pop();
    schedule(entry.time + ahead, entry.payload);
    return entry.time;
  }

 private:
  Heap heap_;
  std::uint64_t sequence_ = 0;
};

class Ours {
 public:
  void schedule(Time time, const Payload& payload) { queue_.schedule(time, payload); }
  Time hold(Time ahead) {
    const auto event = queue_.pop();
    queue_.schedule(event->time + ahead, event->payload);
    return event->time;
  }

 private:
  sim::EventQueue<Payload> queue_;
};

/// Exponential, with a mean of a millisecond.
std::vector<Time> increments() {
  std::mt19937_64 generator(1);
  std::exponential_distribution<double> distribution(1e-6);
  std::vector<Time> values(1U << 16U);
  for (Time& value : values) value = static_cast<Time>(distribution(generator));
  return values;
}

/// The hold model (Vaucher, Duval, CACM 18(4), 1975): the next event is taken, and one is scheduled after it.
template <typename Queue>
void hold(benchmark::State& state) {
  const auto pending = static_cast<std::size_t>(state.range(0));
  const std::vector<Time> ahead = increments();
  std::size_t next = 0;
  const auto draw = [&] { return ahead[next++ % ahead.size()]; };
  Queue queue;
  for (std::size_t i = 0; i < pending; ++i) queue.schedule(draw(), {});
  for (std::size_t i = 0; i < pending; ++i) queue.hold(draw());
  for (auto _ : state) benchmark::DoNotOptimize(queue.hold(draw()));
  state.SetItemsProcessed(state.iterations());
}

using Standard = Ordered<std::priority_queue<Entry>>;
using BoostDary = Ordered<boost::heap::d_ary_heap<Entry, boost::heap::arity<4>>>;
using BoostPairing = Ordered<boost::heap::pairing_heap<Entry>>;

}  // namespace

// A fixed number of holds: filling a queue of ten million takes longer than measuring it, and is done once.
BENCHMARK_TEMPLATE(hold, Ours)->ArgName("pending")->RangeMultiplier(10)->Range(1000, 10000000)->Iterations(1 << 21);
BENCHMARK_TEMPLATE(hold, Standard)->ArgName("pending")->RangeMultiplier(10)->Range(1000, 10000000)->Iterations(1 << 21);
BENCHMARK_TEMPLATE(hold, BoostDary)
    ->ArgName("pending")
    ->RangeMultiplier(10)
    ->Range(1000, 10000000)
    ->Iterations(1 << 21);
BENCHMARK_TEMPLATE(hold, BoostPairing)
    ->ArgName("pending")
    ->RangeMultiplier(10)
    ->Range(1000, 1000000)
    ->Iterations(1 << 21);
