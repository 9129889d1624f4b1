#pragma once
/// \file
/// Hardware and workloads for tests of the serving simulation, with step times that can be worked out by hand.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "sim/serving/serving.h"

namespace evictsim::tests {

inline constexpr sim::Time ms = 1'000'000;
inline constexpr models::Femtoseconds femtoseconds_per_millisecond = 1'000'000'000'000;

/// Time of a step: `step`, and something for each part of its work.
struct LinearCost final : sim::StepCost {
  models::Femtoseconds step = 0, per_sequence = 0, per_prefill_token = 0, per_pair = 0, per_entry = 0, request = 0;

  [[nodiscard]] models::Femtoseconds of(const models::StepWork& work) const override {
    return step + per_sequence * (work.decode_sequences + work.prefill_sequences) +
           per_prefill_token * work.prefill_tokens + per_pair * work.prefill_pairs + per_entry * work.decode_entries;
  }
  [[nodiscard]] models::Femtoseconds per_decode_entry() const override { return per_entry; }
  [[nodiscard]] models::Femtoseconds per_request() const override { return request; }
};

inline std::shared_ptr<LinearCost> milliseconds_per_step(std::int64_t milliseconds) {
  auto cost = std::make_shared<LinearCost>();
  cost->step = milliseconds * femtoseconds_per_millisecond;
  return cost;
}

struct RequestLists {
  std::vector<traces::WorkloadRequest> requests, follow_ups;
};

/// One request of each, in order; each finished request brings about the next of `follow_ups`, if any are left.
class ListSource final : public sim::RequestSource {
 public:
  explicit ListSource(RequestLists lists) : lists_(std::move(lists)) {}

  std::optional<traces::WorkloadRequest> next() override { return take(lists_.requests, next_); }
  /// Their arrivals count from the end of the request before.
  std::optional<traces::WorkloadRequest> finished(const sim::RequestRecord& record) override {
    auto request = take(lists_.follow_ups, next_follow_up_);
    if (request) request->arrival_seconds += sim::to_seconds(record.finish);
    return request;
  }

 private:
  static std::optional<traces::WorkloadRequest> take(const std::vector<traces::WorkloadRequest>& list,
                                                     std::size_t& next) {
    if (next == list.size()) return std::nullopt;
    return list[next++];
  }
  RequestLists lists_;
  std::size_t next_ = 0, next_follow_up_ = 0;
};

inline traces::WorkloadRequest request(double arrival, std::int64_t prompt, std::int64_t output) {
  traces::WorkloadRequest made;
  made.arrival_seconds = arrival;
  made.prompt_tokens = prompt;
  made.output_tokens = output;
  return made;
}

inline sim::ServingResult serve(const sim::ServingOptions& options, std::vector<traces::WorkloadRequest> requests) {
  ListSource source({std::move(requests), {}});
  return sim::serve(options, source);
}

}  // namespace evictsim::tests
