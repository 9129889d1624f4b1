#pragma once
/// \file
/// The event loop of the serving simulation: arrivals, replicas, transfers.

#include <cstdint>
#include <deque>
#include <vector>

#include "sim/serving/replica.h"
#include "sim/serving/router.h"
#include "sim/serving/sample_series.h"
#include "sim/serving/serving_state.h"

namespace evictsim::sim {

/// Throws Error(invalid_argument, unsupported) for options that serve() does not take.
void check_options(const ServingOptions& options);

class Simulation {
 public:
  Simulation(const ServingOptions& options, RequestSource& source);
  ServingResult run();

 private:
  /// A request between its prefill and its decode replica.
  struct Transfer {
    SequenceId from = 0, to = 0;  ///< its sequences on both
    std::size_t prefill = 0, decode = 0;
    TransferEvent event;
  };

  void instant(const EventQueue<ServingEvent>::Event& first);
  void handle(const ServingEvent& event, Time now);
  void take_arrival();
  void add_request(const traces::WorkloadRequest& request, Time arrival);
  void arrive(SequenceId id, Time now);
  void complete(std::size_t replica, std::size_t microbatch, Time now);
  void finish(std::size_t request);
  void hand_over(SequenceId id, std::size_t prefill, Time now);
  void pull(std::size_t decode, Time now);
  void touch(std::size_t replica);
  void begin_batches(Time now);
  void let_time_pass(Time until);
  [[nodiscard]] bool refuses(const Sequence& sequence) const;
  ServingSample sample(Time time);

  const ServingOptions& options_;
  RequestSource& source_;
  ServingState state_;
  std::vector<Replica> replicas_;  ///< prefill, then decode
  std::size_t prefill_replicas_;
  Router router_, decode_router_;
  models::Femtoseconds per_request_;
  Time last_arrival_ = 0;
  std::size_t open_loop_ = 0;  ///< request that the source gave last as next()
  Time now_ = 0;               ///< up to which time was counted

  std::vector<Transfer> transfers_;
  std::vector<std::uint32_t> unused_transfers_;
  std::vector<std::deque<std::uint32_t>> pulls_;  ///< transfers that wait for room, by decode replica
  std::vector<Time> link_free_;                   ///< by prefill replica

  std::vector<ServingEvent> due_;     ///< steps that end at this instant
  std::vector<ServingEvent> copies_;  ///< replicas at which copies arrive
  std::vector<ServingEvent> others_;  ///< that else happens at it
  std::vector<std::size_t> touched_;  ///< replicas that may form batches at this instant
  std::vector<char> is_touched_;
  std::vector<SequenceId> left_;
  SampleSeries series_;
  ServingResult result_;
};

}  // namespace evictsim::sim
