#include "sim/serving/simulation.h"

#include <algorithm>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

/// Leaves room for what an instant may schedule.
constexpr Time latest = end_of_time / 2;

[[noreturn]] void too_late(double seconds) {
  throw Error(ErrorCode::invalid_argument, "time passes 146 years: expected a limit or smaller times",
              {.parameter = "simulated seconds", .value = std::to_string(seconds)});
}

}  // namespace

Simulation::Simulation(const ServingOptions& options, RequestSource& source)
    : options_(options),
      source_(source),
      state_(options),
      prefill_replicas_(static_cast<std::size_t>(options.replicas.replicas)),
      router_(options.routing, options.routing_imbalance),
      decode_router_(options.routing == Routing::round_robin ? Routing::round_robin : Routing::least_loaded, 0),
      per_request_(options.replicas.step_cost->per_request()),
      series_(options.sample_period, options.most_samples) {
  const std::size_t decode =
      options.disaggregation ? static_cast<std::size_t>(options.disaggregation->decode.replicas) : 0;
  replicas_.reserve(prefill_replicas_ + decode);
  const auto add = [&](const ReplicaGroup& group, ReplicaRole role) {
    for (int i = 0; i < group.replicas; ++i) {
      replicas_.emplace_back(state_, group, role, static_cast<int>(replicas_.size()), i);
    }
  };
  add(options.replicas, decode > 0 ? ReplicaRole::prefill : ReplicaRole::whole);
  if (decode > 0) add(options.disaggregation->decode, ReplicaRole::decode);
  pulls_.resize(replicas_.size());
  link_free_.resize(prefill_replicas_);
  is_touched_.resize(replicas_.size());
}

ServingResult Simulation::run() {
  take_arrival();
  while (const auto event = state_.events.pop_until(options_.limit)) {
    let_time_pass(event->time);
    instant(*event);
  }
  // Without a limit the queue runs empty only when nobody is left.
  const bool work_left = state_.in_system > 0 || !state_.events.empty();
  if (work_left && options_.limit != end_of_time) let_time_pass(options_.limit);
  series_.sample_before(now_ == end_of_time ? now_ : now_ + 1, [&](Time time) { return sample(time); });
  if (work_left) {
    for (Replica& replica : replicas_) replica.cut(now_);
  }
  for (Replica& replica : replicas_) result_.replicas.push_back(replica.totals(now_));
  result_.series = series_.take();
  result_.sample_period = series_.period();
  result_.end = now_;
  result_.requests = std::move(state_.requests);
  return std::move(result_);
}

/// Everything at one time: steps end, requests and transfers arrive, batches begin.
void Simulation::instant(const EventQueue<ServingEvent>::Event& first) {
  const Time now = first.time;
  if (now > latest) too_late(to_seconds(now));
  due_.clear();
  auto event = std::optional(first);
  // Steps end in the order of replicas, however long ago their end was foreseen.
  copies_.clear();
  others_.clear();
  for (; event; event = state_.events.pop_until(now)) {
    const ServingEvent::Kind kind = event->payload.kind;
    auto& list = kind == ServingEvent::Kind::steps_end ? due_ : kind == ServingEvent::Kind::copied ? copies_ : others_;
    list.push_back(event->payload);
  }
  const auto in_order = [](const ServingEvent& a, const ServingEvent& b) {
    return a.subject != b.subject ? a.subject < b.subject : a.microbatch < b.microbatch;
  };
  std::sort(due_.begin(), due_.end(), in_order);
  std::sort(copies_.begin(), copies_.end(), in_order);
  for (const ServingEvent& steps : due_) complete(steps.subject, steps.microbatch, now);
  for (const ServingEvent& copy : copies_) handle(copy, now);
  for (const ServingEvent& other : others_) handle(other, now);
  while ((event = state_.events.pop_until(now))) handle(event->payload, now);
  begin_batches(now);
  result_.changes += 1;
}

void Simulation::handle(const ServingEvent& event, Time now) {
  switch (event.kind) {
    case ServingEvent::Kind::arrival:
      arrive(event.subject, now);
      break;
    case ServingEvent::Kind::steps_end:
      // A batch interrupted between two of its steps, so nobody leaves.
      complete(event.subject, event.microbatch, now);
      break;
    case ServingEvent::Kind::batch_wait:
      touch(event.subject);
      break;
    case ServingEvent::Kind::copied:
      replicas_[event.subject].copies_arrive(now);
      touch(event.subject);
      break;
    case ServingEvent::Kind::transferred: {
      const Transfer transfer = transfers_[event.subject];
      unused_transfers_.push_back(event.subject);
      replicas_[transfer.prefill].release(transfer.from, now);
      replicas_[transfer.decode].receive(transfer.to, now);
      touch(transfer.prefill);
      touch(transfer.decode);
      if (options_.observer) options_.observer->transferred(transfer.event);
      break;
    }
  }
}

/// The next request of the open loop waits in the event queue, only one of them at a time.
void Simulation::take_arrival() {
  const auto request = source_.next();
  if (!request) return;
  const Time arrival = from_seconds(request->arrival_seconds);
  if (arrival < last_arrival_) {
    throw Error(ErrorCode::invalid_argument, "arrivals go back in time: expected requests in the order of arrival",
                {.parameter = "arrival of request " + std::to_string(state_.requests.size()),
                 .value = std::to_string(request->arrival_seconds)});
  }
  last_arrival_ = arrival;
  if (arrival > options_.limit) return;
  open_loop_ = state_.requests.size();
  add_request(*request, arrival);
}

void Simulation::add_request(const traces::WorkloadRequest& request, Time arrival) {
  const std::size_t index = state_.requests.size();
  const auto refuse = [&](const char* what, std::int64_t value, const char* right) {
    throw Error(
        ErrorCode::invalid_argument, right,
        {.parameter = std::string(what) + " of request " + std::to_string(index), .value = std::to_string(value)});
  };
  if (index == options_.most_requests) {
    refuse("number", static_cast<std::int64_t>(index), "more requests than most_requests: does the source end?");
  }
  const auto check_tokens = [&](const char* what, std::int64_t tokens) {
    if (tokens < 1 || tokens > traces::most_tokens) refuse(what, tokens, "expected 1 to 2^31 tokens");
  };
  check_tokens("prompt tokens", request.prompt_tokens);
  check_tokens("output tokens", request.output_tokens);
  if (!request.prefix_blocks.empty() && request.prefix_block_tokens < 1) {
    refuse("prefix block tokens", request.prefix_block_tokens, "expected at least 1");
  }
  if (arrival > latest) too_late(to_seconds(arrival));
  RequestRecord& record = state_.requests.emplace_back();
  record.index = index;
  record.arrival = arrival;
  record.prompt_tokens = request.prompt_tokens;
  record.output_tokens = request.output_tokens;
  record.session = request.session;
  const SequenceId id = state_.sequences.create();
  Sequence& sequence = state_.sequences[id];
  sequence.request = index;
  sequence.prompt = sequence.target = request.prompt_tokens;
  sequence.output = request.output_tokens;
  sequence.resident = source_.resident();
  if (options_.prefix_cache) prefix_hashes(request, options_.replicas.block_tokens, sequence.hashes);
  state_.events.schedule((ExactTime{arrival, 0} + per_request_).time, {ServingEvent::Kind::arrival, id, 0});
}

void Simulation::arrive(SequenceId id, Time now) {
  Sequence& sequence = state_.sequences[id];
  RequestRecord& record = state_.requests[sequence.request];
  const bool open_loop = record.index == open_loop_;
  record.queued = now;
  if (refuses(sequence)) {
    record.finish = now;
    record.status = RequestStatus::too_long;
    ++result_.refused;
    const std::size_t request = sequence.request;
    state_.sequences.destroy(id);
    finish(request);
  } else {
    const std::size_t chosen = router_.choose(std::span(replicas_).first(prefill_replicas_), sequence, now);
    record.replica = static_cast<int>(chosen);
    ++state_.in_system;
    replicas_[chosen].add_load(1);
    replicas_[chosen].enqueue(id, now);
    touch(chosen);
  }
  if (open_loop) take_arrival();
}

bool Simulation::refuses(const Sequence& sequence) const {
  const bool too_wide = !options_.chunked_prefill && options_.batching == Batching::continuous &&
                        sequence.prompt > options_.replicas.token_budget;
  if (!options_.disaggregation) return too_wide || !replicas_.front().can_hold(sequence, sequence.output);
  return too_wide || !replicas_.front().can_hold(sequence, 1) || !replicas_.back().can_hold(sequence, sequence.output);
}

void Simulation::complete(std::size_t replica, std::size_t microbatch, Time now) {
  left_.clear();
  replicas_[replica].complete(microbatch, now, left_);
  touch(replica);
  for (const SequenceId id : left_) {
    const std::size_t request = state_.sequences[id].request;
    if (state_.requests[request].status != RequestStatus::completed) {
      hand_over(id, replica, now);
      continue;
    }
    replicas_[replica].release(id, now);
    --state_.in_system;
    ++result_.completed;
    finish(request);
  }
}

void Simulation::finish(std::size_t request) {
  const RequestRecord record = state_.requests[request];
  if (options_.observer) options_.observer->finished(record);
  const auto next = source_.finished(record);
  if (!next) return;
  const Time arrival = std::max(record.finish, from_seconds(next->arrival_seconds));
  if (arrival <= options_.limit) add_request(*next, arrival);
}

void Simulation::hand_over(SequenceId id, std::size_t prefill, Time now) {
  const auto decode_replicas = std::span(replicas_).subspan(prefill_replicas_);
  const std::size_t decode = prefill_replicas_ + decode_router_.choose(decode_replicas, state_.sequences[id], now);
  const SequenceId copy = state_.sequences.create();
  const Sequence& source = state_.sequences[id];
  Sequence& target = state_.sequences[copy];
  target.request = source.request;
  target.prompt = source.prompt;
  target.output = source.output;
  target.resident = source.resident;
  target.generated = source.generated;
  target.computed = source.computed;
  target.target = source.target;
  state_.requests[source.request].decode_replica = replicas_[decode].in_group();
  std::uint32_t number = 0;
  if (unused_transfers_.empty()) {
    number = static_cast<std::uint32_t>(transfers_.size());
    transfers_.emplace_back();
  } else {
    number = unused_transfers_.back();
    unused_transfers_.pop_back();
  }
  transfers_[number] = {id, copy, prefill, decode, {}};
  pulls_[decode].push_back(number);
  replicas_[decode].add_load(1);
  replicas_[decode].interrupt(now);
  touch(decode);
}

/// Starts the transfers for which there is room, first come, first served.
void Simulation::pull(std::size_t decode, Time now) {
  auto& waiting = pulls_[decode];
  while (!waiting.empty()) {
    Transfer& transfer = transfers_[waiting.front()];
    if (!replicas_[decode].reserve(transfer.to, now)) return;
    const Sequence& source = state_.sequences[transfer.from];
    const CopyRate& link = options_.disaggregation->link;
    const auto held = static_cast<std::int64_t>(source.blocks.size()) * options_.replicas.block_tokens;
    const double bytes = options_.kv_bytes_per_token * static_cast<double>(std::min(source.computed, held));
    const Time begin = std::max(now, link_free_[transfer.prefill]);
    const double seconds = bytes / link.bytes_per_second + to_seconds(link.latency);
    if (!(to_seconds(begin) + seconds < to_seconds(latest))) too_late(to_seconds(begin) + seconds);
    const Time end = begin + from_seconds(bytes / link.bytes_per_second) + link.latency;
    link_free_[transfer.prefill] = end;
    result_.transferred_bytes += bytes;
    transfer.event = {source.request, static_cast<int>(transfer.prefill), static_cast<int>(decode), begin, end, bytes};
    state_.events.schedule(end, {ServingEvent::Kind::transferred, waiting.front(), 0});
    waiting.pop_front();
  }
}

void Simulation::touch(std::size_t replica) {
  if (is_touched_[replica]) return;
  is_touched_[replica] = 1;
  touched_.push_back(replica);
}

void Simulation::begin_batches(Time now) {
  std::sort(touched_.begin(), touched_.end());
  for (const std::size_t index : touched_) {
    is_touched_[index] = 0;
    Replica& replica = replicas_[index];
    if (!replica.between_steps()) continue;
    replica.start(now);
    if (!pulls_[index].empty()) pull(index, now);
    replica.check(options_.check_every_change);
  }
  touched_.clear();
}

void Simulation::let_time_pass(Time until) {
  series_.sample_before(until, [&](Time time) { return sample(time); });
  result_.running.add(state_.running, until - now_);
  result_.waiting.add(state_.in_system - state_.running, until - now_);
  now_ = until;
}

ServingSample Simulation::sample(Time time) {
  ServingSample sample{time, 0, state_.running, state_.in_system - state_.running, {}};
  for (Replica& replica : replicas_) {
    sample.used_blocks += replica.used_blocks(time);
    if (options_.tiers) replica.add_tier_bytes(time, sample.tier_bytes);
  }
  return sample;
}

}  // namespace evictsim::sim
