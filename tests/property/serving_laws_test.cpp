// Do the laws of queueing and conservation hold on random serving systems, to the nanosecond?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <utility>
#include <vector>

#include "tests/support/random_serving.h"
#include "tests/support/serving_double.h"

using namespace evictsim;
using namespace evictsim::tests;
using sim::RequestStatus;
using sim::Time;

namespace {

/// Follows a simulation from outside: who runs and waits when, and what each replica does meanwhile.
struct Witness final : sim::ServingObserver {
  struct Admission {
    Time time;
    std::size_t request;
    int replica;
  };
  std::vector<sim::StepsEvent> batches;
  std::vector<Admission> admissions;
  std::vector<sim::TransferEvent> transfers;
  std::vector<sim::CopyEvent> copies;
  std::vector<std::size_t> finished_requests;
  std::int64_t preemptions = 0;
  Time last = 0;

  void at(Time time) {
    CHECK(time >= last);
    last = time;
  }
  void steps(const sim::StepsEvent& event) override {
    at(event.end);
    CHECK(event.begin < event.end);
    CHECK(event.steps >= 1);
    batches.push_back(event);
  }
  void admitted(Time time, std::size_t request, int replica, std::int64_t cached) override {
    at(time);
    CHECK(cached >= 0);
    admissions.push_back({time, request, replica});
  }
  void preempted(Time time, std::size_t /*request*/, int /*replica*/, bool /*swapped*/) override {
    at(time);
    ++preemptions;
  }
  void copied(const sim::CopyEvent& event) override {
    at(event.end);
    CHECK(event.begin < event.end);
    CHECK(event.bytes > 0);
    copies.push_back(event);
  }
  /// Whether something was on its way between that replica and its tiers all the time.
  [[nodiscard]] bool copies_cover(int replica, std::pair<Time, Time> spell) const {
    for (bool found = true; found && spell.first < spell.second;) {
      found = false;
      for (const sim::CopyEvent& copy : copies) {
        if (copy.replica != replica || copy.begin > spell.first || copy.end <= spell.first) continue;
        spell.first = copy.end;
        found = true;
      }
    }
    return spell.first >= spell.second;
  }
  void transferred(const sim::TransferEvent& event) override {
    at(event.end);
    transfers.push_back(event);
  }
  void finished(const sim::RequestRecord& record) override {
    at(record.finish);
    finished_requests.push_back(record.index);
  }
};

constexpr std::uint32_t cases = 300;

template <typename Check>
void for_random_systems(Check check) {
  for (std::uint32_t seed = 5000; seed < 5000 + cases; ++seed) {
    RandomServing random(seed);
    sim::ServingOptions options = random.options();
    Witness witness;
    options.observer = &witness;
    const RequestLists lists = random.requests();
    ListSource source(lists);
    const sim::ServingResult result = sim::serve(options, source);
    CAPTURE(seed);
    check(options, lists, result, witness);
  }
}

}  // namespace

TEST_CASE("no request is lost: without a limit each is completed or refused, once, with all its tokens") {
  for_random_systems([](const sim::ServingOptions& options, const RequestLists& lists, const sim::ServingResult& result,
                        const Witness& witness) {
    std::int64_t completed = 0, refused = 0;
    for (const sim::RequestRecord& record : result.requests) {
      const bool done = record.status == RequestStatus::completed;
      completed += done ? 1 : 0;
      refused += record.status == RequestStatus::too_long ? 1 : 0;
      if (done) {
        CHECK(record.generated_tokens == record.output_tokens);
        CHECK(record.arrival <= record.queued);
        CHECK(record.queued <= record.scheduled);
        CHECK(record.scheduled < record.first_token);
        CHECK((record.output_tokens == 1 ? record.first_token == record.finish : record.first_token < record.finish));
        // Every token but the last generated one was computed or found; more when some were computed again.
        const std::int64_t needed = record.prompt_tokens + record.output_tokens - 1;
        CHECK(record.computed_tokens + record.cached_tokens >= needed);
        if (record.preemptions == 0) CHECK(record.computed_tokens + record.cached_tokens == needed);
      } else {
        CHECK(record.generated_tokens < record.output_tokens);
      }
    }
    CHECK(completed == result.completed);
    CHECK(refused == result.refused);
    CHECK(witness.finished_requests.size() == static_cast<std::size_t>(completed + refused));
    if (options.limit != sim::end_of_time) return;
    CHECK(completed + refused == static_cast<std::int64_t>(result.requests.size()));
    const std::size_t follow_ups = std::min(lists.follow_ups.size(), result.requests.size());
    CHECK(result.requests.size() >= lists.requests.size());
    CHECK(result.requests.size() <= lists.requests.size() + follow_ups);
  });
}

TEST_CASE("Little's law: the integral of requests in the system is the sum of their times in it") {
  for_random_systems(
      [](const sim::ServingOptions&, const RequestLists&, const sim::ServingResult& result, const Witness&) {
        sim::CountTime residence;
        for (const sim::RequestRecord& record : result.requests) {
          if (record.queued == sim::not_yet || record.status == RequestStatus::too_long) continue;
          residence.add(1, (record.finish == sim::not_yet ? result.end : record.finish) - record.queued);
        }
        sim::CountTime in_system = result.running;
        in_system.add(1, result.waiting.seconds * sim::nanoseconds_per_second + result.waiting.nanoseconds);
        CHECK(in_system == residence);
      });
}

TEST_CASE("memory is never over capacity, utilisation never above one, and busy time is that of the batches") {
  for_random_systems([](const sim::ServingOptions& options, const RequestLists&, const sim::ServingResult& result,
                        const Witness& witness) {
    std::int64_t capacity = 0;
    std::vector<Time> batch_time(result.replicas.size());
    for (const sim::StepsEvent& batch : witness.batches) {
      batch_time[static_cast<std::size_t>(batch.replica)] += batch.end - batch.begin;
    }
    for (std::size_t i = 0; i < result.replicas.size(); ++i) {
      const sim::ReplicaTotals& replica = result.replicas[i];
      capacity += replica.blocks;
      CHECK(replica.peak_used_blocks <= replica.blocks);
      CHECK(replica.busy <= result.end);
      if (options.limit == sim::end_of_time && options.replicas.pipeline_stages == 1)
        CHECK(replica.busy == batch_time[i]);
      for (std::size_t tier = 0; tier < replica.tiers.size(); ++tier) {
        CHECK(replica.tiers[tier].peak_bytes <= options.tiers->tiers[tier].capacity_bytes);
        CHECK(replica.tiers[tier].up_busy <= result.end);
        CHECK(replica.tiers[tier].down_busy <= result.end);
      }
    }
    for (const sim::ServingSample& sample : result.series) {
      CHECK(sample.used_blocks <= capacity);
      CHECK(sample.used_blocks >= 0);
      CHECK(sample.time % result.sample_period == 0);
    }
    CHECK(result.series.size() <= options.most_samples);
  });
}

TEST_CASE("work is conserved: a replica that has requests and room for them computes, or waits for a copy") {
  for_random_systems([](const sim::ServingOptions& options, const RequestLists&, const sim::ServingResult& result,
                        const Witness& witness) {
    if (options.batching != sim::Batching::continuous || options.disaggregation) return;
    if (options.tiers && options.limit != sim::end_of_time) return;  // copies that are cut off are not told
    // Idle spells of each replica: none of its requests may be in the queue during one.
    for (std::size_t i = 0; i < result.replicas.size(); ++i) {
      std::vector<std::pair<Time, Time>> spells;
      Time busy_until = 0;
      std::vector<sim::StepsEvent> batches;
      for (const sim::StepsEvent& batch : witness.batches) {
        if (batch.replica == static_cast<int>(i)) batches.push_back(batch);
      }
      std::sort(batches.begin(), batches.end(),
                [](const sim::StepsEvent& a, const sim::StepsEvent& b) { return a.begin < b.begin; });
      for (const sim::StepsEvent& batch : batches) {
        if (batch.begin > busy_until) spells.emplace_back(busy_until, batch.begin);
        busy_until = std::max(busy_until, batch.end);
      }
      std::erase_if(spells, [&](const auto& spell) { return witness.copies_cover(static_cast<int>(i), spell); });
      for (const sim::RequestRecord& record : result.requests) {
        if (record.replica != static_cast<int>(i) || record.status != RequestStatus::completed) continue;
        for (const auto& [from, to] : spells) CHECK((record.finish <= from || record.queued >= to));
      }
    }
  });
}

TEST_CASE("first come, first served: a replica first schedules its requests in the order of their arrival") {
  for_random_systems([](const sim::ServingOptions& options, const RequestLists&, const sim::ServingResult& result,
                        const Witness&) {
    for (std::size_t i = 0; i < result.replicas.size(); ++i) {
      std::vector<const sim::RequestRecord*> queue;
      for (const sim::RequestRecord& record : result.requests) {
        // Who waits for a load is overtaken.
        const bool may_load = options.tiers && record.scheduled == sim::not_yet;
        if (record.replica == static_cast<int>(i) && record.loaded_tokens == 0 && !may_load) queue.push_back(&record);
      }
      std::stable_sort(queue.begin(), queue.end(), [](const auto* a, const auto* b) { return a->queued < b->queued; });
      Time last = 0;
      for (const sim::RequestRecord* record : queue) {
        const Time scheduled = record->scheduled == sim::not_yet ? sim::end_of_time : record->scheduled;
        CHECK(scheduled >= last);
        last = scheduled;
      }
    }
  });
}

TEST_CASE("preemptions, admissions and transferred bytes are what the observer saw") {
  for_random_systems([](const sim::ServingOptions& options, const RequestLists&, const sim::ServingResult& result,
                        const Witness& witness) {
    std::int64_t of_requests = 0, of_replicas = 0, handed_over = 0;
    for (const sim::RequestRecord& record : result.requests) {
      of_requests += record.preemptions;
      if (record.decode_replica >= 0) ++handed_over;
    }
    for (const sim::ReplicaTotals& replica : result.replicas) of_replicas += replica.preemptions;
    CHECK(of_requests == witness.preemptions);
    CHECK(of_replicas == witness.preemptions);
    CHECK((options.disaggregation.has_value() || handed_over == 0));
    double bytes = 0;
    for (const sim::TransferEvent& transfer : witness.transfers) bytes += transfer.bytes;
    if (options.limit == sim::end_of_time) {
      CHECK(bytes == result.transferred_bytes);
      CHECK(static_cast<std::int64_t>(witness.transfers.size()) == handed_over);
    } else {
      CHECK(bytes <= result.transferred_bytes);
    }
  });
}
